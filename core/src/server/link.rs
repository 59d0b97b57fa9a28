//! This process among the others of its instance: the restart roles, bound to real sockets.
//!
//! The roles ([`ouro_restart::Child`] towards the process before, [`ouro_restart::Parent`] towards the one after) are
//! machines without sockets; here are the sockets. What concerns the process as a whole comes out as [`Todo`]s.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::{Duration, Instant};

use ouro_restart::child::{self, Child};
use ouro_restart::message::{DrainListeners, Hello, ListenSocket, Message, ParcelChannel, RestartRequest};
use ouro_restart::parent::{self, Parent, Part, PeerId};
use ouro_restart::transport::{Received, TransportError};
use ouro_restart::{
    Address, Blob, Connection, Deadlines, Frame, Identity, Listener, listen_sockets_reply, state_reply,
    totals_reply,
};
use ouro_shm::Segment;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::counting::Before;
use super::listen::Passed;
use super::peers::{Operator, Stranger, Watched, has_ended, is_in_our_pid_namespace, log, receive};
use super::totals;
use crate::ring::readiness;

/// Purpose of the restart socket itself.
const RESTART: &str = "restart";

/// Pause before more descriptors are sent when the kernel has too many on their way.
const LATER: Duration = Duration::from_millis(1);

/// How long connections are looked for after a process has died that accepted from the same queues as this one. The
/// kernel takes the ring of a dead process apart in a thread of its own, after everybody has seen that end: until then the
/// ring still waits for connections, and each that the kernel tells it of is one that nobody else hears of. That takes
/// milliseconds, and has been seen to take 1.5 s on a busy machine.
const AFTER_A_DEATH: Duration = Duration::from_secs(15);

/// How long the next process looks for connections if another one hangs that accepts from the same queues. It does not see
/// when that one has ended.
const WHILE_ONE_HANGS: Duration = Duration::from_secs(900);

/// What the process has to do for a restart.
pub(super) enum Todo {
    /// Bind, start workers, let them accept; then [`Link::accepting`].
    Prepare { epoch: u32, before: Before },
    /// The process before says this beside its sockets: before the commit, and once more after it.
    AdoptState(Vec<Blob>),
    /// Serve: admin interface, signals, everything.
    TakeOver { epoch: u32 },
    /// Accept nothing more, keep the sockets; then [`Link::accept_stopped`]. The process with this id serves.
    StopAccepting { pid: u32 },
    /// Take that back.
    ResumeAccepting,
    /// It will not be taken back.
    CloseListeners,
    /// End connections in this way, or move them to the process at this connection; then [`Link::drained`].
    BeginDrain { drain: DrainListeners, live: Option<PeerId> },
    /// Take connections of a worker of the process before.
    TakeParcels { worker: u32, channel: Box<Connection> },
    /// The process with this id has failed to take over; this process serves.
    AttemptFailed { pid: u32, why: String },
    /// End.
    Exit { why: String, cut: u64 },
    /// This process cannot become what it was started for.
    Fail { why: String },
    /// The process before ends: what it has counted in its own segment.
    TakeTotals(Vec<Blob>),
    /// An operator asks for a restart.
    Restart(RestartRequest, Operator),
}

/// How restarts are done.
pub(super) struct LinkOptions {
    pub(super) address: Address,
    /// Permission bits of the restart socket.
    pub(super) mode: u32,
    pub(super) identity: Identity,
    pub(super) child: child::Options,
}

/// See the module.
pub(super) struct Link {
    address: Address,
    mode: u32,
    identity: Identity,
    started: Instant,
    child: Child,
    up: Option<Watched<Connection>>,
    /// The process before us, which has hung up, if nobody else can serve once it has ended.
    dying: Option<AsyncFd<OwnedFd>>,
    /// A question whether somebody serves.
    probe: Option<Watched<Connection>>,
    parent: Option<Parent>,
    peers: HashMap<PeerId, Watched<Connection>>,
    /// Those of them that have got listening sockets.
    sharing: HashSet<PeerId>,
    /// Processes with our listening sockets to whom we do not speak any more.
    strangers: Vec<Stranger>,
    /// The ring of a dead process may hear of connections until then.
    ring_of_the_dead_until: Option<Instant>,
    next_peer: PeerId,
    listener: Option<Watched<Listener>>,
    /// This process has bound it, and not got it from another one.
    has_bound: bool,
    /// Connections at the restart socket are ours to accept.
    serves: bool,
    epoch: u32,
    /// Descriptors of the frame that is being handled.
    fds: Vec<OwnedFd>,
    inherited: Vec<Passed>,
    offered: Vec<Passed>,
    /// Where this process counts.
    segment: Option<Segment>,
    /// What the next process is told beside its sockets.
    state: Vec<Blob>,
    /// What the process before had counted elsewhere when we came.
    carried: Vec<Blob>,
    /// What we have counted, on its way to the next process.
    counted: Vec<Blob>,
    was_asked_for_totals: bool,
    todo: VecDeque<Todo>,
    /// Something could not be sent for want of room for descriptors.
    later: bool,
}

