//! Totals of another segment that go on in a new one.

use super::{Shared, Thing, numbers, read, serve};
use crate::layout::FRAME_BYTES;
use crate::{Segment, SegmentOptions, Value};

const SIZE: u64 = 64 * FRAME_BYTES;

#[test]
fn totals_of_another_segment_are_taken_once_however_often_they_are_set() {
    let old = Segment::private(SIZE);
    let theirs = serve(&old);
    let counted = theirs.stripe(0).block(theirs.register::<Thing>(&["a"]));
    counted.add(Thing::DONE, 10);
    counted.raise(Thing::OPEN, 3);
    counted.record(Thing::TIME, 100);

    let new = Segment::private(SIZE);
    let ours = serve(&new);
    let block = ours.stripe(0).block(ours.register::<Thing>(&["a"]));
    block.add(Thing::DONE, 1);
    block.record(Thing::TIME, 100);
    let mut totals = ours.totals();
    totals.set(&read(&old).entities);
    assert_eq!(numbers(&read(&new), "a"), Some((11, 0, 2)));
    // Counters that began here go on, a reset included.
    new.reset_counters().unwrap();
    counted.add(Thing::DONE, 5);
    counted.record(Thing::TIME, 100);
    counted.record(Thing::TIME, 1 << 20);
    totals.set(&read(&old).entities);
    totals.set(&read(&old).entities);
    assert_eq!(numbers(&read(&new), "a"), Some((5, 0, 2)));
    let snapshot = read(&new);
    let Some(Value::Histogram(time)) = snapshot.entity("thing", &["a"]).unwrap().value("time") else {
        panic!("no histogram");
    };
    assert_eq!(time.buckets.iter().map(|(_, n)| n).sum::<u64>(), 2);
    assert_eq!(time.sum, 100 + (1 << 20));
    // They are this process's own, and stay when it is gone.
    drop((totals, block, ours));
    let next = serve(&new);
    let _ = next.register::<Thing>(&["a"]);
    assert_eq!(numbers(&read(&new), "a"), Some((5, 0, 2)));
}

#[test]
fn what_was_counted_here_is_told_from_what_was_told() {
    let new = Segment::private(SIZE);
    let ours = serve(&new);
    ours.stripe(0).block(ours.register::<Thing>(&["a"])).add(Thing::DONE, 1);
    let told = |n| {
        let other = Segment::private(SIZE);
        let theirs = serve(&other);
        theirs.stripe(0).block(theirs.register::<Thing>(&["a"])).add(Thing::DONE, n);
        read(&other).entities
    };
    ours.totals().set(&told(10));
    ours.inheritance().set(&told(100));
    assert_eq!(numbers(&read(&new), "a"), Some((111, 0, 0)));
    let here = new.counted_here();
    assert_eq!(here.iter().map(|entity| entity.number("done")).collect::<Vec<_>>(), [101]);
}

#[test]
fn what_another_program_counts_is_taken_as_it_is() {
    crate::scope! {
        /// The same with other metrics.
        Newer "thing" "thing.{}" ["name"] {
            Counter NEWS "news" Count "Something new.";
            Counter DONE "done" Count "How much was done.";
        }
    }
    let old = Segment::private(SIZE);
    let theirs = serve(&old);
    theirs.stripe(0).block(theirs.register::<Thing>(&["a"])).add(Thing::DONE, 10);
    let new = Segment::private(SIZE);
    let ours = serve(&new);
    let block = ours.stripe(0).block(ours.register::<Newer>(&["a"]));
    block.inc(Newer::NEWS);
    block.inc(Newer::DONE);
    ours.totals().set(&read(&old).entities);
    let snapshot = read(&new);
    let entity = snapshot.entity("thing", &["a"]).unwrap();
    assert_eq!((entity.number("done"), entity.number("news")), (11, 1));
}

#[test]
fn who_is_there_is_known_until_he_is_gone() {
    let shared = Shared::new();
    let (ours, theirs) = (shared.open(), shared.open());
    assert!(!ours.is_anybody_present());
    theirs.show_presence();
    assert!(ours.is_anybody_present());
    // Shared by all who count, and no obstacle to the lock of those who change the tables.
    let third = shared.open();
    third.show_presence();
    drop(serve(&ours));
    drop(theirs);
    assert!(ours.is_anybody_present());
    drop(third);
    assert!(!ours.is_anybody_present());
}

#[test]
fn a_segment_that_is_made_apart_takes_its_place_at_once_or_leaves_nothing() {
    let shared = Shared::new();
    let old = shared.open();
    let options = SegmentOptions { base_id: shared.0, size: Shared::SIZE };
    let apart = || Segment::create_apart(&options, 7, 12345).unwrap();
    drop(apart());
    let (new, place) = apart();
    assert_eq!(Segment::peek(shared.0).unwrap().unwrap().id(), old.id());
    let _member = serve(&new);
    place.establish().unwrap();
    assert_eq!(Segment::peek(shared.0).unwrap().unwrap().id(), new.id());
    let snapshot = read(&shared.open());
    assert_eq!((snapshot.generations, snapshot.first_started_ms), (8, 12345));
    let left = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let next = format!("ouro_{}.next-", shared.0);
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&next)).count(), 0);
}
