//! The role of the process that serves: it lets a child take what it needs, commits, drains and ends.
//!
//! A pure machine: events in, actions out, time as an argument. It owns no descriptor and starts nothing; whoever feeds
//! it does what the actions say, in their order. What always holds:
//!
//! - Until the commit nothing that a child does or suffers changes anything but the log.
//! - After the commit, a child that ends, aborts or stops answering makes the parent accept again, unless the child has
//!   itself been replaced by then. A parent that got no CPU when that happened, for so long that somebody else may have
//!   asked in vain whether it serves, asks in its turn first.
//! - Each state that depends on somebody else has a deadline. [`Parent::deadline`] says when to call with
//!   [`Event::Timer`]; frames that can be read by then are to be fed before it.

mod draining;
mod events;
mod turns;

pub use events::{Action, Event, Part, PeerId};

use crate::frame::Frame;
use crate::identity::{Identity, Level};
use crate::limits::{Deadlines, PEERS_MAX, STRAY_FRAMES_MAX};
use crate::message::{Abort, DrainListeners, Error, Hello, Message, NotUnderstood, Pong, Refusal};

/// The machine.
#[derive(Debug)]
pub struct Parent {
    identity: Identity,
    epoch: u32,
    deadlines: Deadlines,
    /// Whether the process that this one took over from still lives.
    elder: bool,
    /// See [`Parent::set_unheard_until`].
    unheard_until: u64,
    phase: Phase,
    /// Connections in the order in which they came.
    peers: Vec<Peer>,
    /// Segments of children that had taken over and failed, oldest first.
    lost_segments: Vec<u64>,
    /// When something happened last.
    handled_at: u64,
    /// This process got no CPU, and has not heard yet of all that has happened meanwhile.
    is_late: bool,
    out: Vec<Action>,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    strays: u32,
    state: PeerState,
}

#[derive(Debug)]
enum PeerState {
    /// Has not said Hello, or is a probe that has been answered.
    Guest { until: u64 },
    /// Has said Hello while it was another one's turn.
    Waiting { until: u64, request_id: u32, hello: Hello },
    /// The child that the phase speaks of.
    Child,
}

#[derive(Debug)]
enum Phase {
    /// Nobody wants to take over.
    Serving,
    /// A child takes what it needs.
    Attempt(Attempt),
    /// A child has taken over.
    Draining(Draining),
    /// This process ends.
    Ended,
}

#[derive(Debug)]
struct Attempt {
    peer: PeerId,
    epoch: u32,
    pid: u32,
    /// Whether both can move connections.
    parcels: bool,
    /// The whole attempt.
    until: u64,
    /// The step.
    step_until: u64,
    has_sockets: bool,
    has_state: bool,
    ready: bool,
}

#[derive(Debug)]
struct Draining {
    /// The connection to the child, and the same as long as it is there.
    child: PeerId,
    peer: Option<PeerId>,
    epoch: u32,
    pid: u32,
    live: bool,
    drain: DrainListeners,
    /// The commit is not acknowledged yet: the id of the request, and until when.
    unacknowledged: Option<(u32, u64)>,
    shutdown_at: u64,
    ping_at: u64,
    awaits_answer: bool,
    missed: u32,
    superseded: bool,
    connections: u64,
    /// HandoverDone is said: when this process ends without an answer.
    done_until: Option<u64>,
    /// The child is gone, and it is not yet known whether somebody else serves: until when, and why the child is gone.
    checking: Option<(u64, String)>,
}

impl Parent {
    /// The machine of a process that serves as this epoch.
    #[must_use]
    pub fn new(identity: Identity, epoch: u32, deadlines: Deadlines) -> Self {
        Self {
            identity,
            epoch,
            deadlines,
            elder: false,
            unheard_until: 0,
            phase: Phase::Serving,
            peers: Vec::new(),
            lost_segments: Vec::new(),
            handled_at: 0,
            is_late: false,
            out: Vec::new(),
        }
    }

    /// Says whether the process that this one took over from still lives: true after [`crate::child::Action::TakeOver`]
    /// unless that was a cold start, false after [`crate::child::Action::ParentEnded`]. A child is told.
    pub fn set_elder(&mut self, lives: bool) {
        self.elder = lives;
    }

