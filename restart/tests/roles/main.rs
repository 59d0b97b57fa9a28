//! The roles of parent and child against each other, without sockets: whoever fails, at whatever step, somebody accepts.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod failures;
mod versions;
mod world;

use ouro_restart::child;
use ouro_restart::frame::Frame;
use ouro_restart::message::{self, Message, Refusal};
use world::{SOCKETS, World, identity, options};

#[test]
fn a_restart_goes_its_way() {
    let mut world = World::new();
    world.said.clear();
    let child = world.start(Some(1));
    world.settle();
    assert_eq!(world.alive(), [child]);
    assert!(world.processes[0].exited);
    let process = &world.processes[child];
    assert_eq!((process.epoch, process.cold, process.sockets), (Some(1), false, SOCKETS));
    assert_eq!(process.states, [false, true]);
    assert!(process.totals.is_empty(), "the layout is the same");
    let mut said = world.said.clone();
    said.dedup();
    let expected = "1> Hello, 0< HelloReply, \
        1> ListenSockets, 0< ListenSocketsReply, 1> ListenSockets, 0< ListenSocketsReply, \
        1> ListenSockets, 0< ListenSocketsReply, 1> State, 0< StateReply, 1> State, 0< StateReply, \
        1> State, 0< StateReply, 1> ChildReady, 1> DrainListeners, 0< DrainListenersReply, 0< HandoverDone, \
        1> State, 0< StateReply, 1> State, 0< StateReply, 1> State, 0< StateReply, \
        1> TerminateParent, 0< Terminated";
    assert_eq!(said.join(", "), expected);
}

#[test]
fn restarts_follow_each_other_while_older_ones_drain() {
    let mut world = World::new();
    world.drain_ends = false;
    for epoch in 1..=6 {
        let child = world.start(if epoch % 2 == 0 { None } else { Some(epoch) });
        world.settle();
        assert_eq!(world.processes[child].epoch, Some(epoch), "{:?}", world.processes[child].failed);
        assert_eq!(world.serving(), [child]);
        assert_eq!(world.alive().len(), child + 1, "nobody is killed because a newer one came");
    }
    // The end of one that has been replaced itself wakes nobody.
    world.kill(2);
    world.kill(4);
    world.settle();
    assert_eq!(world.serving(), [6]);
    // The end of the newest wakes the one before.
    world.kill(6);
    world.settle();
    assert_eq!(world.serving(), [5]);
    // Which had told its own parent that it was replaced, and now that it serves again.
    world.pass(901_000);
    assert_eq!(world.alive(), [5], "the others have had their time");
}

#[test]
fn the_parent_ends_when_its_time_is_up() {
    let mut world = World::new();
    world.drain_ends = false;
    let child = world.start(Some(1));
    world.settle();
    world.pass(899_000);
    assert_eq!(world.alive(), [0, child]);
    world.pass(1_100);
    assert_eq!(world.alive(), [child]);
    assert!(world.processes[0].exited);
}

#[test]
fn a_second_child_waits_for_its_turn_and_comes_next() {
    for seed in 0..50 {
        let mut world = World::new();
        world.seed = seed;
        world.workers_start = false;
        let (first, second) = (world.start(None), world.start(None));
        world.settle();
        world.workers_start = true;
        let prepared = [first, second].into_iter().find(|number| world.processes[*number].epoch.is_some());
        world.workers_accept(prepared.unwrap());
        world.settle();
        let mut epochs = [world.processes[first].epoch, world.processes[second].epoch];
        epochs.sort_unstable();
        assert_eq!(epochs, [Some(1), Some(2)], "seed {seed}");
        assert_eq!(world.alive().len(), 1);
    }
}

#[test]
fn a_second_child_gets_its_turn_when_the_first_fails() {
    let mut world = World::new();
    world.workers_start = false;
    let first = world.start(Some(1));
    world.settle();
    let second = world.start(Some(1));
    world.settle();
    assert_eq!(world.processes[second].epoch, None);
    world.workers_start = true;
    world.up(first, child::Event::Failed { why: "port 80: permission denied".to_owned() });
    world.settle();
    assert_eq!(world.alive(), [second]);
    assert_eq!(world.processes[second].epoch, Some(1));
}

