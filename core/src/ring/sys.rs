//! The few calls that the ring makes beside io_uring. The simulator answers them itself.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

/// The monotonic clock.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Sends FIN behind what is in the kernel's send buffer.
pub(super) fn shutdown_write(fd: RawFd) {
    // SAFETY: a plain call on a descriptor that the slot owns and that is open.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Has the connection end with RST when its last descriptor is closed.
pub(super) fn reset_at_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    #[allow(clippy::cast_possible_truncation)] // eight bytes
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option's value is a live `linger` of the length given; the descriptor is the slot's and open.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
}

/// Another descriptor of the same socket.
pub(super) fn copy(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

/// A stream socket.
pub(super) fn socket(domain: socket2::Domain) -> std::io::Result<socket2::Socket> {
    socket2::Socket::new(domain, socket2::Type::STREAM, None)
}

/// Address of the peer of a connected socket, if it has one.
pub(super) fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is open: the slot that owns it is borrowed from a live `Socket`.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    socket2::SockRef::from(&fd).peer_addr().ok()?.as_socket()
}

/// The address that a listening socket is bound to, as configurations have it; empty if it cannot be told.
pub(super) fn local_address(listener: BorrowedFd<'_>) -> String {
    let Ok(address) = socket2::SockRef::from(&listener).local_addr() else { return String::new() };
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => String::new(),
    }
}

/// Accepts what waits in the queue of a listening socket at this moment.
pub(super) fn accept_all(listener: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let socket = socket2::SockRef::from(&listener);
    let mut accepted = Vec::new();
    if socket.set_nonblocking(true).is_ok() {
        while let Ok((fd, _)) = socket.accept() {
            // The ring wants to wait for readiness itself: accepted sockets do not inherit the listener's mode.
            accepted.push(OwnedFd::from(fd));
        }
    }
    accepted
}