impl Link {
    /// Begins to look for the process before.
    pub(super) fn new(options: LinkOptions) -> Self {
        let LinkOptions { address, mode, identity, child } = options;
        let mut link = Self {
            address,
            mode,
            child: Child::new(identity.clone(), child, Deadlines::default()),
            identity,
            started: Instant::now(),
            up: None,
            dying: None,
            probe: None,
            parent: None,
            peers: HashMap::new(),
            sharing: HashSet::new(),
            strangers: Vec::new(),
            ring_of_the_dead_until: None,
            next_peer: 1,
            listener: None,
            has_bound: false,
            serves: false,
            epoch: 0,
            fds: Vec::new(),
            inherited: Vec::new(),
            offered: Vec::new(),
            segment: None,
            state: Vec::new(),
            carried: Vec::new(),
            counted: Vec::new(),
            was_asked_for_totals: false,
            todo: VecDeque::new(),
            later: false,
        };
        link.up(child::Event::Start);
        link
    }

    /// The next thing that the process has to do.
    pub(super) fn next(&mut self) -> Option<Todo> {
        self.todo.pop_front()
    }

    /// Listening sockets of the process before.
    pub(super) fn take_inherited(&mut self) -> Vec<Passed> {
        std::mem::take(&mut self.inherited)
    }

    /// These sockets go to the next process.
    pub(super) fn offer(&mut self, sockets: Vec<Passed>) {
        self.offered = sockets;
    }

    /// This goes to the next process beside the sockets.
    pub(super) fn set_state(&mut self, state: Vec<Blob>) {
        self.state = state;
    }

    /// This is where this process counts.
    pub(super) fn set_segment(&mut self, segment: Segment) {
        self.identity.segment_id = segment.id();
        self.child.set_counts_in(segment.id());
        self.segment = Some(segment);
    }

    /// Whether counters would be lost if this process, though replaced and without connections, ended now: those of the
    /// process before, which come to it, or those that go through its segment to the next process.
    pub(super) fn must_stay(&self) -> bool {
        let others = |segment: &Segment| segment.live_processes().len() > 1;
        self.child.holds_totals() || (self.was_asked_for_totals && self.segment.as_ref().is_some_and(others))
    }