#[test]
fn a_second_child_with_the_same_epoch_is_told_which_one_is_next() {
    let mut world = World::new();
    world.workers_start = false;
    let first = world.start(Some(1));
    world.settle();
    let second = world.start(Some(1));
    world.settle();
    world.workers_accept(first);
    world.settle();
    assert_eq!(world.serving(), [first]);
    let why = world.processes[second].failed.clone().unwrap();
    assert!(why.contains("has restart epoch 1, so 2 is next, not 1"), "{why}");
}

#[test]
fn epochs_that_a_script_counts_up_come_in_order() {
    let mut world = World::new();
    world.workers_start = false;
    let first = world.start(Some(1));
    world.settle();
    let (second, too_far) = (world.start(Some(2)), world.start(Some(6)));
    world.settle();
    assert!(world.processes[too_far].failed.is_some());
    world.workers_start = true;
    world.workers_accept(first);
    world.settle();
    assert_eq!(world.alive(), [second]);
    assert_eq!(world.processes[second].epoch, Some(2));
    // If the one in between fails, there is no such place.
    world.workers_start = false;
    let third = world.start(Some(3));
    world.settle();
    let fourth = world.start(Some(4));
    world.settle();
    world.kill(third);
    world.settle();
    let why = world.processes[fourth].failed.clone().unwrap();
    assert!(why.contains("so 3 is next, not 4"), "{why}");
    assert_eq!(world.serving(), [second]);
}

#[test]
fn who_waits_too_long_is_told_that_the_parent_is_busy() {
    let mut world = World::new();
    world.workers_start = false;
    let first = world.start(Some(1));
    world.settle();
    let others: Vec<usize> = (0..6).map(|_| world.start(None)).collect();
    world.settle();
    let failed =
        |world: &World| others.iter().filter(|number| world.processes[**number].failed.is_some()).count();
    assert_eq!(failed(&world), 2, "four may wait");
    world.pass(31_000);
    assert_eq!(failed(&world), 6);
    assert!(world.processes[others[0]].failed.as_ref().unwrap().contains("does not end"));
    world.workers_accept(first);
    world.settle();
    assert_eq!(world.alive(), [first]);
}

#[test]
fn a_probe_learns_who_is_there_and_disturbs_nothing() {
    let mut world = World::new();
    let hello = || message::Hello { base_id: 5, probe: true, ..Default::default() };
    let probe = world.connect_raw();
    world.raw_send(probe, Frame::new(9, hello()));
    world.settle();
    let Some(Message::HelloReply(reply)) = world.raw_receive(probe) else { panic!() };
    assert_eq!((reply.epoch, reply.child_epoch, reply.busy, reply.protocol), (0, 1, false, 0));
    assert_eq!(reply.hot_restart_version, "1.1");
    world.workers_start = false;
    let child = world.start(None);
    world.settle();
    let probe = world.connect_raw();
    world.raw_send(probe, Frame::new(9, hello()));
    world.settle();
    let Some(Message::HelloReply(reply)) = world.raw_receive(probe) else { panic!() };
    assert!(reply.busy);
    world.pass(5_100);
    assert!(!world.raw_is_open(probe), "a probe does not stay for ever");
    world.workers_accept(child);
    world.settle();
    assert_eq!(world.serving(), [child]);
}

#[test]
fn a_wrong_epoch_is_refused_on_both_sides() {
    for epoch in [2, 3, u32::MAX] {
        let mut world = World::new();
        let child = world.start(Some(epoch));
        world.settle();
        let why = world.processes[child].failed.clone().unwrap();
        assert!(why.contains(&format!("so 1 is next, not {epoch}")), "{why}");
        assert_eq!(world.serving(), [0]);
    }
}

#[test]
fn another_instance_is_not_taken_over() {
    let mut world = World::new();
    let mut other = identity();
    other.base_id = 6;
    let child = world.start_as(other, options(None));
    world.settle();
    assert!(world.processes[child].failed.as_ref().unwrap().contains("this is base id 5, not 6"));
}

