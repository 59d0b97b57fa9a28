use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use ouro_restart::message::{CAPABILITY_PARCELS, ParcelChannel, Ping, RestartRequest};
use ouro_restart::{listen_sockets_reply, state_reply};

use super::*;

#[derive(Clone, Default)]
struct Life(Rc<Cell<bool>>);

impl Other for Life {
    fn has_ended(&self) -> bool {
        self.0.get()
    }
}

/// What is there to be heard.
#[derive(Default)]
struct Heard {
    above: VecDeque<News>,
    answer: Option<bool>,
    has_ended: bool,
    newcomer: Option<PeerId>,
    below: VecDeque<(PeerId, News)>,
}

impl Ears for Heard {
    fn above(&mut self) -> Option<News> {
        self.above.pop_front()
    }

    fn answer(&mut self) -> Option<bool> {
        self.answer.take()
    }

    fn before_has_ended(&mut self) -> bool {
        std::mem::take(&mut self.has_ended)
    }

    fn accept(&mut self) -> Option<PeerId> {
        self.newcomer.take()
    }

    fn below(&mut self) -> Option<(PeerId, News)> {
        self.below.pop_front()
    }
}

fn roles(epoch: Option<u32>) -> Roles<Life> {
    Roles::new(Identity::new("test", 1, 0), options(epoch, false))
}

fn options(epoch: Option<u32>, live: bool) -> child::Options {
    child::Options {
        epoch,
        cold_without_parent: false,
        totals: true,
        live,
        drain_ms: 0,
        parent_shutdown_ms: 60_000,
    }
}

fn names(steps: &[Step]) -> Vec<String> {
    let name = |step: &Step| match step {
        Step::SendAbove(frame) | Step::SendBelow { frame, .. } => frame.message.name().to_owned(),
        step => format!("{step:?}").split([' ', '(']).next().unwrap().to_owned(),
    };
    steps.iter().filter(|step| !matches!(step, Step::Log(..))).map(name).collect()
}

fn serving() -> Roles<Life> {
    let mut roles = roles(Some(0));
    assert_eq!(names(&roles.up(0, child::Event::Start)), ["Prepare"]);
    roles.has_bound();
    let ready = child::Event::WorkersAccepting { workers: 1, released: Vec::new() };
    assert_eq!(names(&roles.up(0, ready)), ["TakeOver"]);
    assert!(roles.serves() && roles.parent().is_some());
    roles
}

/// A process that serves, and one that takes over from it, which is its peer 1.
struct Pair {
    parent: Roles<Life>,
    child: Roles<Life>,
    now: Millis,
}

impl Pair {
    /// The child has just connected.
    fn new(parent: Roles<Life>) -> Self {
        Self::of(parent, roles(None))
    }

    fn of(parent: Roles<Life>, child: Roles<Life>) -> Self {
        let mut pair = Self { parent, child, now: 100 };
        assert_eq!(names(&pair.child.up(pair.now, child::Event::Start)), ["Connect"]);
        let mut ears = Heard { newcomer: Some(1), ..Heard::default() };
        assert_eq!(names(&pair.parent.hear(pair.now, &mut ears).unwrap()), [""; 0]);
        pair
    }

    /// Hands on what they say to each other; what else is to be done, in this order.
    fn talk(&mut self, first: Vec<Step>) -> Vec<String> {
        let mut others = Vec::new();
        let mut steps = VecDeque::from(first);
        while let Some(step) = steps.pop_front() {
            let (now, mut ears) = (self.now, Heard::default());
            steps.extend(match step {
                Step::SendAbove(frame) => {
                    ears.below.push_back((1, News::Frame(frame, 0)));
                    self.parent.hear(now, &mut ears).unwrap()
                }
                Step::SendBelow { frame, .. } => {
                    ears.above.push_back(News::Frame(frame, 0));
                    self.child.hear(now, &mut ears).unwrap()
                }
                Step::SendPart { request_id, part, cursor, .. } => {
                    let message: Message = match part {
                        Part::ListenSockets => listen_sockets_reply(&[], cursor).0.into(),
                        _ => state_reply(&[], cursor).into(),
                    };
                    ears.above.push_back(News::Frame(Frame::new(request_id, message), 0));
                    self.child.hear(now, &mut ears).unwrap()
                }
                Step::AdoptSockets(_) | Step::AdoptState(_) => Vec::new(),
                step => {
                    others.extend(names(&[step]));
                    Vec::new()
                }
            });
        }
        others
    }

