//! Counting, reading and folding within one process.

use super::{JOINING, Thing, numbers, read, serve};
use crate::layout::FRAME_BYTES;
use crate::{Block, EntityId, Membership, ProcessState, ReadOptions, Segment, Stripe, Unit, Value};

const SIZE: u64 = 64 * FRAME_BYTES;

#[test]
fn values_of_all_workers_are_summed() {
    let segment = Segment::private(SIZE);
    let member = serve(&segment);
    let thing = member.register::<Thing>(&["a"]);
    let stripes = [member.stripe(0), member.stripe(1)];
    let blocks: Vec<Block<Thing>> = stripes.iter().map(|stripe| stripe.block(thing)).collect();
    for block in &blocks {
        block.inc(Thing::DONE);
        block.add(Thing::DONE, 9);
        block.raise(Thing::OPEN, 5);
        block.lower(Thing::OPEN, 2);
        block.record(Thing::TIME, 100);
        block.publish(Thing::BYTES, 7);
    }
    blocks[0].lower(Thing::OPEN, 4);
    let snapshot = segment.snapshot(&ReadOptions { shares_of: vec!["thing".into()] });
    assert_eq!(numbers(&snapshot, "a"), Some((20, 2, 2)));
    let entity = snapshot.entity("thing", &["a"]).unwrap();
    assert_eq!(entity.number("bytes"), 14);
    assert_eq!(entity.scope.metrics[2].unit, Unit::Microseconds);
    let Some(Value::Histogram(time)) = entity.value("time") else { panic!("{entity:?}") };
    assert_eq!((time.sum, time.quantile(0.5)), (200, Some(102.0)));
    assert_eq!(snapshot.shares.len(), 2);
    assert_eq!(snapshot.shares[1].worker, 1);
    assert_eq!(snapshot.shares[1].entities[0].number("open"), 3);
    assert_eq!((snapshot.generations, snapshot.overflows), (1, 0));
    let process = &snapshot.processes[0];
    assert_eq!((process.epoch, process.workers, process.version.as_str()), (3, 2, "1.2.3"));
    assert!(process.alive && process.state == ProcessState::Serving && process.pid == std::process::id());
}

#[test]
fn counters_outlive_a_process_and_gauges_do_not() {
    let segment = Segment::private(SIZE);
    for round in 1..=3 {
        let member = serve(&segment);
        let thing = member.register::<Thing>(&["a"]);
        let block = member.stripe(0).block(thing);
        block.add(Thing::DONE, 10);
        block.raise(Thing::OPEN, 1);
        block.record(Thing::TIME, 5);
        assert_eq!(numbers(&read(&segment), "a"), Some((round * 10, 1, round)));
        drop(block);
        drop(member);
        // Before the fold, and after it.
        assert_eq!(numbers(&read(&segment), "a"), Some((round * 10, 0, round)));
        assert_eq!(segment.fold().unwrap(), 1);
        assert_eq!(numbers(&read(&segment), "a"), Some((round * 10, 0, round)));
        assert_eq!(segment.fold().unwrap(), 0);
        assert!(read(&segment).processes.is_empty());
    }
}

#[test]
fn a_process_lives_as_long_as_anything_of_it_can_count() {
    let segment = Segment::private(SIZE);
    let member = serve(&segment);
    let block = member.stripe(0).block(member.register::<Thing>(&["a"]));
    drop(member);
    assert_eq!(segment.fold().unwrap(), 0);
    block.inc(Thing::DONE);
    drop(block);
    assert_eq!(segment.fold().unwrap(), 1);
    assert_eq!(numbers(&read(&segment), "a"), Some((1, 0, 0)));
}

