//! Frames and descriptors over a Unix socket of type SEQPACKET.
//!
//! Nothing here blocks, except [`Connection::wait`], which says how long. Whoever waits for readiness (epoll, `AsyncFd`)
//! does so on [`AsFd::as_fd`]. All descriptors are closed on exec. What a peer can make this side hold is bounded: one
//! frame on the way in, [`OUT_FRAMES_MAX`] and [`OUT_BYTES_MAX`] on the way out.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::address::Address;
use crate::child::ConnectFailure;
use crate::frame::{FRAME_BYTES_MAX, Frame, FrameError};
use crate::limits::{FRAME_FDS_MAX, LISTEN_BACKLOG, OUT_BYTES_MAX, OUT_FRAMES_MAX};
use crate::message::Abort;

/// Bytes that the kernel may hold of what is sent and not yet read: several frames of the largest size.
const SEND_BUFFER_BYTES: usize = 512 * 1024;

/// Descriptors that the kernel puts into one message at most.
const KERNEL_FDS_MAX: usize = 253;

/// Why a connection does not go on, or does not begin.
#[derive(Debug)]
pub enum TransportError {
    /// The peer has hung up.
    Gone,
    /// The peer runs as this user, whom we do not trust.
    Forbidden(u32),
    /// What came is no frame.
    Frame(FrameError),
    /// What came is longer than a frame, or its descriptors did not all get through (the table may be full).
    Truncated,
    /// More descriptors than a frame may have.
    TooManyFds(usize),
    /// The peer does not read.
    Clogged,
    /// Something else.
    Io(io::Error),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => write!(f, "it has hung up"),
            Self::Forbidden(uid) => write!(f, "it runs as user {uid}"),
            Self::Frame(error) => error.fmt(f),
            Self::Truncated => write!(
                f,
                "a message or its descriptors were cut off (the limit on open files may be too low)"
            ),
            Self::TooManyFds(count) => {
                write!(f, "a message has {count} descriptors, the limit is {FRAME_FDS_MAX}")
            }
            Self::Clogged => write!(f, "it does not read what it is sent"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TransportError {}

impl From<Errno> for TransportError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            other => Self::Io(other.into()),
        }
    }
}

/// Why the restart socket cannot be had.
#[derive(Debug)]
pub enum BindError {
    /// Somebody answers there already.
    InUse,
    /// Something is there that is no socket.
    NoSocket,
    /// Something else.
    Io(io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => write!(f, "another process with this base id is running"),
            Self::NoSocket => write!(f, "there is a file that is no socket"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BindError {}

impl From<Errno> for BindError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::ADDRINUSE => Self::InUse,
            other => Self::Io(other.into()),
        }
    }
}