    /// Up to the commit.
    fn commit(&mut self) {
        let hello = self.child.up(self.now, child::Event::Connected);
        assert_eq!(self.talk(hello), ["Prepare"]);
        let ready = child::Event::WorkersAccepting { workers: 1, released: Vec::new() };
        let ready = self.child.up(self.now, ready);
        assert_eq!(self.talk(ready), ["StopAccepting"]);
        assert!(!self.parent.serves() && !self.child.serves());
    }

    fn take_over(&mut self) {
        let stopped = self.parent.down(self.now, parent::Event::AcceptStopped);
        assert_eq!(self.talk(stopped), ["BeginDrain", "TakeOver"]);
        assert!(!self.parent.serves() && self.child.serves());
    }
}

#[test]
fn the_process_before_is_heard_first_and_timers_last() {
    let mut roles = serving();
    let ping = |id| News::Frame(Frame::new(id, Ping {}), 0);
    let mut ears = Heard {
        above: [ping(1)].into(),
        answer: Some(true),
        has_ended: true,
        newcomer: Some(1),
        below: [(1, ping(2))].into(),
    };
    roles.awaits_end = true;
    let mut seen = Vec::new();
    while let Some(steps) = roles.hear(0, &mut ears) {
        let left = ears.above.len() + usize::from(ears.answer.is_some()) + usize::from(ears.has_ended);
        seen.push((left + usize::from(ears.newcomer.is_some()) + ears.below.len(), names(&steps)));
    }
    let forgets = || vec!["ForgetQuestion".to_owned()];
    let expected = [(4, vec![]), (3, forgets()), (2, forgets()), (1, vec![]), (0, vec!["Pong".to_owned()])];
    assert_eq!(seen, expected);
    // The newcomer has not said Hello.
    assert!(roles.timer(4_999).is_none());
    assert_eq!(names(&roles.timer(5_000).unwrap()), ["Error", "CloseBelow"]);
}

#[test]
fn channels_and_operators_are_not_for_the_roles() {
    let mut roles = serving();
    let channel = News::Frame(Frame::new(0, ParcelChannel { worker: 3 }), 1);
    let request = News::Frame(Frame::new(7, RestartRequest::default()), 0);
    let mut ears = Heard { above: [channel].into(), newcomer: Some(1), ..Heard::default() };
    ears.below.push_back((1, request));
    let mut hear = || roles.hear(0, &mut ears).unwrap();
    assert!(matches!(hear()[..], [Step::TakeChannel { worker: 3 }]));
    assert_eq!(names(&hear()), [""; 0]);
    assert!(matches!(hear()[0], Step::Restart { peer: 1, request_id: 7, .. }));
    assert!(roles.deadline().is_none(), "it is not waited for");
}

#[test]
fn nonsense_ends_an_attempt_and_later_only_the_connection() {
    let nonsense = || News::Broken { why: "no frame".into(), is_nonsense: true };
    let mut pair = Pair::new(serving());
    drop(pair.child.up(100, child::Event::Connected));
    let mut ears = Heard { above: [nonsense()].into(), ..Heard::default() };
    assert_eq!(names(&pair.child.hear(100, &mut ears).unwrap()), ["Abort", "CloseAbove", "Fail"]);
    let mut ears = Heard { above: [nonsense()].into(), ..Heard::default() };
    assert_eq!(names(&serving().hear(0, &mut ears).unwrap()), ["LoseAbove"]);
}

