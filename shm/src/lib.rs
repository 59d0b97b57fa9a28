//! The shared-memory segment of the Ouro proxy: where counters live on while processes come and go.
//!
//! Here will be the segment with its header, the table of processes, the directory of counters, the stripes of
//! values (one per process and worker, so that each cell has one writer), and the reader that sums them. Today there is
//! what is fixed for good: the names and versions by which two processes, or a process and a reader, find each other.
//!
//! Knows nothing of the proxy: neither what is counted nor why.

mod block;
pub mod histogram;
mod metric;
mod snapshot;

pub use block::Block;
pub use metric::{CounterId, GaugeId, HistogramId, Kind, Metric, Scope, Unit, cells_before};
pub use snapshot::{
    Entity, HistogramValue, MetricInfo, Process, ProcessState, ScopeInfo, Share, Snapshot, Value,
};

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
