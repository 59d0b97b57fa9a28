//! The two roles of a process in restarts, and what it makes of them.
//!
//! [`Child`] speaks to the process before, [`Parent`] to the one after. What each of them wants becomes a [`Step`], and what
//! comes from other processes goes to the one that it is for. There are neither sockets nor clocks here: whoever drives it,
//! the server or the simulator, is asked for news ([`Ears`]) and does the steps, in their order. Where a step says that
//! something is to be told then, the steps that come of it are done before those that follow. Times are milliseconds of the
//! caller's clock.

mod step;

use std::collections::BTreeSet;

use ouro_restart::message::{Hello, Message};
use ouro_restart::parent::{self, Parent, Part, PeerId};
use ouro_restart::{Child, Deadlines, Frame, Identity, child};

pub use self::step::{Ears, News, Other, Step};

use crate::base::clock::Millis;

/// Purpose of the restart socket itself among those that are handed over.
pub const RESTART: &str = "restart";

/// How long connections are looked for after a process has died that accepted from the same queues as this one. The
/// kernel takes the ring of a dead process apart in a thread of its own, after everybody has seen that end: until then the
/// ring still waits for connections, and each that the kernel tells it of is one that nobody else hears of. That takes
/// milliseconds, and has been seen to take 1.5 s on a busy machine.
pub const AFTER_A_DEATH_MS: Millis = 15_000;

/// How long a process looks for connections if one may hang with the sockets that only the process before knows: its end
/// will not be seen. Looking costs little, and whoever has hung for so long has hardly a client that waits for it.
pub const WHILE_ONE_HANGS_MS: Millis = 600_000;

/// See the module. `P` is how the caller knows other processes.
#[derive(Debug)]
pub struct Roles<P> {
    identity: Identity,
    child: Child,
    /// Once this process has taken over.
    parent: Option<Parent>,
    /// Whether the connection to the process before is open.
    is_linked: bool,
    /// The process before has hung up, and nobody else can serve once it has ended.
    awaits_end: bool,
    /// The process before has opened channels on which its connections come.
    has_channels: bool,
    /// This process has bound the restart socket, and not got it from another one.
    has_bound: bool,
    /// Connections at the restart socket are this process's to accept.
    serves: bool,
    epoch: u32,
    /// Connections to processes that have got listening sockets.
    sharing: BTreeSet<PeerId>,
    was_asked_for_totals: bool,
    /// Processes with our listening sockets to whom we do not speak any more, and whether they may accept.
    strangers: Vec<(P, bool)>,
    /// Until when somebody may hear of connections who is dead, or is not known here.
    unheard_until: Millis,
}

impl<P: Other> Roles<P> {
    /// The roles of a process that starts: [`child::Event::Start`] is the first thing to tell [`Roles::up`].
    #[must_use]
    pub fn new(identity: Identity, options: child::Options) -> Self {
        Self {
            child: Child::new(identity.clone(), options, Deadlines::default()),
            identity,
            parent: None,
            is_linked: false,
            awaits_end: false,
            has_channels: false,
            has_bound: false,
            serves: false,
            epoch: 0,
            sharing: BTreeSet::new(),
            was_asked_for_totals: false,
            strangers: Vec::new(),
            unheard_until: 0,
        }
    }

    /// The role towards the process before.
    #[must_use]
    pub const fn child(&self) -> &Child {
        &self.child
    }

    /// The role towards the process after, once this one has taken over.
    #[must_use]
    pub const fn parent(&self) -> Option<&Parent> {
        self.parent.as_ref()
    }

    /// Who this process is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether connections at the restart socket are this process's to accept.
    #[must_use]
    pub const fn serves(&self) -> bool {
        self.serves
    }

    /// The epoch of this process, once it prepares to serve.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the end of the process before is of interest, whose connection is lost.
    #[must_use]
    pub const fn awaits_end(&self) -> bool {
        self.awaits_end
    }

    /// The segment that this process would share with the one before it; 0 for none.
    pub fn set_segment_to_share(&mut self, segment_id: u64) {
        self.child.set_segment(segment_id);
    }

    /// The segment that this process counts in.
    pub fn set_segment(&mut self, segment_id: u64) {
        self.identity.segment_id = segment_id;
        self.child.set_counts_in(segment_id);
    }

