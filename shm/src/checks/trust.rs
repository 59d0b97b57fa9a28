//! Segments that cannot be trusted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{JOINING, Random, Shared, Thing, numbers, read, serve};
use crate::layout::{self, CONSTANT_WORDS, header};
use crate::sync::Ordering;
use crate::{ReadOptions, Segment, SegmentError};

/// Lets everything run over a segment that may be anything.
fn use_it(segment: &Segment) {
    let _ = segment.snapshot(&ReadOptions { shares_of: vec!["thing".into()] });
    let _ = segment.fold();
    let Ok(member) = segment.join(&JOINING) else { return };
    let stripe = member.stripe(0);
    for name in ["a", "b", "c"] {
        let thing = member.register::<Thing>(&[name]);
        let block = stripe.block(thing);
        block.inc(Thing::DONE);
        block.record(Thing::TIME, 5);
        if name == "b" {
            stripe.retire(block);
            member.retire(thing);
        }
    }
    let _ = segment.reset_counters();
    drop((stripe, member));
    let _ = segment.fold();
    let _ = segment.snapshot(&ReadOptions::default());
}

/// Counts some things, by one process that lives and one that is dead.
fn fill(segment: &Segment) -> crate::Membership {
    for _ in 0..2 {
        let member = serve(segment);
        for name in ["a", "b"] {
            let block = member.stripe(0).block(member.register::<Thing>(&[name]));
            block.add(Thing::DONE, 1);
            block.record(Thing::TIME, 1);
        }
    }
    let member = serve(segment);
    member.stripe(0).block(member.register::<Thing>(&["a"])).record(Thing::TIME, 1);
    member
}

#[test]
fn whatever_is_in_the_memory_nothing_panics_or_hangs() {
    let original = Segment::private(0);
    let _member = fill(&original);
    let words = original.core.words();
    let used = words.iter().rposition(|word| word.load(Ordering::Relaxed) != 0).unwrap() + 1;
    let interesting: Vec<usize> = (0..used).filter(|at| words[*at].load(Ordering::Relaxed) != 0).collect();
    let mut random = Random(0xc0ff_ee11);
    for _ in 0..3000 {
        let broken = Segment::private(0);
        for (to, from) in broken.core.words().iter().zip(&words[..used]) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for _ in 0..=random.below(8) {
            let at = if random.below(2) == 0 {
                interesting[usize::try_from(random.below(interesting.len() as u64)).unwrap()]
            } else {
                usize::try_from(random.below(used as u64)).unwrap()
            };
            let old = words[at].load(Ordering::Relaxed);
            let value = match random.below(5) {
                0 => old ^ 1 << random.below(64),
                1 => u64::MAX,
                2 => random.below(u64::MAX),
                3 => random.below(100_000),
                _ => old.wrapping_add(random.below(3)).wrapping_sub(1),
            };
            broken.core.words()[at].store(value, Ordering::Relaxed);
        }
        use_it(&broken);
    }
}

#[test]
fn whatever_is_in_the_object_something_usable_is_opened() {
    let shared = Shared::new();
    let member = fill(&shared.open());
    let original = fs::read(shared.path()).unwrap();
    let mut random = Random(0x5eed);
    for _ in 0..150 {
        let mut bytes = original.clone();
        // The tables are what a process relies on.
        let bound =
            if random.below(2) == 0 { layout::FRAME_TABLE as u64 * 8 + 512 } else { bytes.len() as u64 };
        for _ in 0..20 {
            bytes[usize::try_from(8 + random.below(bound - 8)).unwrap()] = random.below(256).to_le_bytes()[0];
        }
        put(&shared, &bytes);
        match Segment::attach_existing(shared.0) {
            Ok(segment) => _ = read(&segment),
            Err(SegmentError::Unusable { why }) => assert!(!why.is_empty()),
            Err(other) => panic!("{other}"),
        }
        use_it(&shared.try_open().0);
        assert!(shared.aside().len() <= 1);
    }
    drop(member);
}

