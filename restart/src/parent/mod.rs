//! The role of the process that serves: it lets a child take what it needs, commits, drains and ends.
//!
//! A pure machine: events in, actions out, time as an argument. It owns no descriptor and starts nothing; whoever feeds
//! it does what the actions say, in their order. What always holds:
//!
//! - Until the commit nothing that a child does or suffers changes anything but the log.
//! - After the commit, a child that ends, aborts or stops answering makes the parent accept again, unless the child has
//!   itself been replaced by then.
//! - Each state that depends on somebody else has a deadline. [`Parent::deadline`] says when to call with
//!   [`Event::Timer`]; frames that can be read by then are to be fed before it.

use crate::frame::Frame;
mod events;

pub use events::{Action, Event, Part, PeerId};

use crate::identity::{Identity, Level};
use crate::limits::{Deadlines, EPOCHS_AHEAD_MAX, PEERS_MAX, STRAY_FRAMES_MAX, WAITING_MAX};
use crate::message::{
    Abort, DrainListeners, DrainListenersReply, Error, HandoverDone, Hello, HelloReply, Message,
    NotUnderstood, ParentProgress, Ping, Pong, Refusal, Terminated,
};

/// The machine.
#[derive(Debug)]
pub struct Parent {
    identity: Identity,
    epoch: u32,
    deadlines: Deadlines,
    /// Whether the process that this one took over from still lives.
    elder: bool,
    phase: Phase,
    /// Connections in the order in which they came.
    peers: Vec<Peer>,
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
    /// The child, as long as it is there.
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
            phase: Phase::Serving,
            peers: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Says whether the process that this one took over from still lives: true after [`crate::child::Action::TakeOver`]
    /// unless that was a cold start, false after [`crate::child::Action::ParentEnded`]. A child is told.
    pub fn set_elder(&mut self, lives: bool) {
        self.elder = lives;
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
        peers.chain(phase).min()
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
        match event {
            Event::PeerConnected { peer } => self.on_connected(now_ms, peer),
            Event::Frame { peer, frame, fds } => self.on_frame(now_ms, peer, frame, fds),
            Event::PeerGone { peer, why } => self.on_gone(now_ms, peer, &why),
            Event::Timer => self.on_timer(now_ms),
            Event::AcceptStopped => self.on_accept_stopped(),
            Event::ConnectionsLeft(connections) => self.on_connections_left(connections),
            Event::Drained { moved } => self.on_drained(now_ms, moved),
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

    fn on_hello(&mut self, now: u64, id: PeerId, request_id: u32, hello: Hello) {
        if hello.base_id != self.identity.base_id {
            let text = format!("this is base id {}, not {}", self.identity.base_id, hello.base_id);
            self.refuse(id, request_id, Refusal::BaseId, &text);
            return;
        }
        if hello.probe {
            self.answer_hello(id, request_id, &hello);
            return;
        }
        if self.identity.common_protocol(hello.protocol_min, hello.protocol_max).is_none() {
            let text = format!(
                "version {} speaks versions {} to {} of the restart protocol, version {} speaks {} to {}",
                self.identity.program_version,
                self.identity.protocol_min,
                self.identity.protocol_max,
                hello.program_version,
                hello.protocol_min,
                hello.protocol_max
            );
            self.refuse(id, request_id, Refusal::Protocol, &text);
            return;
        }
        let Some(expected) = self.epoch.checked_add(1) else {
            self.refuse(id, request_id, Refusal::Epoch, "no epoch follows this one");
            return;
        };
        let wanted = hello.epoch.unwrap_or(expected);
        if let Phase::Attempt(_) = self.phase
            && (expected..=expected.saturating_add(EPOCHS_AHEAD_MAX)).contains(&wanted)
        {
            self.let_wait(now, id, request_id, hello);
        } else if wanted == expected {
            self.begin_attempt(now, id, request_id, &hello, expected);
        } else {
            self.refuse_epoch(id, request_id, wanted);
        }
    }

    fn refuse_epoch(&mut self, id: PeerId, request_id: u32, wanted: u32) {
        let (ours, next) = (self.epoch, self.epoch.saturating_add(1));
        let text = format!("the running process has restart epoch {ours}, so {next} is next, not {wanted}");
        self.refuse(id, request_id, Refusal::Epoch, &text);
    }

    fn let_wait(&mut self, now: u64, id: PeerId, request_id: u32, hello: Hello) {
        let waiting =
            self.peers.iter().filter(|peer| matches!(peer.state, PeerState::Waiting { .. })).count();
        if waiting >= WAITING_MAX {
            let text = format!("a restart is going on and {waiting} more are waiting");
            self.refuse(id, request_id, Refusal::Busy, &text);
            return;
        }
        self.log(Level::Info, format!("process {} waits: another restart is going on", hello.pid));
        let until = now.saturating_add(self.deadlines.turn_ms);
        self.set_state(id, PeerState::Waiting { until, request_id, hello });
    }

    fn begin_attempt(&mut self, now: u64, id: PeerId, request_id: u32, hello: &Hello, epoch: u32) {
        self.log(
            Level::Info,
            format!(
                "process {} (version {}) takes over as restart epoch {epoch}",
                hello.pid, hello.program_version
            ),
        );
        self.set_state(id, PeerState::Child);
        self.phase = Phase::Attempt(Attempt {
            peer: id,
            epoch,
            pid: hello.pid,
            parcels: self.identity.shares(crate::message::CAPABILITY_PARCELS, &hello.capabilities),
            until: now.saturating_add(self.deadlines.attempt_ms),
            step_until: now.saturating_add(self.deadlines.step_ms),
            has_sockets: false,
            has_state: false,
            ready: false,
        });
        self.answer_hello(id, request_id, hello);
    }

    fn answer_hello(&mut self, id: PeerId, request_id: u32, hello: &Hello) {
        let protocol = self.identity.common_protocol(hello.protocol_min, hello.protocol_max);
        let identity = &self.identity;
        let reply = HelloReply {
            program_version: identity.program_version.clone(),
            protocol_min: identity.protocol_min,
            protocol_max: identity.protocol_max,
            protocol: protocol.unwrap_or(0),
            layout_version: identity.layout_version,
            hot_restart_version: identity.hot_restart_version.clone(),
            epoch: self.epoch,
            child_epoch: self.epoch.saturating_add(1),
            pid: identity.pid,
            capabilities: identity.capabilities.clone(),
            base_id: identity.base_id,
            busy: hello.probe && matches!(self.phase, Phase::Attempt(_)),
            elder: self.elder,
            segment_id: identity.segment_id,
        };
        self.send(id, request_id, reply);
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

    fn commit(
        &mut self,
        now: u64,
        id: PeerId,
        request_id: u32,
        (epoch, pid, parcels): (u32, u32, bool),
        drain: DrainListeners,
    ) {
        self.log(Level::Info, format!("restart epoch {epoch} serves from here on"));
        self.phase = Phase::Draining(Draining {
            peer: Some(id),
            epoch,
            pid,
            live: drain.live && parcels,
            unacknowledged: Some((request_id, now.saturating_add(self.deadlines.stop_accepting_ms))),
            shutdown_at: now.saturating_add(drain.parent_shutdown_ms),
            ping_at: now.saturating_add(self.deadlines.ping_ms),
            drain,
            awaits_answer: false,
            missed: 0,
            superseded: false,
            connections: 0,
            done_until: None,
        });
        self.out.push(Action::StopAccepting { pid });
        let others: Vec<_> = self.peers.iter().filter(|peer| peer.id != id).map(Peer::open_request).collect();
        for (other, request_id) in others {
            self.refuse(other, request_id, Refusal::Moved, "another process serves now");
        }
    }

    fn on_accept_stopped(&mut self) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        let Some((request_id, _)) = draining.unacknowledged.take() else { return };
        let Some(peer) = draining.peer else { return };
        let (connections, live, drain) = (draining.connections, draining.live, draining.drain.clone());
        self.send(peer, request_id, DrainListenersReply { connections });
        self.out.push(Action::BeginDrain { peer, drain, live });
    }

    fn on_connections_left(&mut self, connections: u64) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        draining.connections = connections;
        if let (Some(peer), None, None) = (draining.peer, draining.unacknowledged, draining.done_until) {
            self.send(peer, 0, ParentProgress { connections });
        }
    }

    fn on_drained(&mut self, now: u64, moved: u64) {
        if let Phase::Draining(draining) = &mut self.phase {
            draining.connections = 0;
            self.finish(now, moved);
        }
    }

    /// Nothing more happens here: lets the child have the last word, if there is one.
    fn finish(&mut self, now: u64, moved: u64) {
        self.on_accept_stopped();
        let Phase::Draining(draining) = &mut self.phase else { return };
        if draining.done_until.is_some() {
            return;
        }
        let cut = draining.connections;
        match draining.peer {
            Some(peer) => {
                draining.done_until = Some(now.saturating_add(self.deadlines.goodbye_ms));
                self.send(peer, 0, HandoverDone { moved, cut });
            }
            None => self.end("it has nothing left to do", cut),
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
            (Phase::Draining(draining), PeerState::Child) if draining.superseded => {
                draining.peer = None;
                self.log(Level::Info, "the new process, itself replaced, has ended".to_owned());
                self.out.push(Action::CloseListeners);
                if matches!(&self.phase, Phase::Draining(draining) if draining.done_until.is_some()) {
                    self.end("it has nothing left to do", 0);
                }
            }
            (Phase::Draining(_), PeerState::Child) => {
                self.take_back(&format!("the new process is gone: {why}"))
            }
            (_, PeerState::Waiting { .. }) => {
                self.log(Level::Info, format!("a process that waited for its turn is gone: {why}"));
            }
            (_, _) => self.log(Level::Debug, format!("a connection to the restart socket ended: {why}")),
        }
    }

    fn take_back(&mut self, why: &str) {
        let Phase::Draining(draining) = &self.phase else { return };
        let (epoch, pid) = (draining.epoch, draining.pid);
        self.log(Level::Warn, format!("{why}; this process serves again instead of restart epoch {epoch}"));
        self.phase = Phase::Serving;
        self.out.push(Action::ResumeAccepting);
        self.out.push(Action::AttemptFailed { epoch, pid, why: why.to_owned() });
    }

    /// The attempt is over without a commit: the next in the queue gets its turn.
    fn next_attempt(&mut self, now: u64) {
        self.phase = Phase::Serving;
        let Some(epoch) = self.epoch.checked_add(1) else { return };
        while matches!(self.phase, Phase::Serving) {
            let next = self.peers.iter().find_map(|peer| match &peer.state {
                PeerState::Waiting { request_id, hello, .. } => Some((peer.id, *request_id, hello.clone())),
                _ => None,
            });
            match next {
                None => return,
                Some((id, request_id, hello)) => match hello.epoch {
                    // It came for the place behind the one that has just failed.
                    Some(wanted) if wanted != epoch => self.refuse_epoch(id, request_id, wanted),
                    _ => self.begin_attempt(now, id, request_id, &hello, epoch),
                },
            }
        }
    }

    fn on_timer(&mut self, now: u64) {
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

    fn drain_timer(&mut self, now: u64) {
        let Phase::Draining(draining) = &mut self.phase else { return };
        if draining.unacknowledged.is_some_and(|(_, until)| until <= now) {
            self.log(Level::Warn, "the workers do not stop accepting; going on without them".to_owned());
            self.on_accept_stopped();
        }
        let Phase::Draining(draining) = &mut self.phase else { return };
        if let Some(peer) = draining.peer
            && !draining.superseded
            && draining.ping_at <= now
        {
            if draining.awaits_answer {
                draining.missed += 1;
            }
            if draining.missed >= self.deadlines.pings_missed_max {
                self.fault(now, peer, 0, Refusal::Deadline, "it does not answer any more");
                return;
            }
            // A process that was stopped itself sees a late timer, not many: it asks once more and waits again.
            draining.awaits_answer = true;
            draining.ping_at = now.saturating_add(self.deadlines.ping_ms);
            self.send(peer, 0, Ping {});
        }
        let Phase::Draining(draining) = &mut self.phase else { return };
        let silent = draining.missed > 0 && !draining.superseded;
        match draining.done_until {
            // While it is not clear whether the child is alive, this process had better stay.
            Some(until) if until <= now && silent => {
                draining.done_until = Some(draining.ping_at);
            }
            Some(until) if until <= now => {
                let cut = draining.connections;
                self.end("the new process has not answered its farewell", cut);
            }
            None if draining.shutdown_at <= now => {
                let left = draining.connections;
                self.log(Level::Info, format!("the time for draining is up, {left} connections are left"));
                self.finish(now, 0);
            }
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

    fn end(&mut self, why: &str, cut: u64) {
        if let Phase::Draining(Draining { peer: Some(peer), .. }) = self.phase {
            self.send(peer, 0, Terminated { cut });
            self.out.push(Action::Close { peer });
        }
        self.phase = Phase::Ended;
        self.out.push(Action::Exit { why: format!("this process ends: {why}"), cut });
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
        let end = self.done_until.unwrap_or(self.shutdown_at);
        [acknowledge, ping, Some(end)].into_iter().flatten().min().unwrap_or(end)
    }
}