#[test]
fn a_child_that_ends_gives_the_service_back_and_its_ring_is_minded() {
    let mut pair = Pair::new(serving());
    pair.commit();
    pair.take_over();
    let life = Life::default();
    let steps = pair.parent.lost_below(200, 1, Some(life.clone()), "gone".into());
    assert_eq!(names(&steps), ["ClaimBack", "ResumeAccepting", "AttemptFailed"]);
    assert!(pair.parent.serves() && pair.parent.may_be_unheard(90_000), "it may live, and be told");
    life.0.set(true);
    assert!(pair.parent.may_be_unheard(100_000) && pair.parent.may_be_unheard(114_999));
    assert!(!pair.parent.may_be_unheard(115_000));
    // One that has said that it does not accept needs no looking after.
    pair.parent.estrange(200_000, Some(life), false);
    pair.parent.estrange(200_000, None, false);
    assert!(!pair.parent.may_be_unheard(200_000));
    pair.parent.estrange(200_000, None, true);
    assert!(pair.parent.may_be_unheard(200_000));
}

#[test]
fn the_next_process_is_told_for_how_long_a_dead_one_may_be_told() {
    let mut parent = serving();
    parent.estrange(0, Some(Life(Rc::new(Cell::new(true)))), true);
    let mut pair = Pair::new(parent);
    pair.commit();
    pair.now += 1_000;
    pair.take_over();
    // From when the parent has seen that end, which was at the commit.
    assert!(pair.child.may_be_unheard(100 + AFTER_A_DEATH_MS - 1));
    assert!(!pair.child.may_be_unheard(100 + AFTER_A_DEATH_MS));
}

#[test]
fn those_who_come_later_are_told_that_somebody_hangs_with_the_sockets() {
    let life = Life::default();
    let mut first = serving();
    first.estrange(0, Some(life.clone()), true);
    let mut pair = Pair::new(first);
    pair.commit();
    pair.now += 1_000;
    pair.take_over();
    // They cannot see when that process ends.
    life.0.set(true);
    let mut next = Pair::new(pair.child);
    next.now = 10_000;
    next.commit();
    next.take_over();
    for later in [&mut next.parent, &mut next.child] {
        assert!(later.may_be_unheard(100 + WHILE_ONE_HANGS_MS - 1));
        assert!(!later.may_be_unheard(100 + WHILE_ONE_HANGS_MS));
    }
}

#[test]
fn the_next_process_is_not_told_of_one_that_has_said_that_it_does_not_accept() {
    let mut parent = serving();
    parent.estrange(0, Some(Life::default()), false);
    let mut pair = Pair::new(parent);
    pair.commit();
    pair.take_over();
    assert!(pair.parent.may_be_unheard(100) && !pair.child.may_be_unheard(100));
}

#[test]
fn whoever_has_not_been_told_expects_that_somebody_hangs_with_the_sockets() {
    let dead = || Some(Life(Rc::new(Cell::new(true))));
    for is_told in [false, true] {
        let mut pair = Pair::new(serving());
        pair.commit();
        if is_told {
            pair.take_over();
        }
        drop(pair.child.lost_above(100, dead(), "gone".into()));
        let until = 100 + if is_told { AFTER_A_DEATH_MS } else { WHILE_ONE_HANGS_MS };
        assert!(pair.child.may_be_unheard(100));
        assert!(pair.child.may_be_unheard(until - 1) && !pair.child.may_be_unheard(until));
    }
}

#[test]
fn the_end_of_a_parent_counts_if_nobody_else_can_serve() {
    for has_elder in [false, true] {
        let mut parent = serving();
        parent.parent.as_mut().unwrap().set_elder(has_elder);
        let mut pair = Pair::new(parent);
        let hello = pair.child.up(100, child::Event::Connected);
        assert_eq!(pair.talk(hello), ["Prepare"]);
        let steps = pair.child.lost_above(100, Some(Life::default()), "gone".into());
        assert_eq!(names(&steps), ["Ask"]);
        assert_eq!(pair.child.awaits_end(), !has_elder);
        let ready = child::Event::WorkersAccepting { workers: 1, released: Vec::new() };
        assert_eq!(names(&pair.child.up(100, ready)), [""; 0]);
        let mut ears = Heard { has_ended: true, ..Heard::default() };
        let steps = pair.child.hear(100, &mut ears).map(|steps| names(&steps));
        let expected: &[&str] = if has_elder { &[] } else { &["ForgetQuestion", "TakeOver"] };
        assert_eq!(steps.unwrap_or_default(), expected);
        if has_elder {
            let mut ears = Heard { answer: Some(true), ..Heard::default() };
            assert_eq!(names(&pair.child.hear(100, &mut ears).unwrap()), ["ForgetQuestion", "Fail"]);
        }
    }
}