    /// The restart socket was bound, and not inherited.
    pub const fn has_bound(&mut self) {
        self.has_bound = true;
    }

    /// Whether counters would be lost if this process, though replaced and without connections, ended now: those of the
    /// process before, which come to it, or those that go through its segment to the next process, which `others` count in.
    pub fn must_stay(&self, others: impl FnOnce() -> bool) -> bool {
        self.child.holds_totals() || (self.was_asked_for_totals && others())
    }

    /// Whether the process before may yet open channels on which its connections come.
    #[must_use]
    pub fn expects_channels(&self) -> bool {
        self.child.expects_parcels() && !self.has_channels
    }

    /// Whether the kernel may tell another process of connections, and not us: one that hangs, or one that has died.
    pub fn may_be_unheard(&mut self, now: Millis) -> bool {
        let mut died = false;
        self.strangers.retain(|(process, may_accept)| {
            let has_ended = process.has_ended();
            died |= has_ended && *may_accept;
            !has_ended
        });
        if died {
            self.somebody_died(now);
        }
        now < self.unheard_until.max(self.child.unheard_until())
            || !self.strangers.is_empty()
            || self.child.is_without_answer()
    }

    /// Until when the next process, which knows nobody of those that this one knows, has to expect the same.
    fn next_is_unheard_until(&mut self, now: Millis) -> Millis {
        self.may_be_unheard(now);
        let hangs =
            self.strangers.iter().any(|(_, may_accept)| *may_accept) || self.child.is_without_answer();
        let while_one_hangs = if hangs { now.saturating_add(WHILE_ONE_HANGS_MS) } else { 0 };
        self.unheard_until.max(self.child.unheard_until()).max(while_one_hangs)
    }

    /// This process (none if it cannot be known) has our listening sockets, and from here on nobody will hear from it.
    pub fn estrange(&mut self, now: Millis, process: Option<P>, may_accept: bool) {
        match process {
            Some(process) => self.strangers.push((process, may_accept)),
            None if may_accept => self.somebody_died(now),
            None => {}
        }
    }

    fn somebody_died(&mut self, now: Millis) {
        self.look_for(now, AFTER_A_DEATH_MS);
    }

    /// The process before will not say any more whether somebody else hangs with the sockets.
    fn has_not_been_told(&mut self, now: Millis) {
        self.look_for(now, WHILE_ONE_HANGS_MS);
    }

    fn look_for(&mut self, now: Millis, for_ms: Millis) {
        self.unheard_until = self.unheard_until.max(now.saturating_add(for_ms));
    }