/// Whether this process trusts a user: itself, and root.
#[must_use]
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// The restart socket, listening.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: Address,
    /// Device and inode of the socket file, if it is one.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Binds the address with these permissions. A socket file at which nobody answers is replaced, and at no moment is
    /// there none.
    ///
    /// # Errors
    ///
    /// [`BindError::InUse`] if somebody answers at the address, and what the system says otherwise.
    pub fn bind(address: &Address, mode: u32) -> Result<Self, BindError> {
        let fd = new_socket()?;
        let Address::Path(path) = address else {
            rustix::net::bind(&fd, &address.to_socket().map_err(BindError::Io)?)?;
            rustix::net::listen(&fd, LISTEN_BACKLOG)?;
            return Ok(Self { fd, address: address.clone(), file: None });
        };
        let new = beside(path);
        rustix::net::bind(&fd, &Address::Path(new.clone()).to_socket().map_err(BindError::Io)?)?;
        let placed = std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))
            .and_then(|()| Ok(rustix::net::listen(&fd, LISTEN_BACKLOG)?))
            .map_err(BindError::Io)
            .and_then(|()| place(&new, path, address));
        if placed.is_err() {
            // It is not at its place, so it is of no use to anybody; that it cannot be removed changes nothing.
            let _ = std::fs::remove_file(&new);
        }
        placed?;
        Ok(Self { fd, file: identity_of(path), address: address.clone() })
    }

    /// A listening socket that was handed over, bound to this address.
    #[must_use]
    pub fn adopt(fd: OwnedFd, address: Address) -> Self {
        let file = match &address {
            Address::Path(path) => identity_of(path),
            Address::Abstract(_) => None,
        };
        Self { fd, address, file }
    }

    /// Makes this process the one that peers see as their peer at this socket (`SO_PEERCRED` shows who listened last).
    /// To be called when it begins to accept, or begins again.
    ///
    /// # Errors
    ///
    /// What the system says; nothing of importance is lost.
    pub fn claim(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.fd, LISTEN_BACKLOG)?)
    }

    /// Accepts a connection of a user that is trusted; `None` if nobody waits.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forbidden`] if the peer is somebody else; it is disconnected. What the system says otherwise: if
    /// there is no descriptor left, the caller had better wait a while.
    pub fn accept(&self) -> Result<Option<Connection>, TransportError> {
        self.accept_checked(is_trusted)
    }

    /// The same with another idea of whom to trust.
    ///
    /// # Errors
    ///
    /// As [`Listener::accept`].
    pub fn accept_checked(
        &self,
        trusted: impl Fn(u32) -> bool,
    ) -> Result<Option<Connection>, TransportError> {
        match rustix::net::accept_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => Connection::checked(fd, trusted).map(Some),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the socket file is still the one of this socket: something may have cleaned up the directory.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        match &self.address {
            Address::Path(path) => self.file.is_some() && identity_of(path) == self.file,
            Address::Abstract(_) => true,
        }
    }

    /// Removes the socket file, if it is still the one of this socket. For the last process of an instance.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self) -> io::Result<()> {
        match &self.address {
            Address::Path(path) if self.is_in_place() => std::fs::remove_file(path),
            _ => Ok(()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What came.
#[derive(Debug)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// Its descriptors; dropping them closes them.
    pub fds: Vec<OwnedFd>,
}

/// How far a connection got with what is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Everything is sent.
    Done,
    /// To be called again when the descriptor is writable.
    WhenWritable,
    /// The kernel has too many descriptors on their way: to be called again after a millisecond or more.
    Later,
}

/// One connection between two processes.
pub struct Connection {
    fd: OwnedFd,
    peer_uid: u32,
    peer_pid: Option<u32>,
    /// Becomes readable when the peer has ended.
    peer_process: Option<OwnedFd>,
    out: VecDeque<Outgoing>,
    out_bytes: usize,
    buffer: Box<[u8]>,
    control: Box<[MaybeUninit<u8>]>,
}

struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Whether the process of which this is a descriptor (`pidfd_open(2)`) has ended.
#[must_use]
pub fn process_has_ended(process: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&timespec(0))) != Ok(0)
}

impl Connection {
    /// Connects to the process that listens at the address.
    ///
    /// # Errors
    ///
    /// What [`crate::child::Event::ConnectFailed`] wants to know.
    pub fn connect(address: &Address) -> Result<Self, (ConnectFailure, String)> {
        Self::connect_checked(address, is_trusted)
    }

    /// The same with another idea of whom to trust.
    ///
    /// # Errors
    ///
    /// As [`Connection::connect`].
    pub fn connect_checked(
        address: &Address,
        trusted: impl Fn(u32) -> bool,
    ) -> Result<Self, (ConnectFailure, String)> {
        let failed = |failure, error: &dyn fmt::Display| (failure, format!("{address}: {error}"));
        let to = address.to_socket().map_err(|error| failed(ConnectFailure::Refused, &error))?;
        let fd = new_socket().map_err(|error| failed(ConnectFailure::Refused, &error))?;
        rustix::net::connect(&fd, &to).map_err(|error| {
            let failure = match error {
                Errno::NOENT | Errno::CONNREFUSED => ConnectFailure::Nobody,
                Errno::AGAIN | Errno::INTR => ConnectFailure::Busy,
                _ => ConnectFailure::Refused,
            };
            failed(failure, &error)
        })?;
        Self::checked(fd, trusted).map_err(|error| failed(ConnectFailure::Refused, &error))
    }