/// Puts an object of these bytes in the segment's place.
fn put(shared: &Shared, bytes: &[u8]) {
    let _ = fs::remove_file(shared.path());
    fs::write(shared.path(), bytes).unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Opens what cannot be used; returns what is said.
fn opened_anew(shared: &Shared) -> String {
    assert!(matches!(Segment::attach_existing(shared.0), Err(SegmentError::Unusable { .. })));
    let (segment, events) = shared.try_open();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(shared.aside().len(), 1);
    assert!(events[0].contains(shared.aside()[0].to_str().unwrap()), "{events:?}");
    assert!(read(&segment).entities.is_empty());
    let member = serve(&segment);
    member.stripe(0).block(member.register::<Thing>(&["x"])).inc(Thing::DONE);
    assert_eq!(numbers(&read(&shared.open()), "x"), Some((1, 0, 0)));
    events[0].clone()
}

#[test]
fn what_cannot_be_used_is_set_aside() {
    let shared = Shared::new();
    drop(fill(&shared.open()));
    let original = fs::read(shared.path()).unwrap();
    let with = |at: usize, value: u64, sealed: bool| {
        let mut bytes = original.clone();
        bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        if sealed {
            let words = bytes[..CONSTANT_WORDS * 8].chunks(8);
            let sum = layout::checksum(words.map(|word| u64::from_le_bytes(word.try_into().unwrap())));
            bytes[header::CHECKSUM * 8..][..8].copy_from_slice(&sum.to_le_bytes());
        }
        bytes
    };
    for (bytes, why) in [
        (with(header::LAYOUT_VERSION, 99, true), "its layout is version 99"),
        (with(header::MAGIC, 77, false), "no segment of this program"),
        (with(header::SIZE, 4096, false), "header is corrupt"),
        (with(header::SIZE, 4096, true), "bytes instead of 4096"),
        (with(layout::FRAME_TABLE, 0xf, false), "frame table is corrupt"),
        (with(layout::PROCESSES, 9, false), "process table is corrupt"),
        (with(layout::SCHEMAS, 7777, false), "directory is corrupt"),
        (original[..original.len() / 2].to_vec(), "bytes instead of"),
        (vec![b'x'; 100], "no segment of this program"),
        (vec![0; 1 << 20], "nobody has finished"),
        (Vec::new(), "nobody has finished"),
    ] {
        put(&shared, &bytes);
        let said = opened_anew(&shared);
        assert!(said.contains(why), "{said}");
    }
    put(&shared, &original);
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(opened_anew(&shared).contains("mode 0644"));
    // Who waits for a name to be set aside does not set aside what comes after it.
    put(&shared, &with(header::MAGIC, 77, false));
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                let member = serve(&shared.try_open().0);
                member.stripe(0).block(member.register::<Thing>(&["a"])).inc(Thing::DONE);
            });
        }
    });
    assert_eq!(numbers(&read(&shared.open()), "a"), Some((4, 0, 0)));
}

#[test]
fn a_link_is_not_followed() {
    let (shared, target) = (Shared::new(), Shared::new());
    drop(fill(&target.open()));
    symlink(target.path(), shared.path()).unwrap();
    assert!(opened_anew(&shared).contains("not a shared-memory object"));
    assert_eq!(numbers(&read(&target.open()), "a"), Some((2, 0, 3)));
}

#[test]
fn what_belongs_to_others_is_refused() {
    let shared = Shared::new();
    drop(shared.open());
    if std::os::unix::fs::chown(shared.path(), Some(12345), None).is_err() {
        return; // only root can give away
    }
    let error = Segment::open(&crate::SegmentOptions { base_id: shared.0, size: 0 }).unwrap_err();
    assert!(matches!(error, SegmentError::Foreign { uid: 12345, .. }));
    let text = error.to_string();
    assert!(text.contains("12345") && text.contains(&shared.0.to_string()), "{text}");
    assert!(Segment::attach_existing(shared.0).is_ok(), "root may read");
}

#[test]
fn reading_makes_nothing() {
    let shared = Shared::new();
    assert!(matches!(Segment::attach_existing(shared.0), Err(SegmentError::NotFound { .. })));
    assert!(!shared.path().exists());
    drop(fill(&shared.open()));
    let before = fs::read(shared.path()).unwrap();
    let segment = Segment::attach_existing(shared.0).unwrap();
    assert_eq!(numbers(&read(&segment), "a"), Some((2, 0, 3)));
    assert!(!read(&segment).is_alive());
    assert_eq!(fs::read(shared.path()).unwrap(), before);
}

#[test]
fn a_dynamic_base_id_is_one_that_nobody_has() {
    let (first, a) = Segment::create_dynamic(Shared::SIZE, |_| true).unwrap();
    let (second, b) = Segment::create_dynamic(Shared::SIZE, |_| true).unwrap();
    let _guards = (Shared(a), Shared(b));
    assert_ne!(a, b);
    drop(serve(&first));
    assert!(read(&second).processes.is_empty());
}
