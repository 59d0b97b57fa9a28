//! The direct calls of the ring, answered by the world. See `ring/sys.rs`.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use super::world::Socket;
use super::{try_with, with};

pub(in crate::ring) fn now() -> Instant {
    try_with(|world| world.instant()).unwrap_or_else(Instant::now)
}

pub(in crate::ring) fn shutdown_write(fd: RawFd) {
    with(|world| {
        if let Some(end) = world.end_of(fd) {
            world.note(|| format!("{end:?} shut down"));
            world.shut_down(end);
        }
    });
}

pub(in crate::ring) fn reset_at_close(fd: RawFd) {
    with(|world| {
        if let Some(end) = world.end_of(fd) {
            world.end(end).reset_at_close = true;
        }
    });
}

pub(in crate::ring) fn copy(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let fails = with(|world| {
        let fails = world.chance(world.faults.copy);
        if fails {
            world.count("fault: no descriptor for a copy");
        }
        fails
    });
    if fails { Err(std::io::Error::from_raw_os_error(libc::EMFILE)) } else { fd.try_clone_to_owned() }
}

pub(in crate::ring) fn socket(domain: socket2::Domain) -> std::io::Result<socket2::Socket> {
    let fails = with(|world| {
        let fails = world.chance(world.faults.socket);
        if fails {
            world.count("fault: no descriptor for a socket");
            world.note_no_socket();
        }
        fails
    });
    if fails {
        return Err(std::io::Error::from_raw_os_error(libc::EMFILE));
    }
    socket2::Socket::new(domain, socket2::Type::STREAM, None)
}

pub(in crate::ring) fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    with(|world| {
        let end = world.end_of(fd)?;
        Some(world.end(end.other()).address)
    })
}

pub(in crate::ring) fn local_address(listener: BorrowedFd<'_>) -> String {
    with(|world| match world.socket_of(listener.as_raw_fd()) {
        Some(Socket::Listener(n)) => world.listeners[n as usize].address.to_string(),
        _ => String::new(),
    })
}

pub(in crate::ring) fn accept_all(listener: BorrowedFd<'_>) -> Vec<OwnedFd> {
    with(|world| {
        let Some(Socket::Listener(n)) = world.socket_of(listener.as_raw_fd()) else { return Vec::new() };
        let mut accepted = Vec::new();
        while let Some(conn) = world.listeners[n as usize].queue.pop_front() {
            world.count("accepted from the queue directly");
            accepted.extend(world.give_fd(conn).ok());
        }
        accepted
    })
}