#[test]
fn without_a_parent_it_depends_on_the_options() {
    let mut world = World::new();
    world.kill(0);
    let patient = world.start(Some(3));
    world.pass(3_000);
    assert!(world.processes[patient].failed.as_ref().unwrap().contains("nobody answers"));
    let mut skipping = options(Some(3));
    skipping.cold_without_parent = true;
    let keeps_epoch = world.start_as(identity(), skipping);
    world.settle();
    assert_eq!((world.processes[keeps_epoch].epoch, world.processes[keeps_epoch].cold), (Some(3), true));
    world.kill(keeps_epoch);
    let auto = world.start(None);
    world.settle();
    assert_eq!((world.processes[auto].epoch, world.processes[auto].cold), (Some(0), true));
    assert_eq!(world.serving(), [auto]);
}

#[test]
fn a_parent_that_comes_a_little_later_is_found() {
    let mut world = World::new();
    world.kill(0);
    let child = world.start(Some(1));
    world.pass(500);
    let parent = world.start(Some(0));
    world.pass(500);
    assert_eq!(world.serving(), [child]);
    assert!(world.processes[parent].exited);
}

#[test]
fn stopping_ends_the_parent_too_and_tells_a_child() {
    let mut world = World::new();
    world.drain_ends = false;
    let child = world.start(Some(1));
    world.settle();
    world.up(child, child::Event::Stopping);
    world.kill(child);
    world.settle();
    assert!(world.alive().is_empty(), "the old one does not come back");

    let mut world = World::new();
    world.workers_start = false;
    let child = world.start(Some(1));
    world.settle();
    world.down(0, ouro_restart::parent::Event::Stopping);
    world.kill(0);
    world.settle();
    assert!(world.processes[child].failed.as_ref().unwrap().contains("being stopped"));
}

#[test]
fn nonsense_is_answered_a_while_and_then_ends_the_connection_only() {
    let mut world = World::new();
    let peer = world.connect_raw();
    world.raw_send(peer, Frame::new(3, Message::Unknown(4711)));
    world.settle();
    let Some(Message::NotUnderstood(answer)) = world.raw_receive(peer) else { panic!() };
    assert_eq!(answer.kind, 4711);
    for _ in 0..100 {
        world.raw_send(peer, Frame::new(3, Message::Unknown(4711)));
    }
    world.settle();
    assert!(!world.raw_is_open(peer));
    // Out of order.
    for message in [
        Message::from(message::DrainListeners::default()),
        message::TerminateParent {}.into(),
        message::State::default().into(),
        message::HelloReply::default().into(),
    ] {
        let peer = world.connect_raw();
        world.raw_send(peer, Frame::new(3, message));
        world.settle();
        let Some(Message::Error(error)) = world.raw_receive(peer) else { panic!() };
        assert_eq!(error.refusal(), Refusal::OutOfOrder);
        assert!(!world.raw_is_open(peer));
    }
    assert_eq!(world.serving(), [0]);
}

#[test]
fn a_commit_before_everything_else_is_refused() {
    let mut world = World::new();
    let peer = world.connect_raw();
    let hello = message::Hello { base_id: 5, protocol_min: 1, protocol_max: 1, ..Default::default() };
    world.raw_send(peer, Frame::new(1, hello));
    world.raw_send(peer, Frame::new(2, message::DrainListeners::default()));
    world.settle();
    assert!(matches!(world.raw_receive(peer), Some(Message::HelloReply(_))));
    assert!(matches!(world.raw_receive(peer), Some(Message::Error(_))));
    assert!(matches!(world.raw_receive(peer), Some(Message::Abort(_))));
    assert_eq!(world.serving(), [0]);
}

#[test]
fn connections_that_say_nothing_are_bounded_and_do_not_stay() {
    let mut world = World::new();
    let peers: Vec<usize> = (0..20).map(|_| world.connect_raw()).collect();
    world.settle();
    assert_eq!(peers.iter().filter(|peer| world.raw_is_open(**peer)).count(), 16);
    world.pass(5_100);
    assert_eq!(peers.iter().filter(|peer| world.raw_is_open(**peer)).count(), 0);
    let child = world.start(None);
    world.settle();
    assert_eq!(world.serving(), [child]);
}
