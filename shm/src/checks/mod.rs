//! Tests of the segment as a whole.

// Tests and their helpers may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod counting;

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
