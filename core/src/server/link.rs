//! This process among the others of its instance: the restart roles, bound to real sockets.
//!
//! What is decided is in [`Roles`]; here are the sockets ([`Sockets`]), and what is done with them. What concerns the process
//! as a whole comes out as [`Todo`]s.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ouro_restart::message::{DrainListeners, Hello, ListenSocket, Message, ParcelChannel, RestartRequest};
use ouro_restart::parent::{self, Part, PeerId};
use ouro_restart::{
    Address, Blob, Connection, Frame, Identity, Listener, child, listen_sockets_reply, state_reply,
    totals_reply,
};
use ouro_shm::Segment;

use super::counting::Before;
use super::listen::Passed;
use super::peers::{Operator, Stranger, Watched, is_in_our_pid_namespace, log};
use super::roles::{RESTART, Roles, Step};
use super::sockets::Sockets;
use super::totals;

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
    /// The clock of the roles begins here.
    started: Instant,
    roles: Roles<Stranger>,
    sockets: Sockets,
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
    todo: VecDeque<Todo>,
}

impl Link {
    /// Begins to look for the process before.
    pub(super) fn new(options: LinkOptions) -> Self {
        let LinkOptions { address, mode, identity, child } = options;
        let mut link = Self {
            address,
            mode,
            started: Instant::now(),
            roles: Roles::new(identity, child),
            sockets: Sockets::default(),
            inherited: Vec::new(),
            offered: Vec::new(),
            segment: None,
            state: Vec::new(),
            carried: Vec::new(),
            counted: Vec::new(),
            todo: VecDeque::new(),
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
        self.roles.set_segment(segment.id());
        self.segment = Some(segment);
    }

    /// Whether counters would be lost if this process, though replaced and without connections, ended now.
    pub(super) fn must_stay(&self) -> bool {
        let others = |segment: &Segment| segment.live_processes().len() > 1;
        self.roles.must_stay(|| self.segment.as_ref().is_some_and(others))
    }

    /// Whether the process before may yet open channels on which its connections come.
    pub(super) fn expects_channels(&self) -> bool {
        self.roles.expects_channels()
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
        let connection = &mut self.sockets.peers.get_mut(&peer)?.inner;
        connection.send(&Frame::new(0, ParcelChannel { worker }), &[theirs.as_fd()]).ok()?;
        Some(ours)
    }

    /// This process has been told to stop: there is nothing to take over any more.
    pub(super) fn stopping(&mut self) {
        self.offered.clear();
        let steps = self.roles.stopping(self.now());
        self.carry_out(steps);
    }

    /// The process that still drains is to end as well.
    pub(super) fn stopping_elder(&mut self) {
        self.up(child::Event::Stopping);
    }

    /// Whether the kernel may tell another process of connections, and not us: one that hangs, or one that has died.
    pub(super) fn may_be_unheard(&mut self) -> bool {
        self.roles.may_be_unheard(self.now())
    }

    /// Does all that can be done now.
    pub(super) fn turn(&mut self) {
        self.sockets.later = false;
        while let Some(steps) = self.roles.hear(self.now(), &mut self.sockets) {
            self.carry_out(steps);
            // Descriptors that nobody wanted.
            self.sockets.fds.clear();
        }
        // Each role has a timer.
        for _ in 0..2 {
            let Some(steps) = self.roles.timer(self.now()) else { break };
            self.carry_out(steps);
        }
    }

    /// Waits until there is something to do. Dropping it loses nothing.
    pub(super) async fn ready(&self) {
        let until = self.roles.deadline().map(|at| self.started + Duration::from_millis(at));
        self.sockets.ready(until, self.roles.serves()).await;
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn up(&mut self, event: child::Event) {
        let steps = self.roles.up(self.now(), event);
        self.carry_out(steps);
    }

    fn down(&mut self, event: parent::Event) {
        let steps = self.roles.down(self.now(), event);
        self.carry_out(steps);
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect => match self.connect() {
                Ok(connection) => {
                    let pid = connection.inner.peer_pid();
                    self.sockets.up = Some(connection);
                    self.up(child::Event::Connected);
                    // What takes time comes after Hello, for which the other side waits. Only its answer needs this.
                    let segment_id = self.segment_to_share(pid);
                    self.roles.set_segment_to_share(segment_id);
                }
                Err((failure, why)) => self.up(child::Event::ConnectFailed { failure, why }),
            },
            // That it cannot be sent is seen again when receiving.
            Step::SendAbove(frame) => drop(self.sockets.up.as_mut().map(|up| up.inner.send(&frame, &[]))),
            Step::CloseAbove { may_accept } => {
                if let Some(mut up) = self.sockets.up.take() {
                    let _ = up.inner.flush();
                    self.estrange(up, may_accept);
                }
            }
            Step::LoseAbove { why } => {
                let process = self.sockets.lose_above();
                let steps = self.roles.lost_above(self.now(), process, why);
                self.carry_out(steps);
            }
            Step::AdoptSockets(sockets) => self.adopt(sockets),
            Step::AdoptState(blobs) => self.todo.push_back(Todo::AdoptState(blobs)),
            Step::CarryTotals(blobs) => self.carried = blobs,
            Step::TakeTotals(blobs) => self.todo.push_back(Todo::TakeTotals(blobs)),
            Step::Prepare { epoch, cold } => self.prepare(epoch, cold),
            Step::Ask(hello) => self.ask(hello),
            Step::ForgetQuestion => self.sockets.probe = None,
            Step::TakeOver { epoch } => {
                self.claim("the restart socket cannot be claimed: no successor will find this process");
                self.todo.push_back(Todo::TakeOver { epoch });
            }
            Step::Unbind => drop(self.sockets.listener.take().map(|listener| listener.inner.remove())),
            Step::Fail { why } => self.todo.push_back(Todo::Fail { why }),
            Step::TakeChannel { worker } => {
                let fd = std::mem::take(&mut self.sockets.fds).into_iter().next();
                if let Some(Ok(channel)) = fd.map(Connection::adopt) {
                    self.todo.push_back(Todo::TakeParcels { worker, channel: Box::new(channel) });
                }
            }
            Step::SendBelow { peer, frame } => {
                drop(self.sockets.peers.get_mut(&peer).map(|peer| peer.inner.send(&frame, &[])));
            }
            Step::SendPart { peer, request_id, part, cursor } => {
                self.send_part(peer, request_id, part, cursor);
            }
            Step::CloseBelow { peer, is_stranger } => {
                if let Some(mut connection) = self.sockets.peers.remove(&peer) {
                    let _ = connection.inner.flush();
                    if is_stranger {
                        self.estrange(connection, true);
                    }
                }
            }
            Step::LoseBelow { peer, why } => {
                let process = self.sockets.peers.remove(&peer).and_then(Stranger::behind);
                let steps = self.roles.lost_below(self.now(), peer, process, why);
                self.carry_out(steps);
            }
            Step::Restart { peer, request_id, request } => {
                if let Some(connection) = self.sockets.peers.remove(&peer) {
                    self.todo.push_back(Todo::Restart(request, Operator { connection, request_id }));
                }
            }
            Step::StopAccepting { pid } => self.todo.push_back(Todo::StopAccepting { pid }),
            Step::ClaimBack => self.claim("the restart socket cannot be claimed back"),
            Step::ResumeAccepting => self.todo.push_back(Todo::ResumeAccepting),
            Step::BeginDrain { drain, live } => self.todo.push_back(Todo::BeginDrain { drain, live }),
            Step::Exit { why, cut } => self.todo.push_back(Todo::Exit { why, cut }),
            Step::AttemptFailed { pid, why } => self.todo.push_back(Todo::AttemptFailed { pid, why }),
            Step::CloseListeners => {
                self.sockets.listener = None;
                self.offered.clear();
                self.todo.push_back(Todo::CloseListeners);
            }
            Step::Log(level, text) => log(level, &text),
        }
    }

    /// From here on nobody hears from the process at this connection, which has our listening sockets.
    fn estrange(&mut self, connection: Watched<Connection>, may_accept: bool) {
        self.roles.estrange(self.now(), Stranger::behind(connection), may_accept);
    }

    /// The number of the segment that this process could share with the one that it takes over from; 0 for none.
    fn segment_to_share(&self, pid: Option<u32>) -> u64 {
        if !is_in_our_pid_namespace(pid) {
            // Each would take the other for dead, and its counters for its own.
            return 0;
        }
        // Of a segment that is somebody else's nothing is to be had, and the parent will say who that is.
        Segment::peek(self.roles.identity().base_id).ok().flatten().map_or(0, |segment| segment.id())
    }

    /// The segment of a process that had taken over from the one before us and was killed, if that has the name of the
    /// instance and can be read.
    fn lost_segment(&self) -> Option<Segment> {
        let parent = self.roles.child().parent().filter(|_| self.roles.child().wants_totals())?;
        let named = Segment::peek(self.roles.identity().base_id).ok().flatten()?;
        parent.lost_segments.contains(&named.id()).then_some(named)
    }

    fn connect(&self) -> Result<Watched<Connection>, (child::ConnectFailure, String)> {
        let connection = Connection::connect(&self.address)?;
        Watched::new(connection)
            .map_err(|error| (child::ConnectFailure::Refused, format!("{}: {error}", self.address)))
    }

    fn adopt(&mut self, sockets: Vec<ListenSocket>) {
        for (described, fd) in sockets.into_iter().zip(std::mem::take(&mut self.sockets.fds)) {
            if described.purpose == RESTART {
                self.sockets.listener = Watched::new(Listener::adopt(fd, self.address.clone())).ok();
            } else {
                self.inherited.push(Passed { described, fd });
            }
        }
    }

    fn prepare(&mut self, epoch: u32, cold: bool) {
        if self.sockets.listener.is_none() || cold {
            match Listener::bind(&self.address, self.mode)
                .map_err(|error| error.to_string())
                .and_then(|bound| Watched::new(bound).map_err(|error| error.to_string()))
            {
                Ok(listener) => {
                    self.sockets.listener = Some(listener);
                    self.roles.has_bound();
                }
                Err(why) => return self.up(child::Event::Failed { why }),
            }
        }
        let before = match self.roles.child().parent() {
            None => Before::Nobody,
            Some(_) if self.roles.child().parent_has_other_segment() => {
                Before::Elsewhere { carried: std::mem::take(&mut self.carried), lost: self.lost_segment() }
            }
            Some(_) => Before::Sharing,
        };
        self.todo.push_back(Todo::Prepare { epoch, before });
    }

    fn ask(&mut self, hello: Hello) {
        match self.connect() {
            Ok(mut probe) => {
                if probe.inner.send(&Frame::new(1, hello), &[]).is_ok() {
                    self.sockets.probe = Some(probe);
                }
            }
            Err((child::ConnectFailure::Nobody, _)) => {
                let steps = self.roles.nobody_serves(self.now());
                self.carry_out(steps);
            }
            // The deadline decides.
            Err(_) => {}
        }
    }

    fn claim(&self, otherwise: &str) {
        if let Some(listener) = &self.sockets.listener
            && let Err(error) = listener.inner.claim()
        {
            tracing::warn!(%error, "{otherwise}");
        }
    }

    fn send_part(&mut self, peer: PeerId, request_id: u32, part: Part, cursor: u64) {
        let restart = ListenSocket { purpose: RESTART.into(), ..ListenSocket::default() };
        let own = self.sockets.listener.as_ref().map(|listener| (&restart, listener.inner.as_fd()));
        let all: Vec<(&ListenSocket, BorrowedFd<'_>)> = own
            .into_iter()
            .chain(self.offered.iter().map(|passed| (&passed.described, passed.fd.as_fd())))
            .collect();
        if (part, cursor) == (Part::Totals, 0) {
            self.counted = self.segment.as_ref().map(totals::blobs).unwrap_or_default();
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
        if let Some(peer) = self.sockets.peers.get_mut(&peer) {
            // That it cannot be sent is seen again when receiving.
            let _ = peer.inner.send(&Frame::new(request_id, message), &fds);
        }
    }
}
