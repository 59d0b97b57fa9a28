//! The role of a process that starts: it takes over from the one that serves, or starts cold.
//!
//! A pure machine like [`crate::parent`]. What always holds:
//!
//! - It takes over ([`Action::TakeOver`]) only when its workers accept, and after its parent has said that it does not
//!   any more, or is dead, or was asked and does not answer; in these two cases only if nobody else serves.
//! - A failure before that is said to the parent and ends the process ([`Action::Fail`]); the parent goes on.
//! - A parent that dies on the way does not stop it: if nobody else serves, it goes on with what it has.
//! - Whenever the parent says that it serves (again), this process drains and ends.

mod events;
mod farewell;
mod loss;
mod phase;
mod taking;

pub use events::{Action, ConnectFailure, Event, Options};

use crate::frame::Frame;
use crate::identity::{Identity, Level};
use crate::limits::{CHUNK_BYTES_MAX, Deadlines, STRAY_FRAMES_MAX};
use crate::message::{
    Abort, CAPABILITY_PARCELS, ChildReady, DrainListeners, Error, Hello, HelloReply, Message, NotUnderstood,
    Pong, Refusal, State, Superseded, TerminateParent,
};
use crate::parts::Assembler;
use phase::{Part, Phase, Serving};

/// The machine.
#[derive(Debug)]
pub struct Child {
    identity: Identity,
    options: Options,
    deadlines: Deadlines,
    phase: Phase,
    /// Whether the connection to the parent is open.
    linked: bool,
    /// The parent has hung up or hangs, and it is not yet known whether somebody serves: until when.
    checking: Option<u64>,
    /// What the parent said of itself.
    parent: Option<HelloReply>,
    /// No retry of the connection after this time.
    turn_until: u64,
    /// There was a parent, which died before it said anything: that there is none is no mistake of the operator.
    met: bool,
    request_id: u32,
    sockets: usize,
    strays: u32,
    blobs: Assembler,
    /// HandoverDone has come already.
    parent_is_done: bool,
    /// See [`Child::unheard_until`].
    unheard_until: u64,
    /// The workers accept: how many.
    accepting: Option<u32>,
    /// Bound addresses of inherited sockets that are not used.
    released: Vec<String>,
    /// The segment that this process really counts in; 0 if that is not said.
    counts_in: u64,
    out: Vec<Action>,
}

impl Child {
    /// The machine of a process that starts.
    #[must_use]
    pub fn new(identity: Identity, options: Options, deadlines: Deadlines) -> Self {
        Self {
            identity,
            options,
            deadlines,
            phase: Phase::New,
            linked: false,
            checking: None,
            parent: None,
            turn_until: 0,
            met: false,
            request_id: 0,
            sockets: 0,
            strays: 0,
            blobs: Assembler::default(),
            parent_is_done: false,
            unheard_until: 0,
            accepting: None,
            released: Vec::new(),
            counts_in: 0,
            out: Vec::new(),
        }
    }

    /// What the parent said of itself, once it has.
    #[must_use]
    pub fn parent(&self) -> Option<&HelloReply> {
        self.parent.as_ref()
    }

    /// Says which segment this process would count in, before the parent has answered; 0 for none that the parent has.
    pub fn set_segment(&mut self, segment_id: u64) {
        self.identity.segment_id = segment_id;
    }

    /// Says which segment this process counts in, which may be a new one, before its workers accept.
    pub fn set_counts_in(&mut self, segment_id: u64) {
        self.counts_in = segment_id;
    }

    /// Whether the parent counts in another segment than the one of our identity.
    #[must_use]
    pub fn parent_has_other_segment(&self) -> bool {
        self.parent.as_ref().is_some_and(|parent| self.identity.has_other_segment(parent))
    }

    /// Whether this process goes on where the counters of another segment end.
    #[must_use]
    pub fn wants_totals(&self) -> bool {
        self.options.totals && self.parent_has_other_segment()
    }

    /// Whether the parent is still there and counts in another segment. A process that is replaced itself should
    /// not end before this is over: the parent's last totals would be lost.
    #[must_use]
    pub fn holds_totals(&self) -> bool {
        self.linked && self.wants_totals()
    }

    /// Whether the parent still has connections that it may hand over. A process that is replaced itself should not end
    /// before they have come, and gone on to the next one.
    #[must_use]
    pub fn expects_parcels(&self) -> bool {
        let not_done = match self.phase {
            Phase::LastState { .. } => !self.parent_is_done,
            // One that hangs may never go on.
            Phase::Serving(serving) => {
                !(serving.presumed || serving.told_to_end || serving.last_totals.is_some())
            }
            _ => false,
        };
        self.options.live && self.linked && not_done && self.may_get_parcels()
    }