    /// When to ask [`Roles::timer`].
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let parent = self.parent.as_ref().and_then(Parent::deadline);
        [self.child.deadline(), parent].into_iter().flatten().min()
    }

    /// What comes of the next thing that is to be heard, the process before first; `None` if there is none. Timers come
    /// after that ([`Roles::timer`]): what has come while this process got no CPU is heard before they act.
    pub fn hear(&mut self, now: Millis, ears: &mut impl Ears) -> Option<Vec<Step>> {
        if let Some(news) = ears.above() {
            return Some(self.on_news_above(now, news));
        }
        if let Some(is_answered) = ears.answer() {
            let mut steps = vec![Step::ForgetQuestion];
            if is_answered {
                self.on_service(now, true, &mut steps);
            }
            return Some(steps);
        }
        if ears.before_has_ended() && std::mem::take(&mut self.awaits_end) {
            let mut steps = vec![Step::ForgetQuestion];
            self.on_service(now, false, &mut steps);
            return Some(steps);
        }
        if self.serves
            && let Some(peer) = ears.accept()
        {
            return Some(self.down(now, parent::Event::PeerConnected { peer }));
        }
        let (peer, news) = ears.below()?;
        Some(self.on_news_below(now, peer, news))
    }

    /// What comes of a timer that is due; `None` if there is none. There are two.
    pub fn timer(&mut self, now: Millis) -> Option<Vec<Step>> {
        let is_due = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        if is_due(self.child.deadline()) {
            Some(self.up(now, child::Event::Timer))
        } else if is_due(self.parent.as_ref().and_then(Parent::deadline)) {
            Some(self.down(now, parent::Event::Timer))
        } else {
            None
        }
    }

    /// The role of the child is told what has happened.
    pub fn up(&mut self, now: Millis, event: child::Event) -> Vec<Step> {
        let mut steps = Vec::new();
        self.on_child(now, event, &mut steps);
        steps
    }

    /// The role of the parent is told what has happened.
    pub fn down(&mut self, now: Millis, event: parent::Event) -> Vec<Step> {
        let mut steps = Vec::new();
        self.on_parent(now, event, &mut steps);
        steps
    }

    /// Nobody listens at the restart socket, where [`Step::Ask`] was to be asked.
    pub fn nobody_serves(&mut self, now: Millis) -> Vec<Step> {
        let mut steps = Vec::new();
        self.on_service(now, false, &mut steps);
        steps
    }

    /// The connection to the process before is lost, which was this one.
    pub fn lost_above(&mut self, now: Millis, process: Option<P>, why: String) -> Vec<Step> {
        if self.parent.is_none() || self.child.is_without_answer() {
            self.has_not_been_told(now);
        }
        (self.is_linked, self.awaits_end) = (false, self.parent.is_none());
        self.estrange(now, process, true);
        self.up(now, child::Event::ParentGone { why })
    }

    /// The connection to a process after is lost, which was this one.
    pub fn lost_below(&mut self, now: Millis, peer: PeerId, process: Option<P>, why: String) -> Vec<Step> {
        if self.sharing.remove(&peer) {
            self.estrange(now, process, true);
        }
        self.down(now, parent::Event::PeerGone { peer, why })
    }

    /// This process has been told to stop: there is nothing to take over any more.
    pub fn stopping(&mut self, now: Millis) -> Vec<Step> {
        let mut steps = self.down(now, parent::Event::Stopping);
        // The instance ends with the process that serves, and with no other.
        if self.serves || self.parent.is_none() {
            self.on_child(now, child::Event::Stopping, &mut steps);
        }
        if std::mem::take(&mut self.serves) {
            steps.push(Step::Unbind);
        }
        steps
    }

    fn on_news_above(&mut self, now: Millis, news: News) -> Vec<Step> {
        match news {
            // The roles know nothing of channels.
            News::Frame(Frame { message: Message::ParcelChannel(open), .. }, _) => {
                self.has_channels = true;
                vec![Step::TakeChannel { worker: open.worker }]
            }
            News::Frame(frame, fds) => self.up(now, child::Event::Frame { frame, fds }),
            News::Broken { why, is_nonsense: true } if self.parent.is_none() => {
                let why = format!("what the running process sends is of no use: {why}");
                self.up(now, child::Event::Failed { why })
            }
            News::Broken { why, .. } => vec![Step::LoseAbove { why }],
        }
    }

    fn on_news_below(&mut self, now: Millis, peer: PeerId, news: News) -> Vec<Step> {
        match news {
            // The roles know nothing of operators.
            News::Frame(Frame { request_id, message: Message::RestartRequest(request) }, _) => {
                let mut steps = vec![Step::Restart { peer, request_id, request }];
                let gone = parent::Event::PeerGone { peer, why: "it was an operator".into() };
                self.on_parent(now, gone, &mut steps);
                steps
            }
            News::Frame(frame, fds) => self.down(now, parent::Event::Frame { peer, frame, fds }),
            // What it has sent last may be nonsense, and the process alive.
            News::Broken { why, .. } => vec![Step::LoseBelow { peer, why }],
        }
    }

    fn ask(&self) -> Step {
        Step::Ask(Hello { probe: true, ..self.identity.hello() })
    }

    /// Whether somebody serves is of interest to a process that is about to take over, and to one that was replaced.
    fn on_service(&mut self, now: Millis, serves: bool, steps: &mut Vec<Step>) {
        if self.parent.is_some() {
            self.on_parent(now, parent::Event::SomebodyServes(serves), steps);
        } else {
            self.on_child(now, child::Event::SomebodyServes(serves), steps);
        }
    }

    fn on_child(&mut self, now: Millis, event: child::Event, steps: &mut Vec<Step>) {
        self.is_linked |= event == child::Event::Connected;
        for action in self.child.handle(now, event) {
            let step = match action {
                child::Action::Connect => Step::Connect,
                child::Action::Send(frame) => Step::SendAbove(frame),
                child::Action::Close => {
                    self.is_linked = false;
                    let may_accept = self.child.is_without_answer();
                    if may_accept {
                        self.has_not_been_told(now);
                    }
                    Step::CloseAbove { may_accept }
                }
                child::Action::AdoptListenSockets(sockets) => Step::AdoptSockets(sockets),
                child::Action::AdoptState { blobs, .. } => Step::AdoptState(blobs),
                child::Action::AdoptTotals { blobs, last: false } => Step::CarryTotals(blobs),
                child::Action::AdoptTotals { blobs, last: true } => Step::TakeTotals(blobs),
                child::Action::Prepare { epoch, cold } => {
                    self.epoch = epoch;
                    Step::Prepare { epoch, cold }
                }
                child::Action::CheckService { elder } => {
                    // Where there is an elder, the end of the process before alone says nothing.
                    self.awaits_end &= !elder;
                    self.ask()
                }
                child::Action::TakeOver { epoch } => {
                    let mut parent = Parent::new(self.identity.clone(), epoch, Deadlines::default());
                    parent.set_elder(self.is_linked);
                    self.parent = Some(parent);
                    (self.epoch, self.serves, self.awaits_end) = (epoch, true, false);
                    Step::TakeOver { epoch }
                }
                child::Action::ParentEnded => {
                    if let Some(parent) = &mut self.parent {
                        parent.set_elder(false);
                    }
                    continue;
                }
                child::Action::Fail { why } => {
                    self.on_parent(now, parent::Event::Stopping, steps);
                    if self.has_bound && !self.serves {
                        // Nobody has ever served there.
                        steps.push(Step::Unbind);
                    }
                    self.serves = false;
                    Step::Fail { why }
                }
                // Connections come on channels.
                child::Action::TakeParcel { .. } => continue,
                child::Action::Log(level, text) => Step::Log(level, text),
            };
            steps.push(step);
        }
    }

    fn on_parent(&mut self, now: Millis, event: parent::Event, steps: &mut Vec<Step>) {
        let Some(parent) = &mut self.parent else { return };
        for action in parent.handle(now, event) {
            let step = match action {
                parent::Action::Send { peer, frame } => Step::SendBelow { peer, frame },
                parent::Action::SendPart { peer, request_id, part, cursor } => {
                    match part {
                        Part::ListenSockets => {
                            self.sharing.insert(peer);
                            self.was_asked_for_totals = false;
                        }
                        Part::Totals if cursor == 0 => self.was_asked_for_totals = true,
                        Part::Totals | Part::State => {}
                    }
                    Step::SendPart { peer, request_id, part, cursor }
                }
                parent::Action::Close { peer } => {
                    Step::CloseBelow { peer, is_stranger: self.sharing.remove(&peer) }
                }
                parent::Action::StopAccepting { pid } => {
                    let until = self.next_is_unheard_until(now);
                    if let Some(parent) = &mut self.parent {
                        parent.set_unheard_until(until);
                    }
                    self.on_child(now, child::Event::Superseded(Some(self.epoch.saturating_add(1))), steps);
                    self.serves = false;
                    Step::StopAccepting { pid }
                }
                parent::Action::ResumeAccepting => {
                    self.serves = true;
                    steps.push(Step::ClaimBack);
                    self.on_child(now, child::Event::Superseded(None), steps);
                    Step::ResumeAccepting
                }
                parent::Action::CheckService => self.ask(),
                parent::Action::BeginDrain { drain, live, peer } => {
                    Step::BeginDrain { drain, live: live.then_some(peer) }
                }
                parent::Action::Exit { why, cut } => Step::Exit { why, cut },
                parent::Action::AttemptFailed { pid, why, .. } => Step::AttemptFailed { pid, why },
                parent::Action::CloseListeners => Step::CloseListeners,
                // Connections go on channels.
                parent::Action::ParcelsAnswered(_) => continue,
                parent::Action::Log(level, text) => Step::Log(level, text),
            };
            steps.push(step);
        }
    }
}

#[cfg(test)]
mod tests;
