//! The control plane: everything that is not traffic, on one tokio-uring thread.
//!
//! It never takes a lock that a worker takes; it talks to workers through their mailboxes, and they to it through a
//! bounded channel that they never wait on.

pub mod access_log;
pub mod admin;
pub mod bind;
pub mod demo;
pub mod logging;
pub mod resolve;