    /// Two connections, each the peer of the other.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn pair() -> Result<(Self, Self), TransportError> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::checked(one, is_trusted)?, Self::checked(other, is_trusted)?))
    }

    fn checked(fd: OwnedFd, trusted: impl Fn(u32) -> bool) -> Result<Self, TransportError> {
        let peer = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)
            .map_err(|error| TransportError::Io(error.into()))?;
        if !trusted(peer.uid()) {
            // Or it would see the end of a connection, and try again and again.
            let own = rustix::process::geteuid().as_raw();
            let why = format!("it runs as user {own}, not as user {}", peer.uid());
            if let Ok(bytes) = Frame::new(0, Abort::new(why)).encode() {
                let _ = send_now(fd.as_fd(), &bytes, &[]);
            }
            return Err(TransportError::Forbidden(peer.uid()));
        }
        // A size below the frame's would make sending fail for good; where this fails, the default is larger.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES);
        // 0 if the peer lives in another pid namespace.
        let pid = rustix::process::Pid::from_raw(peer.pid());
        let peer_process =
            pid.and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        Ok(Self {
            fd,
            peer_uid: peer.uid(),
            peer_pid: u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0),
            peer_process,
            out: VecDeque::new(),
            out_bytes: 0,
            buffer: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
            control: vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_FDS_MAX))]
                .into_boxed_slice(),
        })
    }

    /// Takes over one end of a [`pair`](Self::pair) that another process has made.
    ///
    /// # Errors
    ///
    /// What the system says; also if it belongs to somebody who is not trusted.
    pub fn adopt(fd: OwnedFd) -> Result<Self, TransportError> {
        Self::checked(fd, is_trusted)
    }

    /// User of the peer.
    #[must_use]
    pub fn peer_uid(&self) -> u32 {
        self.peer_uid
    }

    /// Process id of the peer, unless it lives in another pid namespace.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        self.peer_pid
    }

    /// Whether the peer's process has ended; `None` if that cannot be seen from here.
    #[must_use]
    pub fn peer_has_ended(&self) -> Option<bool> {
        self.peer_process.as_ref().map(process_has_ended)
    }

    /// Closes the connection and keeps what tells whether the peer's process has ended ([`process_has_ended`]): it becomes
    /// readable then. `None` if that cannot be seen from here.
    #[must_use]
    pub fn into_peer_process(self) -> Option<OwnedFd> {
        self.peer_process
    }

    /// Sends a frame, or keeps it (and copies of the descriptors) until [`Connection::flush`] can.
    ///
    /// # Errors
    ///
    /// The connection is of no use any more, or the frame is too long.
    pub fn send(&mut self, frame: &Frame, fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        if fds.len() > FRAME_FDS_MAX {
            return Err(TransportError::TooManyFds(fds.len()));
        }
        let bytes = frame.encode().map_err(TransportError::Frame)?;
        if self.out.is_empty() && send_now(self.fd.as_fd(), &bytes, fds)? == Flushed::Done {
            return Ok(());
        }
        if self.out.len() >= OUT_FRAMES_MAX || self.out_bytes + bytes.len() > OUT_BYTES_MAX {
            return Err(TransportError::Clogged);
        }
        let fds = fds
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<Result<_, _>>()
            .map_err(TransportError::Io)?;
        self.out_bytes += bytes.len();
        self.out.push_back(Outgoing { bytes, fds });
        Ok(())
    }

    /// Sends what is kept, as far as the kernel takes it now.
    ///
    /// # Errors
    ///
    /// The connection is of no use any more.
    pub fn flush(&mut self) -> Result<Flushed, TransportError> {
        while let Some(next) = self.out.front() {
            let fds: Vec<_> = next.fds.iter().map(AsFd::as_fd).collect();
            match send_now(self.fd.as_fd(), &next.bytes, &fds)? {
                Flushed::Done => {
                    self.out_bytes -= next.bytes.len();
                    self.out.pop_front();
                }
                other => return Ok(other),
            }
        }
        Ok(Flushed::Done)
    }

    /// Ends the connection in both directions: the peer can send nothing more. What it has sent can still be received.
    pub fn shut_down(&self) {
        // It fails where the peer has done the same.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// Whether there is something to flush.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// The next frame; `None` if none is there.
    ///
    /// # Errors
    ///
    /// The connection is of no use any more: the peer is gone, or has sent something that is no frame. Descriptors that
    /// came with that are closed.
    pub fn receive(&mut self) -> Result<Option<Received>, TransportError> {
        match self.receive_lossy()? {
            Some((_, true)) => Err(TransportError::Truncated),
            received => Ok(received.map(|(received, _)| received)),
        }
    }

    /// The same for those who can say no to a frame whose descriptors did not all get through, because the table was full:
    /// tells whether that is so.
    ///
    /// # Errors
    ///
    /// As [`Connection::receive`].
    pub fn receive_lossy(&mut self) -> Result<Option<(Received, bool)>, TransportError> {
        let mut control = RecvAncillaryBuffer::new(&mut self.control);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut into = [IoSliceMut::new(&mut self.buffer)];
        let received = match rustix::net::recvmsg(&self.fd, &mut into, &mut control, flags) {
            Ok(received) => received,
            // A peer that has hung up without reading everything: the kernel says so once, ahead of what it has sent.
            Err(Errno::CONNRESET) => rustix::net::recvmsg(&self.fd, &mut into, &mut control, flags)
                .map_err(TransportError::from)?,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(TransportError::Truncated);
        }
        if received.bytes == 0 {
            return Err(TransportError::Gone);
        }
        if fds.len() > FRAME_FDS_MAX {
            return Err(TransportError::TooManyFds(fds.len()));
        }
        let datagram = self.buffer.get(..received.bytes).unwrap_or_default();
        let frame = Frame::decode(datagram).map_err(TransportError::Frame)?;
        Ok(Some((Received { frame, fds }, received.flags.contains(ReturnFlags::CTRUNC))))
    }

    /// Waits until there is something to receive, for programs that have nothing else to do. False: the time is up.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn wait(&self, timeout_ms: u32) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timespec(timeout_ms))) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("fd", &self.fd)
            .field("peer_uid", &self.peer_uid)
            .field("peer_pid", &self.peer_pid)
            .field("frames_out", &self.out.len())
            .finish_non_exhaustive()
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn send_now(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Flushed, TransportError> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "there is room for them");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, flags) {
        Ok(_) => Ok(Flushed::Done),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Flushed::WhenWritable),
        Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => Ok(Flushed::Later),
        Err(error) => Err(error.into()),
    }
}