    /// Says until when the kernel may tell somebody of connections who does not hear of them. To be called at
    /// [`Action::StopAccepting`]: the child that takes over is told.
    pub fn set_unheard_until(&mut self, until_ms: u64) {
        self.unheard_until = until_ms;
    }

    /// Whether this process owns the restart socket: it has not committed to a child, or has taken the service back.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Attempt(_))
    }

    /// When to call with [`Event::Timer`], in the caller's milliseconds; `None` if nothing is waited for.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let peers = self.peers.iter().filter_map(Peer::deadline);
        let phase = match &self.phase {
            Phase::Serving | Phase::Ended => None,
            Phase::Attempt(attempt) => Some(attempt.until.min(attempt.step_until)),
            Phase::Draining(draining) => Some(draining.deadline()),
        };
        peers.chain(phase).chain(self.wakes_at()).min()
    }

    /// Takes an event and says what to do.
    ///
    /// What this process's own parent has said ([`crate::Child`]) is to be read before the frames of children: if that is
    /// an Abort, this process ends, and gives [`Event::Stopping`] to this machine.
    pub fn handle(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        if matches!(self.phase, Phase::Ended) {
            return match event {
                Event::PeerConnected { peer } => vec![Action::Close { peer }],
                _ => Vec::new(),
            };
        }
        self.mind_the_time(now_ms);
        match event {
            Event::PeerConnected { peer } => self.on_connected(now_ms, peer),
            Event::Frame { peer, frame, fds } => self.on_frame(now_ms, peer, frame, fds),
            Event::PeerGone { peer, why } => self.on_gone(now_ms, peer, &why),
            Event::Timer => self.on_timer(now_ms),
            Event::AcceptStopped => self.on_accept_stopped(now_ms),
            Event::ConnectionsLeft(connections) => self.on_connections_left(connections),
            Event::Drained { moved } => self.on_drained(now_ms, moved),
            Event::SomebodyServes(serves) => self.on_somebody_serves(serves),
            Event::Stopping => self.on_stopping(),
        }
        std::mem::take(&mut self.out)
    }

    fn on_connected(&mut self, now: u64, peer: PeerId) {
        if self.peers.len() >= PEERS_MAX {
            self.log(
                Level::Warn,
                format!("a connection to the restart socket is closed: there are {PEERS_MAX}"),
            );
            self.out.push(Action::Close { peer });
            return;
        }
        let state = PeerState::Guest { until: now.saturating_add(self.deadlines.hello_ms) };
        self.peers.push(Peer { id: peer, strays: 0, state });
        if !self.serves() {
            self.refuse(peer, 0, Refusal::Moved, "another process serves now");
        }
    }

    fn on_frame(&mut self, now: u64, id: PeerId, frame: Frame, fds: usize) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) else { return };
        let Frame { request_id, message } = frame;
        let known = !matches!(message, Message::Unknown(_));
        if fds > 0 && known {
            let text = format!("{} came with {fds} descriptors", message.name());
            self.fault(now, id, request_id, Refusal::OutOfOrder, &text);
            return;
        }
        if let Message::Unknown(_) | Message::NotUnderstood(_) | Message::Ping(_) = message {
            peer.strays += 1;
            if peer.strays > STRAY_FRAMES_MAX {
                let text = format!("more than {STRAY_FRAMES_MAX} messages without sense");
                self.fault(now, id, request_id, Refusal::OutOfOrder, &text);
                return;
            }
        }
        match message {
            Message::Unknown(kind) => {
                let kind = u32::from(kind);
                self.send(id, request_id, NotUnderstood { kind });
            }
            Message::NotUnderstood(NotUnderstood { kind }) => {
                self.log(Level::Debug, format!("the other process does not know messages of kind {kind}"));
            }
            Message::Ping(_) => self.send(id, request_id, Pong {}),
            Message::Abort(Abort { reason }) => self.on_abort(now, id, &reason),
            Message::Hello(hello) if matches!(peer.state, PeerState::Guest { .. }) => {
                self.on_hello(now, id, request_id, hello);
            }
            message if matches!(peer.state, PeerState::Child) => self.on_child(now, id, request_id, message),
            message => {
                let text = format!("{} makes no sense here", message.name());
                self.fault(now, id, request_id, Refusal::OutOfOrder, &text);
            }
        }
        // Whatever it was, the child has shown that it is alive.
        if let Phase::Draining(draining) = &mut self.phase
            && draining.peer == Some(id)
        {
            draining.awaits_answer = false;
            draining.missed = 0;
        }
    }

    /// A message from the child of this phase.
    fn on_child(&mut self, now: u64, id: PeerId, request_id: u32, message: Message) {
        let part = match &message {
            Message::ListenSockets(request) => Some((Part::ListenSockets, request.cursor)),
            Message::State(request) => Some((Part::State, request.cursor)),
            Message::Totals(request) => Some((Part::Totals, request.cursor)),
            _ => None,
        };
        if let Some((part, cursor)) = part {
            if let Phase::Attempt(attempt) = &mut self.phase {
                attempt.has_sockets |= part == Part::ListenSockets;
                attempt.has_state |= part == Part::State;
                // Once it has asked for the state, the child may be busy with itself before it says anything.
                let wait =
                    if attempt.has_state { self.deadlines.parent_prepare_ms } else { self.deadlines.step_ms };
                attempt.step_until = now.saturating_add(wait);
            }
            self.out.push(Action::SendPart { peer: id, request_id, part, cursor });
            return;
        }
        match (&mut self.phase, message) {
            (Phase::Attempt(attempt), Message::ChildReady(ready))
                if attempt.has_sockets && attempt.has_state =>
            {
                attempt.ready = true;
                attempt.step_until = now.saturating_add(self.deadlines.step_ms);
                self.log(
                    Level::Info,
                    format!("{} workers of the new process accept connections", ready.workers),
                );
            }
            (Phase::Attempt(attempt), Message::DrainListeners(drain)) if attempt.ready => {
                let child = (attempt.epoch, attempt.pid, attempt.parcels);
                self.commit(now, id, request_id, child, drain);
            }
            (Phase::Draining(_), Message::Pong(_)) => {}
            (Phase::Draining(_), Message::ParcelReply(reply)) => {
                self.out.push(Action::ParcelsAnswered(reply))
            }
            (Phase::Draining(draining), Message::TerminateParent(_)) => {
                let cut = draining.connections;
                self.end("the new process says so", cut);
            }
            (Phase::Draining(draining), Message::Superseded(superseded)) => {
                draining.superseded = superseded.superseded;
                draining.ping_at = now.saturating_add(self.deadlines.ping_ms);
                let text = if superseded.superseded {
                    format!("the new process has been replaced by restart epoch {}", superseded.by_epoch)
                } else {
                    "the new process serves again, because the next one failed".to_owned()
                };
                self.log(Level::Info, text);
            }
            (_, message) => {
                let text = format!("{} makes no sense at this step", message.name());
                self.fault(now, id, request_id, Refusal::OutOfOrder, &text);
            }
        }
    }

    fn on_abort(&mut self, now: u64, id: PeerId, reason: &str) {
        self.out.push(Action::Close { peer: id });
        if self.peers.iter().any(|peer| peer.id == id && matches!(peer.state, PeerState::Guest { .. })) {
            self.log(Level::Warn, format!("a process at the restart socket gives up: {reason}"));
        }
        self.on_gone(now, id, &format!("it says: {reason}"));
    }

    fn on_gone(&mut self, now: u64, id: PeerId, why: &str) {
        let Some(index) = self.peers.iter().position(|peer| peer.id == id) else { return };
        let peer = self.peers.remove(index);
        match (&mut self.phase, peer.state) {
            (Phase::Attempt(attempt), PeerState::Child) => {
                let (epoch, pid) = (attempt.epoch, attempt.pid);
                self.out.push(Action::AttemptFailed { epoch, pid, why: why.to_owned() });
                self.log(
                    Level::Warn,
                    format!("restart epoch {epoch} failed before it took over ({why}); this process goes on"),
                );
                self.next_attempt(now);
            }
            (Phase::Draining(draining), PeerState::Child) => {
                draining.peer = None;
                if draining.superseded {
                    self.stand_back("the new process, itself replaced, has ended");
                } else if self.is_late {
                    self.check_service(now, format!("the new process is gone: {why}"));
                } else {
                    self.take_back(&format!("the new process is gone: {why}"));
                }
            }
            (_, PeerState::Waiting { .. }) => {
                self.log(Level::Info, format!("a process that waited for its turn is gone: {why}"));
            }
            (_, _) => self.log(Level::Debug, format!("a connection to the restart socket ended: {why}")),
        }
    }

    fn on_timer(&mut self, now: u64) {
        // What has come meanwhile came before.
        self.is_late = false;
        let late: Vec<_> = self
            .peers
            .iter()
            .filter(|peer| peer.deadline().is_some_and(|at| at <= now))
            .map(Peer::open_request)
            .collect();
        for (id, request_id) in late {
            // Another one's end may have made it this one's turn.
            let is_late = |peer: &Peer| peer.id == id && peer.deadline().is_some_and(|at| at <= now);
            match self.peers.iter().find(|peer| is_late(peer)).map(|peer| &peer.state) {
                Some(PeerState::Waiting { .. }) => {
                    self.refuse(
                        id,
                        request_id,
                        Refusal::Busy,
                        "another restart is going on and does not end",
                    );
                }
                Some(_) => self.refuse(id, request_id, Refusal::Deadline, "no Hello came"),
                None => {}
            }
        }
        match &self.phase {
            Phase::Attempt(attempt) if attempt.until.min(attempt.step_until) <= now => {
                let id = attempt.peer;
                self.fault(now, id, 0, Refusal::Deadline, "it takes too long");
            }
            Phase::Draining(_) => self.drain_timer(now),
            _ => {}
        }
    }

    fn on_stopping(&mut self) {
        match &self.phase {
            Phase::Draining(draining) => {
                let cut = draining.connections;
                self.end("it is being stopped", cut);
            }
            _ => {
                let all: Vec<_> = self.peers.iter().map(Peer::open_request).collect();
                for (id, request_id) in all {
                    self.refuse(id, request_id, Refusal::Stopping, "the running process is being stopped");
                }
                self.phase = Phase::Ended;
            }
        }
    }

    /// Says no to a peer that is not the child, and closes.
    fn refuse(&mut self, id: PeerId, request_id: u32, refusal: Refusal, text: &str) {
        let level = if refusal == Refusal::Moved { Level::Debug } else { Level::Warn };
        self.log(level, format!("a process at the restart socket is refused: {text}"));
        self.send(id, request_id, Error::new(refusal, text));
        self.out.push(Action::Close { peer: id });
        self.peers.retain(|peer| peer.id != id);
    }

    /// The peer has done wrong: says so, closes, and goes on without it. To a child this means that it has to end.
    fn fault(&mut self, now: u64, id: PeerId, request_id: u32, refusal: Refusal, text: &str) {
        let is_child = self.peers.iter().any(|peer| peer.id == id && matches!(peer.state, PeerState::Child));
        if !is_child {
            self.refuse(id, request_id, refusal, text);
            return;
        }
        if request_id != 0 {
            self.send(id, request_id, Error::new(refusal, text));
        }
        self.send(id, 0, Abort::new(text));
        self.out.push(Action::Close { peer: id });
        self.on_gone(now, id, text);
    }

    fn send(&mut self, peer: PeerId, request_id: u32, message: impl Into<Message>) {
        self.out.push(Action::Send { peer, frame: Frame::new(request_id, message) });
    }

    fn log(&mut self, level: Level, text: String) {
        self.out.push(Action::Log(level, text));
    }

    fn set_state(&mut self, id: PeerId, state: PeerState) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
            peer.state = state;
        }
    }
}

impl Peer {
    fn deadline(&self) -> Option<u64> {
        match self.state {
            PeerState::Guest { until } | PeerState::Waiting { until, .. } => Some(until),
            PeerState::Child => None,
        }
    }

    /// The number of the peer, and the id of the request that it still waits for.
    fn open_request(&self) -> (PeerId, u32) {
        match self.state {
            PeerState::Waiting { request_id, .. } => (self.id, request_id),
            _ => (self.id, 0),
        }
    }
}

impl Draining {
    fn deadline(&self) -> u64 {
        let acknowledge = self.unacknowledged.map(|(_, until)| until);
        let ping = (self.peer.is_some() && !self.superseded).then_some(self.ping_at);
        let end = match &self.checking {
            Some((until, _)) => *until,
            None => self.done_until.unwrap_or(self.shutdown_at),
        };
        [acknowledge, ping, Some(end)].into_iter().flatten().min().unwrap_or(end)
    }
}