#[test]
fn the_restart_socket_is_taken_away_by_whoever_serves_or_has_bound_it_in_vain() {
    assert_eq!(names(&serving().stopping(0)), ["Unbind"]);
    let mut starting = roles(Some(0));
    drop(starting.up(0, child::Event::Start));
    starting.has_bound();
    assert_eq!(names(&starting.stopping(0)), ["Unbind", "Fail"]);
    let mut pair = Pair::new(serving());
    pair.commit();
    pair.take_over();
    assert_eq!(names(&pair.parent.stopping(200)), ["Terminated", "CloseBelow", "Exit"]);
    assert_eq!(names(&pair.child.stopping(200)), ["TerminateParent", "CloseAbove", "Unbind"]);
}

#[test]
fn who_was_asked_for_totals_stays_as_long_as_others_count_with_it() {
    let mut pair = Pair::new(serving());
    pair.commit();
    pair.take_over();
    assert!(!pair.parent.must_stay(|| true));
    let totals = Frame::new(9, ouro_restart::message::Totals { cursor: 0 });
    let mut ears = Heard { below: [(1, News::Frame(totals, 0))].into(), ..Heard::default() };
    assert_eq!(names(&pair.parent.hear(200, &mut ears).unwrap()), ["SendPart"]);
    assert!(pair.parent.must_stay(|| true) && !pair.parent.must_stay(|| false));
}

#[test]
fn channels_are_expected_until_they_come_or_the_process_before_is_done() {
    for is_done in [false, true] {
        let mut parent = serving();
        parent.identity.capabilities.push(CAPABILITY_PARCELS.into());
        parent.parent = Some(Parent::new(parent.identity.clone(), 0, Deadlines::default()));
        let child = Roles::new(parent.identity.clone(), options(None, true));
        let mut pair = Pair::of(parent, child);
        pair.commit();
        assert!(!pair.child.expects_channels());
        pair.take_over();
        assert!(pair.child.expects_channels());
        if is_done {
            let steps = pair.parent.down(200, parent::Event::Drained { moved: 0 });
            assert_eq!(pair.talk(steps), ["CloseBelow", "Exit", "CloseAbove"]);
        } else {
            let channel = News::Frame(Frame::new(0, ParcelChannel { worker: 0 }), 1);
            let mut ears = Heard { above: [channel].into(), ..Heard::default() };
            assert!(matches!(pair.child.hear(200, &mut ears).unwrap()[..], [Step::TakeChannel { .. }]));
        }
        assert!(!pair.child.expects_channels());
    }
}

#[test]
fn a_parent_that_got_no_cpu_asks_before_it_serves_again() {
    for is_answered in [true, false] {
        let mut pair = Pair::new(serving());
        pair.commit();
        pair.take_over();
        let steps = pair.parent.lost_below(2_000, 1, None, "gone".into());
        assert_eq!(names(&steps), ["Ask"]);
        if is_answered {
            let mut ears = Heard { answer: Some(true), ..Heard::default() };
            let steps = pair.parent.hear(2_001, &mut ears).unwrap();
            assert_eq!(names(&steps), ["ForgetQuestion", "CloseListeners"]);
        } else {
            assert_eq!(
                names(&pair.parent.nobody_serves(2_001)),
                ["ClaimBack", "ResumeAccepting", "AttemptFailed"]
            );
        }
        assert_eq!(pair.parent.serves(), !is_answered);
    }
}
