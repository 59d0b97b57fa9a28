//! The real descriptors behind simulated sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Names an open socket, whichever descriptor it is reached by.
pub(super) type Key = (u64, u64);

/// What a token of the epoll instance stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    /// The last descriptor of an end of a connection is closed.
    End(u32, u8),
    /// The last descriptor of a listening socket is closed.
    Listener(u32),
    /// A watched descriptor is readable: ring and operation.
    Watch(u32, u32),
}

impl Token {
    fn to_u64(self) -> u64 {
        match self {
            Self::End(conn, side) => u64::from(conn) << 8 | u64::from(side),
            Self::Listener(n) => 1 << 62 | u64::from(n),
            Self::Watch(ring, op) => 2 << 62 | u64::from(ring) << 32 | u64::from(op),
        }
    }

    fn from_u64(value: u64) -> Self {
        match value >> 62 {
            0 => Self::End((value >> 8) as u32, value as u8),
            1 => Self::Listener(value as u32),
            _ => Self::Watch((value >> 32) as u32 & 0x3fff_ffff, value as u32),
        }
    }
}

/// Sees when descriptors are closed or readable.
pub(super) struct Eyes {
    epoll: Epoll,
}

impl Eyes {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Looks for the hang-up of the other end of a pair.
    pub(super) fn await_end(&self, ours: &OwnedFd, token: Token) -> io::Result<()> {
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.epoll.add(ours, EpollEvent::new(flags, token.to_u64()))?)
    }

    /// Looks for every time that `fd` becomes readable.
    pub(super) fn watch(&self, fd: &OwnedFd, token: Token) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.to_u64()))?)
    }

    /// Looks no more: closing this descriptor would not do, because others of the same file may be open.
    pub(super) fn forget(&self, fd: &OwnedFd) {
        let _ = self.epoll.delete(fd);
    }

    /// What has happened since the last time, in an order that does not depend on the kernel.
    pub(super) fn look(&self) -> Vec<Token> {
        let mut seen = Vec::new();
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            seen.extend(events[..count].iter().map(|event| Token::from_u64(event.data())));
            if count < events.len() {
                break;
            }
        }
        seen.sort_unstable();
        seen
    }
}

/// Two ends of a pair: the world's, and one for the code under test.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((ours.into(), theirs.into()))
}

/// What a descriptor stands for.
pub(super) fn key_of(fd: RawFd) -> Option<Key> {
    // SAFETY: the descriptor is only looked at; if it is not open the call says so.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = nix::sys::stat::fstat(fd).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Makes the descriptor number `fd` stand for `theirs`.
pub(super) fn replace(fd: RawFd, theirs: &OwnedFd) -> bool {
    // SAFETY: both are open; whoever owns `fd` goes on owning it, only what it stands for changes.
    unsafe { libc::dup2(theirs.as_raw_fd(), fd) == fd }
}

/// Closes a descriptor for its owner, who has given it up.
pub(super) fn close(fd: RawFd) {
    // SAFETY: the entry that asked for this owns the descriptor (the driver gives it up when it queues the entry).
    let result = unsafe { libc::close(fd) };
    assert_eq!(result, 0, "descriptor {fd} was closed twice");
}

/// A copy of a descriptor that somebody else owns.
pub(super) fn copy(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open: whoever watches it keeps it open until the watch is removed.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