    /// Whether somebody answers at the restart socket, or may yet.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.connect(), Err((child::ConnectFailure::Nobody, _)))
    }

    /// Sockets that are bound to these addresses are nobody's any more. A copy would keep them open, and have them take
    /// connections that nobody serves.
    pub(super) fn withdraw(&mut self, addresses: &[String]) {
        self.offered.retain(|passed| !addresses.contains(&passed.described.bound_address));
    }

    /// All workers accept; the process before may close these sockets.
    pub(super) fn accepting(&mut self, workers: u32, released: Vec<String>) {
        self.up(child::Event::WorkersAccepting { workers, released });
    }

    /// This process cannot go on.
    pub(super) fn failed(&mut self, why: String) {
        self.up(child::Event::Failed { why });
    }

    /// All workers have stopped accepting; so many connections are left.
    pub(super) fn accept_stopped(&mut self, connections: u64) {
        self.down(parent::Event::ConnectionsLeft(connections));
        self.down(parent::Event::AcceptStopped);
    }

    /// So many connections are left, while draining.
    pub(super) fn connections_left(&mut self, connections: u64) {
        self.down(parent::Event::ConnectionsLeft(connections));
    }

    /// No connection is left; so many have moved.
    pub(super) fn drained(&mut self, moved: u64) {
        self.down(parent::Event::Drained { moved });
    }

    /// Opens a channel from one of our workers to the process at this connection; our end of it.
    pub(super) fn open_channel(&mut self, peer: PeerId, worker: u32) -> Option<Connection> {
        let (ours, theirs) = Connection::pair().ok()?;
        let connection = &mut self.peers.get_mut(&peer)?.inner;
        connection.send(&Frame::new(0, ParcelChannel { worker }), &[theirs.as_fd()]).ok()?;
        Some(ours)
    }

    /// This process has been told to stop: there is nothing to take over any more.
    pub(super) fn stopping(&mut self) {
        self.offered.clear();
        self.down(parent::Event::Stopping);
        // The instance ends with the process that serves, and with no other.
        if self.serves || self.parent.is_none() {
            self.up(child::Event::Stopping);
        }
        if self.serves
            && let Some(listener) = self.listener.take()
        {
            let _ = listener.inner.remove();
        }
        self.serves = false;
    }

    /// The process that still drains is to end as well.
    pub(super) fn stopping_elder(&mut self) {
        self.up(child::Event::Stopping);
    }

    /// Whether the kernel may tell another process of connections, and not us: one that hangs, or one that has died.
    pub(super) fn may_be_unheard(&mut self) -> bool {
        let mut died = false;
        self.strangers.retain(|stranger| {
            let ended = has_ended(stranger.process.as_fd());
            died |= ended && stranger.may_accept;
            !ended
        });
        if died {
            self.somebody_died();
        }
        let of_the_dead = self.ring_of_the_dead_until.is_some_and(|until| Instant::now() < until);
        let is_told = self.child.unheard_until() > self.now();
        of_the_dead || is_told || !self.strangers.is_empty() || self.child.is_without_answer()
    }

    /// Until when that is so, as far as it can be said: the next process knows neither the dead nor those that hang.
    fn unheard_until(&mut self) -> u64 {
        if !self.may_be_unheard() {
            return 0;
        }
        let left = match self.ring_of_the_dead_until {
            _ if !self.strangers.is_empty() || self.child.is_without_answer() => WHILE_ONE_HANGS,
            Some(until) => until.saturating_duration_since(Instant::now()),
            None => Duration::ZERO,
        };
        let until = self.now().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        until.max(self.child.unheard_until())
    }

    /// A process has our listening sockets, and from here on nobody will hear from it.
    fn estrange(&mut self, process: Option<OwnedFd>, may_accept: bool) {
        match process {
            Some(process) => self.strangers.push(Stranger { process, may_accept }),
            None if may_accept => self.somebody_died(),
            None => {}
        }
    }

    fn somebody_died(&mut self) {
        self.ring_of_the_dead_until = Some(Instant::now() + AFTER_A_DEATH);
    }

    /// Does all that can be done now. Frames come before timers, and the process before us before the one after.
    pub(super) fn turn(&mut self) {
        self.later = false;
        while let Some(event) = self.next_from_above() {
            self.up(event);
        }
        if let Some(probe) = &mut self.probe
            && let Ok(Some(_)) = receive(probe, &mut self.later)
        {
            self.probe = None;
            self.up(child::Event::SomebodyServes(true));
        }
        if self.dying.as_ref().is_some_and(|process| has_ended(process.get_ref().as_fd())) {
            self.dying = None;
            self.probe = None;
            self.up(child::Event::SomebodyServes(false));
        }
        self.accept();
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            while let Some(event) = self.next_from_below(peer) {
                self.down(event);
            }
        }
        if self.child.deadline().is_some_and(|at| at <= self.now()) {
            self.up(child::Event::Timer);
        }
        if self.parent.as_ref().and_then(Parent::deadline).is_some_and(|at| at <= self.now()) {
            self.down(parent::Event::Timer);
        }
    }

    /// Waits until there is something to do. Dropping it loses nothing.
    pub(super) async fn ready(&self) {
        let parent = self.parent.as_ref().and_then(Parent::deadline);
        let at = [self.child.deadline(), parent].into_iter().flatten().min();
        let until = match at {
            _ if self.later => Instant::now() + LATER,
            Some(at) => self.started + Duration::from_millis(at),
            None => Instant::now() + Duration::from_secs(3600),
        };
        let sleep = tokio::time::sleep_until(until.into());
        tokio::pin!(sleep);
        std::future::poll_fn(|cx| {
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
            if let (Some(listener), true) = (&self.listener, self.serves) {
                ready |= listener.ready.poll_read_ready(cx).is_ready();
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn accept(&mut self) {
        while self.serves
            && let Some(listener) = &self.listener
        {
            let accepted = listener.ready.try_io(Interest::READABLE, |_| match listener.inner.accept() {
                Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                other => Ok(other),
            });
            match accepted {
                Ok(Ok(Some(connection))) => {
                    let Ok(connection) = Watched::new(connection) else { return };
                    let peer = self.next_peer;
                    self.next_peer += 1;
                    self.peers.insert(peer, connection);
                    self.down(parent::Event::PeerConnected { peer });
                }
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "somebody was turned away at the restart socket");
                    return;
                }
            }
        }
    }

    fn next_from_above(&mut self) -> Option<child::Event> {
        match receive(self.up.as_mut()?, &mut self.later) {
            Ok(None) => None,
            Ok(Some(Received { frame: Frame { message: Message::ParcelChannel(open), .. }, fds })) => {
                // The roles know nothing of channels.
                if let Some(Ok(channel)) = fds.into_iter().next().map(Connection::adopt) {
                    self.todo
                        .push_back(Todo::TakeParcels { worker: open.worker, channel: Box::new(channel) });
                }
                self.next_from_above()
            }
            Ok(Some(received)) => {
                self.fds = received.fds;
                Some(child::Event::Frame { frame: received.frame, fds: self.fds.len() })
            }
            // The connection is still there to say so.
            Err(error)
                if self.parent.is_none()
                    && !matches!(error, TransportError::Gone | TransportError::Io(_)) =>
            {
                Some(child::Event::Failed {
                    why: format!("what the running process sends is of no use: {error}"),
                })
            }
            Err(error) => {
                let process = self.up.take().and_then(|up| up.inner.into_peer_process());
                self.dying = process.as_ref().and_then(|process| readiness(process.as_fd()).ok());
                self.estrange(process, true);
                Some(child::Event::ParentGone { why: error.to_string() })
            }
        }
    }

    fn next_from_below(&mut self, peer: PeerId) -> Option<parent::Event> {
        match receive(self.peers.get_mut(&peer)?, &mut self.later) {
            Ok(None) => None,
            Ok(Some(Received {
                frame: Frame { request_id, message: Message::RestartRequest(request) },
                ..
            })) => {
                // The roles know nothing of operators.
                if let Some(connection) = self.peers.remove(&peer) {
                    self.todo.push_back(Todo::Restart(request, Operator { connection, request_id }));
                }
                Some(parent::Event::PeerGone { peer, why: "it was an operator".into() })
            }
            Ok(Some(received)) => {
                Some(parent::Event::Frame { peer, frame: received.frame, fds: received.fds.len() })
            }
            Err(error) => {
                // What it has sent last may be nonsense, and the process alive.
                let connection = self.peers.remove(&peer);
                if let (true, Some(gone)) = (self.sharing.remove(&peer), connection) {
                    self.estrange(gone.inner.into_peer_process(), true);
                }
                Some(parent::Event::PeerGone { peer, why: error.to_string() })
            }
        }
    }

    /// Tells the role of the child what has happened, and does what it wants.
    fn up(&mut self, event: child::Event) {
        let now = self.now();
        for action in self.child.handle(now, event) {
            match action {
                child::Action::Connect => match self.connect() {
                    Ok(connection) => {
                        let pid = connection.inner.peer_pid();
                        self.up = Some(connection);
                        self.up(child::Event::Connected);
                        // What takes time comes after Hello, for which the other side waits. Only its answer needs this.
                        let segment_id = self.segment_to_share(pid);
                        self.child.set_segment(segment_id);
                    }
                    Err((failure, why)) => self.up(child::Event::ConnectFailed { failure, why }),
                },
                // That it cannot be sent is seen again when receiving.
                child::Action::Send(frame) => {
                    drop(self.up.as_mut().map(|up| up.inner.send(&frame, &[])));
                }
                child::Action::Close => {
                    let may_accept = self.child.is_without_answer();
                    if let Some(mut up) = self.up.take() {
                        let _ = up.inner.flush();
                        self.estrange(up.inner.into_peer_process(), may_accept);
                    }
                }
                child::Action::AdoptListenSockets(sockets) => self.adopt(sockets),
                child::Action::AdoptState { blobs, .. } => self.todo.push_back(Todo::AdoptState(blobs)),
                child::Action::AdoptTotals { blobs, last: false } => self.carried = blobs,
                child::Action::AdoptTotals { blobs, last: true } => {
                    self.todo.push_back(Todo::TakeTotals(blobs));
                }
                child::Action::Prepare { epoch, cold } => self.prepare(epoch, cold),
                child::Action::CheckService { elder } => self.check_service(elder),
                child::Action::TakeOver { epoch } => self.take_over(epoch),
                child::Action::ParentEnded => {
                    if let Some(parent) = &mut self.parent {
                        parent.set_elder(false);
                    }
                }
                child::Action::Fail { why } => {
                    self.down(parent::Event::Stopping);
                    if self.has_bound && !self.serves {
                        // Nobody has ever served there.
                        drop(self.listener.take().map(|listener| listener.inner.remove()));
                    }
                    self.serves = false;
                    self.todo.push_back(Todo::Fail { why });
                }
                child::Action::TakeParcel { .. } => {}
                child::Action::Log(level, text) => log(level, &text),
            }
        }
    }

    /// The number of the segment that this process could share with the one that it takes over from; 0 for none.
    fn segment_to_share(&self, pid: Option<u32>) -> u64 {
        if !is_in_our_pid_namespace(pid) {
            // Each would take the other for dead, and its counters for its own.
            return 0;
        }
        // Of a segment that is somebody else's nothing is to be had, and the parent will say who that is.
        Segment::peek(self.identity.base_id).ok().flatten().map_or(0, |segment| segment.id())
    }

    /// The segment of a process that had taken over from the one before us and was killed, if that has the name of the
    /// instance and can be read.
    fn lost_segment(&self) -> Option<Segment> {
        let parent = self.child.parent().filter(|_| self.child.wants_totals())?;
        let named = Segment::peek(self.identity.base_id).ok().flatten()?;
        parent.lost_segments.contains(&named.id()).then_some(named)
    }

    fn connect(&self) -> Result<Watched<Connection>, (child::ConnectFailure, String)> {
        let connection = Connection::connect(&self.address)?;
        Watched::new(connection)
            .map_err(|error| (child::ConnectFailure::Refused, format!("{}: {error}", self.address)))
    }

    fn adopt(&mut self, sockets: Vec<ListenSocket>) {
        for (described, fd) in sockets.into_iter().zip(std::mem::take(&mut self.fds)) {
            if described.purpose == RESTART {
                self.listener = Watched::new(Listener::adopt(fd, self.address.clone())).ok();
            } else {
                self.inherited.push(Passed { described, fd });
            }
        }
    }

    fn prepare(&mut self, epoch: u32, cold: bool) {
        if self.listener.is_none() || cold {
            match Listener::bind(&self.address, self.mode)
                .map_err(|error| error.to_string())
                .and_then(|bound| Watched::new(bound).map_err(|error| error.to_string()))
            {
                Ok(listener) => (self.listener, self.has_bound) = (Some(listener), true),
                Err(why) => return self.up(child::Event::Failed { why }),
            }
        }
        let before = match self.child.parent() {
            None => Before::Nobody,
            Some(_) if self.child.parent_has_other_segment() => {
                Before::Elsewhere { carried: std::mem::take(&mut self.carried), lost: self.lost_segment() }
            }
            Some(_) => Before::Sharing,
        };
        self.todo.push_back(Todo::Prepare { epoch, before });
    }

    fn check_service(&mut self, elder: bool) {
        if elder {
            // Its end alone says nothing.
            self.dying = None;
        }
        match self.connect() {
            Ok(mut probe) => {
                let hello = Hello { probe: true, ..self.identity.hello() };
                if probe.inner.send(&Frame::new(1, hello), &[]).is_ok() {
                    self.probe = Some(probe);
                }
            }
            Err((child::ConnectFailure::Nobody, _)) => self.up(child::Event::SomebodyServes(false)),
            Err(_) => {}
        }
    }

    fn take_over(&mut self, epoch: u32) {
        if let Some(listener) = &self.listener
            && let Err(error) = listener.inner.claim()
        {
            tracing::warn!(%error, "the restart socket cannot be claimed: no successor will find this process");
        }
        let mut parent = Parent::new(self.identity.clone(), epoch, Deadlines::default());
        parent.set_elder(self.up.is_some());
        self.parent = Some(parent);
        self.epoch = epoch;
        self.serves = true;
        self.todo.push_back(Todo::TakeOver { epoch });
    }

    /// Tells the role of the parent what has happened, and does what it wants.
    fn down(&mut self, event: parent::Event) {
        let now = self.now();
        let Some(parent) = &mut self.parent else { return };
        for action in parent.handle(now, event) {
            match action {
                parent::Action::Send { peer, frame } => {
                    drop(self.peers.get_mut(&peer).map(|peer| peer.inner.send(&frame, &[])));
                }
                parent::Action::SendPart { peer, request_id, part, cursor } => {
                    self.send_part(peer, request_id, part, cursor);
                }
                parent::Action::Close { peer } => {
                    if let Some(mut connection) = self.peers.remove(&peer) {
                        let _ = connection.inner.flush();
                        if self.sharing.remove(&peer) {
                            self.estrange(connection.inner.into_peer_process(), true);
                        }
                    }
                }
                parent::Action::StopAccepting { pid } => {
                    let until = self.unheard_until();
                    if let Some(parent) = &mut self.parent {
                        parent.set_unheard_until(until);
                    }
                    self.up(child::Event::Superseded(Some(self.epoch.saturating_add(1))));
                    self.serves = false;
                    self.todo.push_back(Todo::StopAccepting { pid });
                }
                parent::Action::ResumeAccepting => {
                    self.serves = true;
                    if let Some(listener) = &self.listener
                        && let Err(error) = listener.inner.claim()
                    {
                        tracing::warn!(%error, "the restart socket cannot be claimed back");
                    }
                    self.up(child::Event::Superseded(None));
                    self.todo.push_back(Todo::ResumeAccepting);
                }
                parent::Action::BeginDrain { drain, live, peer } => {
                    self.todo.push_back(Todo::BeginDrain { drain, live: live.then_some(peer) });
                }
                parent::Action::Exit { why, cut } => self.todo.push_back(Todo::Exit { why, cut }),
                parent::Action::AttemptFailed { pid, why, .. } => {
                    self.todo.push_back(Todo::AttemptFailed { pid, why });
                }
                parent::Action::CloseListeners => {
                    self.listener = None;
                    self.offered.clear();
                    self.todo.push_back(Todo::CloseListeners);
                }
                parent::Action::ParcelsAnswered(_) => {}
                parent::Action::Log(level, text) => log(level, &text),
            }
        }
    }

    fn send_part(&mut self, peer: PeerId, request_id: u32, part: Part, cursor: u64) {
        let restart = ListenSocket { purpose: RESTART.into(), ..ListenSocket::default() };
        let own = self.listener.as_ref().map(|listener| (&restart, listener.inner.as_fd()));
        let all: Vec<(&ListenSocket, BorrowedFd<'_>)> = own
            .into_iter()
            .chain(self.offered.iter().map(|passed| (&passed.described, passed.fd.as_fd())))
            .collect();
        match part {
            Part::ListenSockets => {
                self.sharing.insert(peer);
                self.was_asked_for_totals = false;
            }
            Part::Totals if cursor == 0 => {
                self.was_asked_for_totals = true;
                self.counted = self.segment.as_ref().map(totals::blobs).unwrap_or_default();
            }
            Part::Totals | Part::State => {}
        }
        let (message, range) = match part {
            Part::ListenSockets => {
                let described: Vec<ListenSocket> = all.iter().map(|(socket, _)| (*socket).clone()).collect();
                let (reply, range) = listen_sockets_reply(&described, cursor);
                (Message::from(reply), range)
            }
            Part::State => (state_reply(&self.state, cursor).into(), 0..0),
            Part::Totals => (totals_reply(&self.counted, cursor).into(), 0..0),
        };
        let fds: Vec<BorrowedFd<'_>> = all.get(range).unwrap_or_default().iter().map(|(_, fd)| *fd).collect();
        if let Some(peer) = self.peers.get_mut(&peer) {
            // That it cannot be sent is seen again when receiving.
            let _ = peer.inner.send(&Frame::new(request_id, message), &fds);
        }
    }
}