    /// Whether this process serves without the word of its parent, which hangs and may still be told of connections.
    #[must_use]
    pub fn is_without_answer(&self) -> bool {
        matches!(self.phase, Phase::Serving(Serving { presumed: true, .. }))
    }

    /// Until when the parent said that the kernel may tell somebody of connections who does not hear of them, in the
    /// caller's milliseconds.
    #[must_use]
    pub fn unheard_until(&self) -> u64 {
        self.unheard_until
    }

    /// When to call with [`Event::Timer`], in the caller's milliseconds; `None` if nothing is waited for.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.checking.is_some() {
            return self.checking;
        }
        self.phase.deadline(self.linked)
    }

    /// Takes an event and says what to do.
    pub fn handle(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        if self.phase != Phase::Failed {
            self.dispatch(now_ms, event);
        }
        std::mem::take(&mut self.out)
    }

    fn dispatch(&mut self, now: u64, event: Event) {
        match event {
            Event::Start => self.on_start(now),
            Event::Connected => self.on_connected(now),
            Event::ConnectFailed { failure, why } => self.on_connect_failed(now, failure, &why),
            Event::Frame { frame, fds } if self.linked => self.on_frame(now, frame, fds),
            Event::Frame { .. } => {}
            Event::ParentGone { why } => self.on_parent_gone(now, &why),
            Event::SomebodyServes(serves) => self.on_somebody_serves(now, serves),
            Event::Timer => self.on_timer(now),
            Event::WorkersAccepting { workers, released } => {
                self.released = released;
                self.on_workers_accepting(now, workers);
            }
            Event::Failed { why } => self.fail(why),
            Event::Superseded(epoch) if self.linked => {
                let by_epoch = epoch.unwrap_or(0);
                self.send(0, Superseded { superseded: epoch.is_some(), by_epoch });
            }
            Event::ParcelsTaken(reply) if self.linked => self.send(0, reply),
            Event::Superseded(_) | Event::ParcelsTaken(_) => {}
            Event::Stopping => self.on_stopping(),
        }
    }

    fn on_start(&mut self, now: u64) {
        if self.options.epoch == Some(0) {
            self.prepare_cold(0);
            return;
        }
        self.turn_until = now.saturating_add(self.deadlines.hello_reply_ms);
        let until = now.saturating_add(self.deadlines.connect_ms);
        self.phase = Phase::Connecting { until, retry_at: None };
        self.out.push(Action::Connect);
    }

    fn on_connected(&mut self, now: u64) {
        let Phase::Connecting { .. } = self.phase else { return };
        self.linked = true;
        self.phase = Phase::Greeting { until: self.turn_until.max(now.saturating_add(1)) };
        let hello = Hello { epoch: self.options.epoch, ..self.identity.hello() };
        self.request(hello);
    }

    fn on_connect_failed(&mut self, now: u64, failure: ConnectFailure, why: &str) {
        let Phase::Connecting { until, .. } = self.phase else { return };
        let cold = self.options.epoch.is_none() || self.options.cold_without_parent || self.met;
        match (failure, self.options.epoch) {
            (ConnectFailure::Nobody, epoch) if cold => {
                self.log(Level::Info, format!("no process to take over from ({why}): a cold start"));
                self.prepare_cold(epoch.unwrap_or(0));
            }
            (ConnectFailure::Refused, _) => self.fail(format!("cannot ask the running process: {why}")),
            (_, _) if now >= until => self.fail(self.nobody(why)),
            (_, _) => {
                let retry_at = now.saturating_add(self.deadlines.connect_retry_ms).min(until);
                self.phase = Phase::Connecting { until, retry_at: Some(retry_at) };
            }
        }
    }

    fn nobody(&self, why: &str) -> String {
        let epoch = self.options.epoch.unwrap_or(0);
        format!(
            "restart epoch {epoch} was asked for, but nobody answers to take over from: {why} (epoch 0 or \"auto\" starts without)"
        )
    }

    fn prepare_cold(&mut self, epoch: u32) {
        self.phase = Phase::Preparing { until: None };
        // As if a parent had said so: this is the epoch from here on.
        self.options.epoch = Some(epoch);
        self.out.push(Action::Prepare { epoch, cold: true });
    }

    fn epoch(&self) -> u32 {
        let promised = self.parent.as_ref().map(|parent| parent.child_epoch);
        promised.or(self.options.epoch).unwrap_or(0)
    }

    fn on_frame(&mut self, now: u64, frame: Frame, fds: usize) {
        let Frame { request_id, message } = frame;
        match message {
            Message::Unknown(kind) => {
                let kind = u32::from(kind);
                self.send(request_id, NotUnderstood { kind });
                self.stray("unknown messages");
            }
            Message::Ping(_) => self.send(request_id, Pong {}),
            Message::Pong(_) => {}
            Message::NotUnderstood(unknown) => self.on_not_understood(now, request_id, &unknown),
            Message::Abort(Abort { reason }) => self.fail(format!("the running process says: {reason}")),
            Message::Error(error) => self.on_error(now, &error),
            Message::HelloReply(reply) if request_id == self.request_id => self.on_hello_reply(now, reply),
            Message::ListenSocketsReply(reply) if request_id == self.request_id => {
                self.on_listen_sockets(now, reply.sockets, fds, reply.more, reply.next);
            }
            Message::StateReply(reply) if request_id == self.request_id => {
                self.on_chunks(now, reply.chunks, reply.more, reply.next, false);
            }
            Message::TotalsReply(reply) if request_id == self.request_id => {
                self.on_chunks(now, reply.chunks, reply.more, reply.next, true);
            }
            Message::DrainListenersReply(reply) if request_id == self.request_id => {
                self.unheard_until = now.saturating_add(reply.unheard_ms);
                self.on_committed(now, reply.connections);
            }
            Message::ConnectionParcel(parcel) if self.may_get_parcels() => {
                self.out.push(Action::TakeParcel { parcel, fds });
            }
            Message::ParentProgress(progress) => {
                self.log(Level::Debug, format!("the old process has {} connections", progress.connections));
            }
            Message::HandoverDone(done) => {
                let text = match done.cut {
                    0 => {
                        format!("the old process is done: its {} connections have moved or ended", done.moved)
                    }
                    cut => format!("the old process has no more time: {cut} of its connections are cut off"),
                };
                self.log(Level::Info, text);
                self.on_handover_done(now);
            }
            Message::Terminated(_) => self.on_terminated(now),
            message => self.stray(message.name()),
        }
    }

    fn may_get_parcels(&self) -> bool {
        let shares = |parent: &HelloReply| self.identity.shares(CAPABILITY_PARCELS, &parent.capabilities);
        matches!(self.phase, Phase::LastState { .. } | Phase::Serving(_))
            && self.parent.as_ref().is_some_and(shares)
    }

    fn on_hello_reply(&mut self, now: u64, reply: HelloReply) {
        let Phase::Greeting { .. } = self.phase else { return };
        let problem = self.identity.objection(self.options.epoch, &reply);
        if let Some(problem) = problem {
            self.fail(format!("cannot take over from process {}: {problem}", reply.pid));
            return;
        }
        self.log(
            Level::Info,
            format!(
                "taking over from process {} (version {}) as restart epoch {}",
                reply.pid, reply.program_version, reply.child_epoch
            ),
        );
        if self.identity.has_other_segment(&reply) {
            let (theirs, ours) = (reply.layout_version, self.identity.layout_version);
            let totals = if self.options.totals { "are taken over" } else { "begin at zero" };
            self.log(
                Level::Info,
                format!(
                    "its counters are in another segment (layout {theirs}, here {ours}): totals {totals}"
                ),
            );
        }
        self.parent = Some(reply);
        self.take(now, Part::ListenSockets, 0);
    }

    fn prepare(&mut self, now: u64) {
        self.phase = Phase::Preparing { until: Some(now.saturating_add(self.deadlines.prepare_ms)) };
        let epoch = self.epoch();
        self.out.push(Action::Prepare { epoch, cold: false });
    }

    fn on_workers_accepting(&mut self, now: u64, workers: u32) {
        let Phase::Preparing { .. } = self.phase else { return };
        self.accepting = Some(workers);
        if self.checking.is_some() {
            // Goes on when it is known whether there is somebody to ask.
        } else if self.linked {
            self.send(0, ChildReady { workers });
            self.phase = Phase::Committing { until: now.saturating_add(self.deadlines.commit_ms) };
            let Options { drain_ms, parent_shutdown_ms, live, .. } = self.options;
            let mut released = std::mem::take(&mut self.released);
            let mut bytes = 0;
            released.retain(|address| {
                bytes += address.len() + 8;
                bytes <= CHUNK_BYTES_MAX
            });
            let segment_id = self.counts_in;
            self.request(DrainListeners { drain_ms, parent_shutdown_ms, live, released, segment_id });
        } else {
            self.take_over(now, false);
        }
    }

    fn on_committed(&mut self, now: u64, connections: u64) {
        match &mut self.phase {
            Phase::Committing { .. } => {
                self.checking = None;
                let until = now.saturating_add(self.deadlines.step_ms);
                self.log(
                    Level::Info,
                    format!("the old process has stopped accepting; it has {connections} connections"),
                );
                self.phase = Phase::LastState { cursor: 0, until };
                self.request(State { cursor: 0 });
            }
            Phase::Serving(serving) => {
                serving.presumed = false;
                self.log(Level::Info, "the old process has stopped accepting after all".to_owned());
            }
            _ => {}
        }
    }

    fn take_over(&mut self, now: u64, presumed: bool) {
        let wait = self.options.parent_shutdown_ms.saturating_add(self.deadlines.terminate_grace_ms);
        self.phase = Phase::Serving(Serving {
            presumed,
            until: now.saturating_add(wait),
            told_to_end: false,
            last_totals: None,
        });
        let epoch = self.epoch();
        self.out.push(Action::TakeOver { epoch });
        if std::mem::take(&mut self.parent_is_done) {
            self.on_handover_done(now);
        }
    }

    fn on_error(&mut self, now: u64, error: &Error) {
        match self.phase {
            Phase::Greeting { .. } if error.refusal() == Refusal::Moved && now < self.turn_until => {
                self.log(
                    Level::Info,
                    "another process took over in the meantime; asking that one".to_owned(),
                );
                self.close();
                let until = now.saturating_add(self.deadlines.connect_ms).min(self.turn_until);
                self.phase = Phase::Connecting { until, retry_at: None };
                self.out.push(Action::Connect);
            }
            Phase::Serving(_) | Phase::LastState { .. } => {
                self.log(Level::Warn, format!("the old process says: {}", error.text));
            }
            _ => self.fail(format!("the running process refuses: {}", error.text)),
        }
    }

    fn on_not_understood(&mut self, now: u64, request_id: u32, unknown: &NotUnderstood) {
        let text = format!("the other process does not know messages of kind {}", unknown.kind);
        match self.phase {
            _ if request_id != self.request_id => self.log(Level::Debug, text),
            Phase::Taking { part: Part::Totals, .. } => {
                self.log(Level::Warn, format!("{text}: counters begin at zero"));
                self.prepare(now);
            }
            Phase::LastState { .. } => self.take_over(now, false),
            Phase::Serving(serving) => {
                self.log(Level::Debug, text);
                if serving.last_totals.is_some() && !serving.told_to_end {
                    self.dismiss(now);
                }
            }
            _ => self.fail(text),
        }
    }

    fn on_timer(&mut self, now: u64) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.checking.is_some() {
            // Two processes that serve are better than none.
            self.on_somebody_serves(now, false);
            return;
        }
        match self.phase {
            Phase::Connecting { until, retry_at: Some(_) } => {
                self.phase = Phase::Connecting { until, retry_at: None };
                self.out.push(Action::Connect);
            }
            Phase::Connecting { .. } => self.fail(self.nobody("it takes too long")),
            Phase::Greeting { .. } => self.fail("the running process does not answer to Hello".to_owned()),
            Phase::Taking { part, .. } => {
                self.fail(format!("the running process does not hand over its {part:?}"))
            }
            Phase::Preparing { .. } => self.fail("this process does not get ready in time".to_owned()),
            Phase::Committing { .. } => self.check_service(now),
            Phase::LastState { .. } => {
                self.log(Level::Warn, "the old process does not hand over its last state".to_owned());
                self.take_over(now, false);
            }
            Phase::Serving(Serving { told_to_end: false, .. }) => {
                self.log(Level::Info, "the old process has had its time; it is told to end".to_owned());
                self.dismiss(now);
            }
            Phase::Serving(_) => self.parent_ended("the old process does not say that it ends"),
            Phase::New | Phase::Failed => {}
        }
    }

    fn on_stopping(&mut self) {
        match self.phase {
            Phase::Serving(_) => {
                if self.linked {
                    self.send(0, TerminateParent {});
                    self.close();
                }
            }
            _ => self.fail("this process was stopped before it took over".to_owned()),
        }
    }

    fn stray(&mut self, what: &str) {
        self.strays += 1;
        self.log(Level::Debug, format!("{what} from the other process makes no sense here"));
        if self.strays > STRAY_FRAMES_MAX {
            if let Phase::Serving(_) | Phase::LastState { .. } = self.phase {
                self.strays = 0;
                return;
            }
            self.fail(format!("more than {STRAY_FRAMES_MAX} messages without sense came"));
        }
    }

    fn fail(&mut self, why: String) {
        if self.linked {
            self.send(0, Abort::new(why.clone()));
            self.close();
        }
        self.phase = Phase::Failed;
        self.out.push(Action::Fail { why });
    }

    fn close(&mut self) {
        if self.linked {
            self.linked = false;
            self.out.push(Action::Close);
        }
    }

    fn request(&mut self, message: impl Into<Message>) {
        self.request_id = self.request_id.wrapping_add(1).max(1);
        self.send(self.request_id, message);
    }

    fn send(&mut self, request_id: u32, message: impl Into<Message>) {
        self.out.push(Action::Send(Frame::new(request_id, message)));
    }

    fn log(&mut self, level: Level, text: String) {
        self.out.push(Action::Log(level, text));
    }
}
