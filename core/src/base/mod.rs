//! Vocabulary that every layer shares: HTTP heads in neutral form, limits, time, slots.
//!
//! Knows nothing of sockets, rings or configuration.

pub mod clock;
pub mod http;
pub mod limits;
pub mod mutation;
pub mod random;
pub mod slots;
