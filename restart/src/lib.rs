//! Hot restart of the Ouro proxy: how one process takes over from another.
//!
//! Two roles, [`parent`] and [`child`], are pure machines that say [`message`]s to each other; [`transport`] carries these
//! with descriptors over a Unix socket that is found through [`address`]. `docs/life-of-a-restart.md` is the page about it.
//!
//! Carries descriptors and bytes whose meaning it does not know; knows nothing of the proxy.

pub mod address;
pub mod child;
pub mod frame;
mod identity;
pub mod limits;
pub mod message;
pub mod parent;
pub mod parts;
pub mod transport;

pub use address::{Address, Surroundings, socket_directory};
pub use child::Child;
pub use frame::Frame;
pub use identity::{Identity, Level, PROTOCOL_VERSION_MIN};
pub use limits::Deadlines;
pub use parent::Parent;
pub use parts::{Blob, listen_sockets_reply, state_reply, totals_reply};
pub use transport::{Connection, Listener};

/// Version of the protocol between parent and child. Fields and messages are added without a new version; it grows
/// only when a process of the old version could not make sense of what it is sent.
pub const PROTOCOL_VERSION: u32 = 1;
