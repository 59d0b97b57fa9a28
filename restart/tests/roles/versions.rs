//! Pretended older and newer processes, both ways.

use ouro_restart::Identity;
use ouro_restart::frame::Frame;
use ouro_restart::message::{self, Message};

use crate::world::{World, identity, options};

fn speaking(min: u32, max: u32) -> Identity {
    Identity { protocol_min: min, protocol_max: max, ..identity() }
}

/// A world whose first process is somebody else.
fn world_of(parent: Identity) -> World {
    let mut world = World::new();
    world.kill(0);
    let number = world.start_as(parent, options(Some(0)));
    world.settle();
    assert_eq!(world.serving(), [number]);
    world
}

#[test]
fn older_and_newer_protocols_meet_where_they_can() {
    for (parent, child, expected) in [
        ((1, 1), (1, 3), Some(1)),
        ((1, 3), (1, 1), Some(1)),
        ((2, 4), (1, 3), Some(3)),
        ((2, 2), (3, 3), None),
        ((3, 3), (1, 2), None),
    ] {
        let mut world = world_of(speaking(parent.0, parent.1));
        let number = world.start_as(speaking(child.0, child.1), options(None));
        world.settle();
        let process = &world.processes[number];
        match expected {
            Some(protocol) => {
                assert_eq!(process.up.parent().unwrap().protocol, protocol);
                assert_eq!(world.serving(), [number]);
            }
            None => {
                let why = process.failed.clone().unwrap();
                assert!(why.contains(&format!("speaks {} to {}", child.0, child.1)), "{why}");
                assert_eq!(world.serving(), [1], "the parent goes on");
            }
        }
    }
}

#[test]
fn another_layout_means_totals_before_and_after() {
    for (theirs, ours) in [(1, 2), (2, 1)] {
        let mut world = world_of(Identity { layout_version: theirs, ..identity() });
        let child = world.start_as(Identity { layout_version: ours, ..identity() }, options(None));
        world.settle();
        assert_eq!(world.serving(), [child]);
        assert_eq!(world.processes[child].totals, [false, true]);
        assert_eq!(world.alive(), [child]);
    }
}

#[test]
fn another_segment_means_totals_as_well_unless_the_parent_names_none() {
    for (theirs, ours, totals) in
        [(7, 8, &[false, true][..]), (7, 0, &[false, true]), (7, 7, &[]), (0, 8, &[])]
    {
        let mut world = world_of(Identity { segment_id: theirs, ..identity() });
        let child = world.start_as(Identity { segment_id: ours, ..identity() }, options(None));
        world.settle();
        assert_eq!(world.serving(), [child]);
        assert_eq!(world.processes[child].totals, totals, "{theirs} and {ours}");
    }
}

/// A child that serves without the word of its parent is the one that answers at the restart socket.
#[test]
fn the_end_of_a_parent_that_hung_at_the_commit_raises_no_question() {
    use ouro_restart::child::{Action, Event};
    let deadlines = ouro_restart::Deadlines::default();
    let mut machine = ouro_restart::Child::new(identity(), options(None), deadlines.clone());
    machine.handle(0, Event::Start);
    machine.handle(0, Event::Connected);
    let mut answer =
        |id, message: Message| machine.handle(0, Event::Frame { frame: Frame::new(id, message), fds: 0 });
    let reply = message::HelloReply {
        protocol: 1,
        layout_version: identity().layout_version,
        child_epoch: 1,
        base_id: 5,
        ..Default::default()
    };
    answer(1, reply.into());
    answer(2, message::ListenSocketsReply::default().into());
    answer(3, message::StateReply::default().into());
    machine.handle(0, Event::WorkersAccepting { workers: 1, released: Vec::new() });
    let actions = machine.handle(deadlines.commit_ms, Event::Timer);
    assert!(actions.contains(&Action::CheckService { elder: false }), "{actions:?}");
    let actions = machine.handle(deadlines.commit_ms + deadlines.check_ms, Event::Timer);
    assert!(actions.contains(&Action::TakeOver { epoch: 1 }), "{actions:?}");
    assert!(machine.is_without_answer());
    let actions = machine.handle(20_000, Event::ParentGone { why: "killed".into() });
    assert!(actions.contains(&Action::ParentEnded), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::CheckService { .. })), "{actions:?}");
    assert!(!machine.is_without_answer());
}

#[test]
fn totals_are_not_asked_for_if_they_are_not_wanted() {
    let mut world = world_of(Identity { layout_version: 2, ..identity() });
    let mut without = options(None);
    without.totals = false;
    let child = world.start_as(identity(), without);
    world.settle();
    assert_eq!(world.serving(), [child]);
    assert!(world.processes[child].totals.is_empty());
}

#[test]
fn a_parent_that_knows_no_totals_is_taken_over_all_the_same() {
    let mut machine = ouro_restart::Child::new(
        Identity { layout_version: 2, ..identity() },
        options(None),
        ouro_restart::Deadlines::default(),
    );
    use ouro_restart::child::{Action, Event};
    machine.handle(0, Event::Start);
    machine.handle(0, Event::Connected);
    let mut answer =
        |id, message: Message| machine.handle(0, Event::Frame { frame: Frame::new(id, message), fds: 0 });
    let reply = message::HelloReply {
        protocol: 1,
        layout_version: 1,
        child_epoch: 1,
        base_id: 5,
        ..Default::default()
    };
    answer(1, reply.into());
    answer(2, message::ListenSocketsReply::default().into());
    answer(3, message::StateReply::default().into());
    let actions = answer(4, message::NotUnderstood { kind: 7 }.into());
    assert!(actions.contains(&Action::Prepare { epoch: 1, cold: false }), "{actions:?}");
}

#[test]
fn messages_of_the_future_are_answered_and_change_nothing() {
    let mut world = World::new();
    let peer = world.connect_raw();
    let hello = message::Hello { base_id: 5, protocol_min: 1, protocol_max: 9, ..Default::default() };
    world.raw_send(peer, Frame::new(1, hello));
    world.raw_send(peer, Frame::new(2, Message::Unknown(900)));
    world.raw_send(peer, Frame::new(3, message::ListenSockets { cursor: 0 }));
    world.raw_send(peer, Frame::new(4, message::State { cursor: 0 }));
    world.raw_send(peer, Frame::new(0, message::ChildReady { workers: 1 }));
    world.raw_send(peer, Frame::new(0, Message::Unknown(901)));
    world.raw_send(
        peer,
        Frame::new(5, message::DrainListeners { parent_shutdown_ms: 1000, ..Default::default() }),
    );
    world.settle();
    let mut names = Vec::new();
    while let Some(message) = world.raw_receive(peer) {
        names.push(message.name());
    }
    assert_eq!(
        names,
        [
            "HelloReply",
            "NotUnderstood",
            "ListenSocketsReply",
            "StateReply",
            "NotUnderstood",
            "DrainListenersReply",
            "HandoverDone"
        ]
    );
}
