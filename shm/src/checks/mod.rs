//! Tests of the segment as a whole.

// Tests and their helpers may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod children;
mod counting;
mod killed;
mod totals;
mod trust;

use crate::{Joining, Membership, ProcessState, ReadOptions, Segment, Snapshot};

crate::scope! {
    /// Something that is counted.
    pub(crate) Thing "thing" "thing.{}" ["name"] {
        Counter DONE "done" Count "How much was done.";
        Gauge OPEN "open" Count "How much is open.";
        Histogram TIME "time" Microseconds "How long it took.";
        Counter BYTES "bytes" Bytes "How many bytes.";
    }
}

pub(crate) const JOINING: Joining<'static> = Joining { epoch: 3, workers: 2, version: "1.2.3" };

pub(crate) fn read(segment: &Segment) -> Snapshot {
    segment.snapshot(&ReadOptions::default())
}

/// Counter, gauge, and number of values of a thing.
pub(crate) fn numbers(snapshot: &Snapshot, name: &str) -> Option<(u64, u64, u64)> {
    let thing = snapshot.entity("thing", &[name])?;
    let time = match thing.value("time") {
        Some(crate::Value::Histogram(time)) => time.clone(),
        other => panic!("{other:?}"),
    };
    let in_buckets: u64 = time.buckets.iter().map(|(_, n)| n).sum();
    assert!(time.count == in_buckets, "{time:?}");
    Some((thing.number("done"), thing.number("open"), time.count))
}

/// Joins and serves.
pub(crate) fn serve(segment: &Segment) -> Membership {
    let member = segment.join(&JOINING).unwrap();
    member.set_state(ProcessState::Serving);
    member
}

/// A shared segment with a base id of its own, removed in the end.
pub(crate) struct Shared(pub(crate) u32);

impl Shared {
    pub(crate) const SIZE: u64 = 64 * crate::layout::FRAME_BYTES;

    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        // Far from what anybody would choose, and from what `create_dynamic` tries.
        Self(u32::try_from(random % 1_000_000_000).unwrap() + 2_000_000_000)
    }

    /// Opens it; nothing may be wrong with it.
    pub(crate) fn open(&self) -> Segment {
        let (segment, events) = self.try_open();
        assert!(events.is_empty(), "{events:?}");
        segment
    }

    pub(crate) fn try_open(&self) -> (Segment, Vec<String>) {
        Segment::open(&crate::SegmentOptions { base_id: self.0, size: Self::SIZE }).unwrap()
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        crate::object::path(self.0)
    }

    /// What was set aside.
    pub(crate) fn aside(&self) -> Vec<std::path::PathBuf> {
        let prefix = format!("ouro_{}.bad-", self.0);
        let entries = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap());
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Segment::unlink(self.0);
        for path in self.aside() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Numbers that look random and repeat with the seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

crate::scope! {
    /// Something else that is counted.
    pub(crate) Other "other" "other.{}" ["name"] {
        Counter DONE "done" Count "How much was done.";
    }
}