#[test]
fn what_nobody_has_any_more_goes_once_somebody_serves() {
    let segment = Segment::private(SIZE);
    let member = serve(&segment);
    member.stripe(0).block(member.register::<Thing>(&["a"])).inc(Thing::DONE);
    member.stripe(0).block(member.register::<Thing>(&["b"])).inc(Thing::DONE);
    drop(member);
    let next = segment.join(&JOINING).unwrap();
    assert_eq!(numbers(&read(&segment), "b"), Some((1, 0, 0)), "the next may still want it");
    let _ = next.register::<Thing>(&["a"]);
    next.set_state(ProcessState::Serving);
    assert_eq!(numbers(&read(&segment), "a"), Some((1, 0, 0)));
    assert_eq!(numbers(&read(&segment), "b"), None);
    segment.fold().unwrap();
    assert_eq!(numbers(&read(&segment), "b"), None);
    let _ = next.register::<Thing>(&["b"]);
    assert_eq!(numbers(&read(&segment), "b"), Some((0, 0, 0)), "it begins anew");
}

#[test]
fn a_reset_makes_everything_zero_and_counting_goes_on() {
    let segment = Segment::private(SIZE);
    let old = serve(&segment);
    old.stripe(0).block(old.register::<Thing>(&["a"])).record(Thing::TIME, 1);
    drop(old);
    let member = serve(&segment);
    let block = member.stripe(0).block(member.register::<Thing>(&["a"]));
    block.add(Thing::DONE, 100);
    block.raise(Thing::OPEN, 1);
    block.record(Thing::TIME, 77);
    segment.reset_counters().unwrap();
    assert_eq!(numbers(&read(&segment), "a"), Some((0, 1, 0)));
    block.inc(Thing::DONE);
    block.record(Thing::TIME, 77);
    assert_eq!(numbers(&read(&segment), "a"), Some((1, 1, 1)));
    drop((block, member));
    segment.fold().unwrap();
    assert_eq!(numbers(&read(&segment), "a"), Some((1, 0, 1)));
}

#[test]
fn retired_cells_are_used_again() {
    let segment = Segment::private(SIZE);
    let member = serve(&segment);
    let stripe = member.stripe(0);
    let mut held = None;
    for round in 0..5000 {
        let name = format!("thing {round}");
        let thing = member.register::<Thing>(&[&name]);
        let block = stripe.block(thing);
        block.inc(Thing::DONE);
        block.record(Thing::TIME, round);
        assert_eq!(block.clone().home_count(), 2);
        if round % 500 == 0 {
            assert_eq!(numbers(&read(&segment), &name), Some((1, 0, 1)));
            assert_eq!(read(&segment).entities.len(), 1);
        }
        stripe.retire(block);
        member.retire(thing);
        assert_eq!(numbers(&read(&segment), &name), None);
        let memory = read(&segment).memory.0;
        assert!(*held.get_or_insert(memory) == memory, "round {round}");
    }
}

#[test]
fn a_block_that_is_asked_for_again_goes_on_counting() {
    let segment = Segment::private(SIZE);
    let member = serve(&segment);
    let (stripe, thing) = (member.stripe(0), member.register::<Thing>(&["a"]));
    for round in 1..10 {
        let block = stripe.block(thing);
        block.inc(Thing::DONE);
        stripe.retire(block);
        assert_eq!(numbers(&read(&segment), "a"), Some((round, 0, 0)));
    }
}

#[test]
fn without_room_traffic_goes_on_and_it_is_said_once() {
    let segment = Segment::private(0);
    let member = serve(&segment);
    let stripe = member.stripe(0);
    let mut blocks = Vec::new();
    for n in 0..20_000 {
        let name = n.to_string();
        let block = stripe.block(member.register::<Thing>(&[&name]));
        block.inc(Thing::DONE);
        block.record(Thing::TIME, n);
        blocks.push(block);
    }
    let snapshot = read(&segment);
    assert!(snapshot.overflows > 1000, "{}", snapshot.overflows);
    assert_eq!(member.take_reports().len(), 1);
    assert!(member.take_reports().is_empty());
    assert_eq!(snapshot.entity("thing", &["0"]).unwrap().number("done"), 1);
    assert!(snapshot.memory.0 <= snapshot.memory.1);
    // There is no room to fold into either, so the counters stay where they are.
    drop((blocks, stripe, member));
    let _ = segment.fold();
    assert_eq!(read(&segment).entity("thing", &["0"]).unwrap().number("done"), 1);
}

