//! Sessions: what happens on one downstream connection.
//!
//! A session is a plain value. Everything about the connection is in the struct and in the sockets that it owns;
//! [`Session::advance`] does whatever can be done now, without waiting, and says what it waits for. [`drive`] is the
//! task around it, and its one `await` holds nothing: the future can be dropped there and a new one started on the same
//! session, here or, once sessions can be serialised, in another process.
//!
//! Knows nothing of listeners, threads or signals.

mod access_log;
mod context;
mod headers;
pub mod http1;
mod relay;
mod reply;
pub mod tcp;

pub use access_log::{Deliver, LogBuffer, Record};
pub use context::{Context, Farewell, Full, Gate, HttpService, Permit, TcpService};

use crate::base::clock::Millis;
use crate::ring::Ring;

/// What a session wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To be called again when something happens, or at this time.
    Wait(Millis),
    /// Nothing: it is over.
    Done,
}

/// A connection as a value.
pub trait Session {
    /// Does all that can be done now.
    fn advance(&mut self) -> Step;

    /// The ring that the session's sockets belong to.
    fn ring(&self) -> &Ring;

    /// The running task is the one that drives this session from now on.
    fn attach(&self);
}

/// Drives a session to its end. At the `await` the session is complete.
pub async fn drive(session: &mut impl Session) {
    session.attach();
    while let Step::Wait(deadline) = session.advance() {
        session.ring().wait(deadline).await;
    }
}
