//! The shared-memory segment of the Ouro proxy: where counters live on while processes come and go.
//!
//! A [`Segment`] has a header, a table of processes, a directory of what is counted, and the values: in stripes, one
//! per process and worker, so that each cell has one writer. A process [joins](Segment::join) the segment, registers
//! what it counts, and gives each worker a [`Stripe`]; the worker counts in [`Block`]s of cells. A reader takes a
//! [`Snapshot`], in which everything is summed. When a process is gone, however it ended, its counters are
//! [folded](Segment::fold) into a set that belongs to nobody. `docs/statistics.md` tells it in full.
//!
//! Knows nothing of the proxy: neither what is counted nor why.

// The mapping becomes a slice of words in `memory`, a block keeps the address of its cells; nothing else needs `unsafe`.
#![allow(unsafe_code)]

mod arena;
mod block;
mod core;
mod directory;
mod error;
mod fault;
mod fold;
mod frames;
pub mod histogram;
mod layout;
mod lock;
mod member;
mod memory;
mod metric;
mod object;
mod ownership;
mod processes;
mod read;
mod schema;
mod segment;
mod snapshot;
mod stripe;
mod sums;
mod sync;
mod totals;

pub use block::Block;
pub use error::SegmentError;
pub use layout::DEFAULT_SIZE;
pub use member::{EntityId, Membership};
pub use metric::{CounterId, GaugeId, HistogramId, Kind, Metric, Scope, Unit, cells_before};
pub use processes::Joining;
pub use read::ReadOptions;
pub use segment::{Apart, Segment, SegmentOptions};
pub use snapshot::{
    Entity, HistogramValue, MetricInfo, Process, ProcessState, ScopeInfo, Share, Snapshot, Value,
};
pub use stripe::Stripe;
pub use totals::Totals;

/// Version of the hot restart as a whole. Processes that differ in it cannot restart into each other.
pub const HOT_RESTART_VERSION: u32 = 1;

/// Version of the segment's layout. A segment of another layout is never reinterpreted: the new process makes a
/// segment of its own and is told the totals.
pub const LAYOUT_VERSION: u32 = 1;

/// Name of the POSIX shared-memory object of the instance with this base id, as `shm_open(3)` takes it.
///
/// Instances on one machine are told apart by the base id and by nothing else: all processes of one instance, old
/// and new, open the same name.
#[must_use]
pub fn segment_name(base_id: u32) -> String {
    format!("/ouro_{base_id}")
}

#[cfg(all(test, not(loom)))]
mod checks;

#[cfg(all(test, loom))]
#[allow(clippy::unwrap_used)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_base_id_has_a_segment_of_its_own() {
        assert_eq!(segment_name(0), "/ouro_0");
        assert_eq!(segment_name(17), "/ouro_17");
        assert_eq!(segment_name(u32::MAX), "/ouro_4294967295");
    }

    #[test]
    fn a_name_is_one_that_shm_open_takes() {
        // One slash, in front, and NAME_MAX (255) bytes behind it at most.
        let name = segment_name(u32::MAX);
        assert_eq!(name.rfind('/'), Some(0));
        assert!(name.len() <= 256, "{name}");
    }
}
