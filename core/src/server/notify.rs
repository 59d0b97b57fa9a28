//! What a service manager wants to know (`sd_notify(3)`); nothing is sent where nobody asks.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

/// This process serves; it is the one that the service manager has to watch from now on.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready, NotifyState::Status(status)]);
}

/// A successor is being started; [`ready`] follows, from it or from this process.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading, NotifyState::Status("a successor is starting")];
    states.extend(NotifyState::monotonic_usec_now());
    send(&states);
}

/// The process ends on request.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("finishing what is in flight")]);
}

fn send(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let mut message = String::new();
    for state in states {
        // A string takes everything.
        let _ = writeln!(message, "{state}");
    }
    if let Err(error) = send_to(&socket, message.as_bytes()) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// The library does not know of the abstract namespace, and would wait for a manager that does not read.
fn send_to(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to_addr(message, &address).map(|_| ())
}
