//! Sessions: what happens on one downstream connection.
//!
//! A session is a plain value. Everything about the connection is in the struct and in the sockets that it owns;
//! [`Session::advance`] does whatever can be done now, without waiting, and says what it waits for. The task around it is the
//! worker's; where it waits it holds nothing: the future can be dropped there and a new one started on the same session,
//! here or, as [`Session::pack`] has it, in another process.
//!
//! Knows nothing of listeners, threads or signals.

mod access_log;
#[doc(hidden)]
pub mod bench_api;
mod context;
mod headers;
pub mod http1;
mod parcel;
mod relay;
mod reply;
pub mod tcp;

pub use access_log::{Deliver, LogBuffer, Record};
pub use context::{Context, Farewell, Full, Gate, HttpService, Permit, TcpService};

pub use parcel::{IdleParcel, SessionParcel};

use crate::base::clock::Millis;
use crate::ring::{Ring, Socket};

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

    /// The sockets of this session: the client's, and the origin's where there is one.
    fn sockets(&self) -> (&Socket, Option<&Socket>);

    /// Makes the session such that it can go on in another process, or says that it cannot now.
    fn prepare_to_move(&mut self) -> bool;

    /// The session as another process can go on with it. To be asked when its sockets are still.
    fn pack(&self) -> SessionParcel;

    /// The session goes on in another process: its end is not counted here.
    fn set_moved(&mut self);

    /// The running task is the one that drives this session from now on.
    fn attach(&self) {
        let task = self.ring().current_task();
        let (down, up) = self.sockets();
        for socket in std::iter::once(down).chain(up) {
            socket.attach(task);
        }
    }
}
