//! The other processes, as the sockets see them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ouro_restart::message::RestartReport;
use ouro_restart::transport::{Flushed, Received, TransportError, process_has_ended};
use ouro_restart::{Connection, Frame, Level};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::roles::Other;
use crate::ring::readiness;

/// Who has asked for a restart and waits for a report.
pub(super) struct Operator {
    pub(super) connection: Watched<Connection>,
    pub(super) request_id: u32,
}

impl Operator {
    /// Says how the restart went.
    pub(super) fn report(mut self, report: RestartReport) {
        // Whoever has gone away does not want to know.
        let _ = self.connection.inner.send(&Frame::new(self.request_id, report), &[]);
    }
}

/// A connection or the restart socket, and when it is ready.
pub(super) struct Watched<T> {
    pub(super) inner: T,
    pub(super) ready: AsyncFd<OwnedFd>,
}

impl<T: AsFd> Watched<T> {
    pub(super) fn new(inner: T) -> io::Result<Self> {
        let ready = readiness(inner.as_fd())?;
        Ok(Self { inner, ready })
    }
}

/// A process with which there was a connection.
pub(super) struct Stranger {
    /// Readable once it has ended.
    process: OwnedFd,
}

impl Stranger {
    /// The process at the other end of this connection, which is closed; `None` if it cannot be known.
    pub(super) fn behind(connection: Watched<Connection>) -> Option<Self> {
        connection.inner.into_peer_process().map(|process| Self { process })
    }
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Other for Stranger {
    fn has_ended(&self) -> bool {
        process_has_ended(&self.process)
    }
}

/// The next frame of a connection; sends first what waits to be sent.
pub(super) fn receive(
    connection: &mut Watched<Connection>,
    later: &mut bool,
) -> Result<Option<Received>, TransportError> {
    let Watched { inner, ready } = connection;
    if inner.has_output() {
        let flushed = ready.try_io(Interest::WRITABLE, |_| match inner.flush() {
            Ok(Flushed::WhenWritable) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other),
        });
        match flushed {
            Ok(Ok(Flushed::Later)) => *later = true,
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    let received = ready.try_io(Interest::READABLE, |_| match inner.receive() {
        Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
        other => Ok(other),
    });
    // What has come while this process was stopped is to be read before its timers act, and nothing has told of it yet.
    received.unwrap_or_else(|_| inner.receive())
}

/// Whether the process with this id, `None` for one that cannot be seen from here, has the pid namespace of this one.
pub(super) fn is_in_our_pid_namespace(pid: Option<u32>) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/pid"));
    match pid.map(|pid| (of(&pid.to_string()), of("self"))) {
        None => false,
        Some((Ok(theirs), Ok(ours))) => theirs == ours,
        // It cannot be told, which is no reason to think so.
        Some(_) => true,
    }
}

/// Writes what a role has to say.
pub(super) fn log(level: Level, text: &str) {
    match level {
        Level::Warn => tracing::warn!("{text}"),
        Level::Info => tracing::info!("{text}"),
        Level::Debug => tracing::debug!("{text}"),
    }
}