#[test]
fn long_labels_are_cut_and_still_differ() {
    let segment = Segment::private(SIZE);
    let member = serve(&segment);
    let long = "ä".repeat(300);
    let _ = member.register::<Thing>(&[&format!("{long}1")]);
    let _ = member.register::<Thing>(&[&format!("{long}2")]);
    let snapshot = read(&segment);
    assert_eq!(snapshot.entities.len(), 2);
    assert!(snapshot.entities.iter().all(|e| e.labels[0].starts_with("ää") && e.labels[0].len() < 224));
}

mod newer {
    crate::scope! {
        /// The same as a later version has it.
        pub(crate) Thing "thing" "thing.{}" ["name"] {
            Histogram TIME "time" Microseconds "How long it took.";
            Counter NEW "new" Count "What the old one did not count.";
            Counter DONE "done" Count "How much was done, in other words.";
        }
    }
}

#[test]
fn two_versions_count_the_same_thing() {
    let segment = Segment::private(SIZE);
    let (old, new) = (serve(&segment), serve(&segment));
    let a = old.stripe(0).block(old.register::<Thing>(&["a"]));
    let b = new.stripe(0).block(new.register::<newer::Thing>(&["a"]));
    a.add(Thing::DONE, 1);
    a.raise(Thing::OPEN, 1);
    a.record(Thing::TIME, 3);
    b.add(newer::Thing::DONE, 2);
    b.inc(newer::Thing::NEW);
    b.record(newer::Thing::TIME, 3);
    let check = |open| {
        let snapshot = read(&segment);
        assert_eq!(snapshot.entities.len(), 1);
        assert_eq!(numbers(&snapshot, "a"), Some((3, open, 2)));
        let entity = &snapshot.entities[0];
        assert_eq!((entity.number("new"), entity.scope.metrics[0].name.as_str()), (1, "time"));
        entity.scope.metrics.len()
    };
    assert_eq!(check(1), 5);
    drop((a, old));
    assert_eq!(check(0), 5);
    assert_eq!(segment.fold().unwrap(), 1);
    assert_eq!(check(0), 3, "only the new version's metrics are left");
    assert_eq!(segment.fold().unwrap(), 0);
    assert_eq!(check(0), 3);
}

#[test]
fn generations_do_not_add_up() {
    let segment = Segment::private(SIZE);
    let mut held = 0;
    let mut before: Option<(Membership, Block<Thing>)> = None;
    for round in 1..=200 {
        let member = serve(&segment);
        let block = member.stripe(0).block(member.register::<Thing>(&["a"]));
        block.inc(Thing::DONE);
        block.record(Thing::TIME, round);
        before = Some((member, block));
        if round == 4 {
            held = read(&segment).memory.0;
        }
    }
    drop(before);
    let snapshot = read(&segment);
    assert_eq!(numbers(&snapshot, "a"), Some((200, 0, 200)));
    assert_eq!(snapshot.generations, 200);
    assert_eq!(snapshot.memory.0, held);
}

#[test]
fn the_table_of_processes_is_bounded() {
    let segment = Segment::private(SIZE);
    let members: Vec<_> = (0..64).map(|_| serve(&segment)).collect();
    assert!(matches!(segment.join(&JOINING), Err(crate::SegmentError::Full { .. })));
    assert_eq!(segment.live_processes().len(), 64);
    drop(members);
    assert_eq!(serve(&segment).segment().live_processes().len(), 1);
}

#[test]
fn detached_things_count_nowhere() {
    let block = Stripe::detached().block(EntityId::<Thing>::detached());
    block.inc(Thing::DONE);
    block.record(Thing::TIME, 1);
    block.set(Thing::OPEN, 1);
    Stripe::detached().retire(block);
}

#[test]
fn handles_go_where_they_should() {
    fn everywhere<T: Send + Sync>() {}
    fn to_another_thread<T: Send>() {}
    everywhere::<Segment>();
    everywhere::<Membership>();
    everywhere::<EntityId<Thing>>();
    to_another_thread::<Stripe>();
}
