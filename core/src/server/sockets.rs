//! The sockets between this process and the others of its instance: what has come on them, and when something has.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use std::time::{Duration, Instant};

use ouro_restart::parent::PeerId;
use ouro_restart::transport::{Received, TransportError, process_has_ended};
use ouro_restart::{Connection, Listener};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::peers::{Stranger, Watched, receive};
use super::roles::{Ears, News};
use crate::ring::readiness;

/// Pause before more descriptors are sent when the kernel has too many on their way.
const LATER: Duration = Duration::from_millis(1);

/// How long nobody looks where nothing has a deadline.
const NO_DEADLINE: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Default)]
pub(super) struct Sockets {
    /// To the process before.
    pub(super) up: Option<Watched<Connection>>,
    /// The process before, which has hung up.
    dying: Option<AsyncFd<OwnedFd>>,
    /// A question whether somebody serves.
    pub(super) probe: Option<Watched<Connection>>,
    pub(super) peers: BTreeMap<PeerId, Watched<Connection>>,
    last_peer: PeerId,
    /// The restart socket.
    pub(super) listener: Option<Watched<Listener>>,
    /// Descriptors of the frame that is being handled.
    pub(super) fds: Vec<OwnedFd>,
    /// Something could not be sent for want of room for descriptors.
    pub(super) later: bool,
}

impl Sockets {
    /// Lets go of the connection to the process before, the end of which is waited for. The process, if it can be known.
    pub(super) fn lose_above(&mut self) -> Option<Stranger> {
        let process = self.up.take().and_then(Stranger::behind);
        self.dying = process.as_ref().and_then(|process| readiness(process.as_fd()).ok());
        process
    }

    /// Waits until there is something to hear, or it is time. At the restart socket only who `serves` hears something.
    pub(super) async fn ready(&self, until: Option<Instant>, serves: bool) {
        let until = match until {
            _ if self.later => Instant::now() + LATER,
            Some(until) => until,
            None => Instant::now() + NO_DEADLINE,
        };
        let sleep = tokio::time::sleep_until(until.into());
        tokio::pin!(sleep);
        poll_fn(|cx| {
            let mut ready = sleep.as_mut().poll(cx).is_ready();
            for fd in self.up.iter().chain(&self.probe).chain(self.peers.values()) {
                ready |= fd.ready.poll_read_ready(cx).is_ready();
                // What the kernel takes later is not helped by a descriptor that is writable.
                if fd.inner.has_output() && !self.later {
                    ready |= fd.ready.poll_write_ready(cx).is_ready();
                }
            }
            if let Some(process) = &self.dying {
                ready |= process.poll_read_ready(cx).is_ready();
            }
            if let (Some(listener), true) = (&self.listener, serves) {
                ready |= listener.ready.poll_read_ready(cx).is_ready();
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn news(&mut self, received: Result<Received, TransportError>) -> News {
        match received {
            Ok(received) => {
                self.fds = received.fds;
                News::Frame(received.frame, self.fds.len())
            }
            Err(error) => News::Broken {
                why: error.to_string(),
                is_nonsense: !matches!(error, TransportError::Gone | TransportError::Io(_)),
            },
        }
    }
}

impl Ears for Sockets {
    fn above(&mut self) -> Option<News> {
        let received = receive(self.up.as_mut()?, &mut self.later).transpose()?;
        Some(self.news(received))
    }

    fn answer(&mut self) -> Option<bool> {
        let received = receive(self.probe.as_mut()?, &mut self.later).transpose()?;
        Some(received.is_ok())
    }

    fn before_has_ended(&mut self) -> bool {
        let ended = self.dying.take_if(|process| process_has_ended(process.get_ref()));
        ended.is_some()
    }

    fn accept(&mut self) -> Option<PeerId> {
        let listener = self.listener.as_ref()?;
        let accepted = listener.ready.try_io(Interest::READABLE, |_| match listener.inner.accept() {
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other),
        });
        match accepted {
            Ok(Ok(Some(connection))) => {
                let connection = Watched::new(connection).ok()?;
                self.last_peer += 1;
                self.peers.insert(self.last_peer, connection);
                Some(self.last_peer)
            }
            Ok(Ok(None)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "somebody was turned away at the restart socket");
                None
            }
        }
    }

    fn below(&mut self) -> Option<(PeerId, News)> {
        let heard = |(peer, connection): (&PeerId, &mut Watched<Connection>)| {
            Some((*peer, receive(connection, &mut self.later).transpose()?))
        };
        let (peer, received) = self.peers.iter_mut().find_map(heard)?;
        Some((peer, self.news(received)))
    }
}