/// Puts the new socket file into its place, unless somebody answers there.
fn place(new: &Path, path: &Path, address: &Address) -> Result<(), BindError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Some((found.dev(), found.ino())),
        Ok(_) => return Err(BindError::NoSocket),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(BindError::Io(error)),
    };
    let here = rustix::fs::CWD;
    if found.is_none() {
        return match rustix::fs::renameat_with(here, new, here, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Somebody was quicker.
            Err(Errno::EXIST) => Err(BindError::InUse),
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(new, path).map_err(BindError::Io),
            Err(error) => Err(error.into()),
        };
    }
    // Nobody answers only if the kernel says so; a queue that is full has somebody behind it.
    if !matches!(Connection::connect_checked(address, |_| true), Err((ConnectFailure::Nobody, _))) {
        return Err(BindError::InUse);
    }
    match rustix::fs::renameat_with(here, new, here, path, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // Not every file system can exchange.
        Err(Errno::INVAL | Errno::NOSYS) => return std::fs::rename(new, path).map_err(BindError::Io),
        Err(error) => return Err(error.into()),
    }
    if identity_of(new) == found {
        return std::fs::remove_file(new).map_err(BindError::Io);
    }
    // It was not the stale one any more that was replaced: somebody was quicker, and gets the place back.
    rustix::fs::renameat_with(here, new, here, path, RenameFlags::EXCHANGE)?;
    Err(BindError::InUse)
}

/// A name beside the path that no other process uses, in whatever pid namespace it lives.
fn beside(path: &Path) -> PathBuf {
    let random = std::hash::RandomState::new().build_hasher().finish();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:08x}", random & 0xffff_ffff));
    name.into()
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn timespec(timeout_ms: u32) -> rustix::event::Timespec {
    let nanoseconds = i64::from(timeout_ms % 1000) * 1_000_000;
    rustix::event::Timespec { tv_sec: i64::from(timeout_ms / 1000), tv_nsec: nanoseconds }
}
