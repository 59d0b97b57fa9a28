//! Counters: what is counted, and where in the segment each thing of the configuration has its cells.
//!
//! Knows what is counted, and nothing of those who count or of those who read.

pub mod render;
mod scopes;

use ouro_shm::{Block, CounterId, EntityId, Metric, Scope};

pub use self::scopes::{
    CODES, ClusterScope, EndpointScope, HandoverScope, HttpScope, ListenerScope, ServerScope, TcpScope,
    WorkerScope,
};

/// What the counters of a listener are filed under.
#[derive(Clone, Copy, Debug)]
pub struct ListenerEntities {
    /// What all listeners have.
    pub listener: EntityId<ListenerScope>,
    /// What listeners have that speak HTTP.
    pub http: Option<EntityId<HttpScope>>,
    /// What listeners have that relay bytes.
    pub tcp: Option<EntityId<TcpScope>>,
}

/// What the counters of a configuration's parts are filed under, in the configuration's order.
#[derive(Clone, Debug, Default)]
pub struct Entities {
    /// One for each listener.
    pub listeners: Vec<ListenerEntities>,
    /// One for each cluster.
    pub clusters: Vec<EntityId<ClusterScope>>,
    /// One for each worker.
    pub workers: Vec<EntityId<WorkerScope>>,
    /// The one for connections that move.
    pub handover: Option<EntityId<HandoverScope>>,
}

/// A scope as a table, for those who treat all scopes alike.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// See [`Scope::NAME`].
    pub name: &'static str,
    /// See [`Scope::TEXT`].
    pub text: &'static str,
    /// See [`Scope::LABELS`].
    pub labels: &'static [&'static str],
    /// See [`Scope::METRICS`].
    pub metrics: &'static [Metric],
}

impl Table {
    const fn of<S: Scope>() -> Self {
        Self { name: S::NAME, text: S::TEXT, labels: S::LABELS, metrics: S::METRICS }
    }
}

/// Everything that is counted.
pub const TABLES: &[Table] = &[
    Table::of::<ServerScope>(),
    Table::of::<HandoverScope>(),
    Table::of::<ListenerScope>(),
    Table::of::<HttpScope>(),
    Table::of::<TcpScope>(),
    Table::of::<ClusterScope>(),
    Table::of::<EndpointScope>(),
    Table::of::<WorkerScope>(),
];

/// Counts a status by class. 1xx is class 1 and so on; what is no status is not counted.
#[inline]
pub fn count_class<S: Scope>(block: &Block<S>, classes: &[CounterId<S>; 5], status: u16) {
    if let Some(class) = usize::from(status / 100).checked_sub(1).and_then(|n| classes.get(n)) {
        block.inc(*class);
    }
}

/// The counters of [`HttpScope`] for 1xx to 5xx.
pub const HTTP_CLASSES: [CounterId<HttpScope>; 5] =
    [HttpScope::RQ_1XX, HttpScope::RQ_2XX, HttpScope::RQ_3XX, HttpScope::RQ_4XX, HttpScope::RQ_5XX];

/// The counters of [`ClusterScope`] for 1xx to 5xx.
pub const CLUSTER_CLASSES: [CounterId<ClusterScope>; 5] = [
    ClusterScope::RQ_1XX,
    ClusterScope::RQ_2XX,
    ClusterScope::RQ_3XX,
    ClusterScope::RQ_4XX,
    ClusterScope::RQ_5XX,
];

/// For each status from 100 to 599, its position in [`CODES`] plus one; 0 for a status without a counter.
const CODE_POSITIONS: [u8; 500] = {
    let mut positions = [0; 500];
    let mut n = 0;
    while n < CODES.len() {
        #[allow(clippy::cast_possible_truncation)] // far fewer than 255
        {
            positions[CODES[n] as usize - 100] = n as u8 + 1;
        }
        n += 1;
    }
    positions
};

/// Position of the first status code in the table of [`ClusterScope`].
const FIRST_CODE: usize = {
    let metrics = <ClusterScope as Scope>::METRICS;
    let mut n = 0;
    while !same(metrics[n].name.as_bytes(), b"upstream_rq_100") {
        n += 1;
    }
    n
};

const CODE_COUNTERS: [CounterId<ClusterScope>; CODES.len()] = {
    let mut counters = [ClusterScope::RQ_100; CODES.len()];
    let mut n = 0;
    while n < CODES.len() {
        counters[n] = CounterId::at(FIRST_CODE + n);
        n += 1;
    }
    counters
};

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut n = 0;
    while n < a.len() {
        if a[n] != b[n] {
            return false;
        }
        n += 1;
    }
    true
}

/// Counts a response of a cluster by class and by status.
pub fn count_response(block: &Block<ClusterScope>, status: u16) {
    count_class(block, &CLUSTER_CLASSES, status);
    let position = usize::from(status).checked_sub(100).and_then(|n| CODE_POSITIONS.get(n)).copied();
    if let Some(counter) = position.and_then(|n| CODE_COUNTERS.get(usize::from(n).checked_sub(1)?)) {
        block.inc(*counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_counter_of_its_name() {
        for (n, code) in CODES.iter().enumerate() {
            let metric = ClusterScope::METRICS[FIRST_CODE + n];
            assert_eq!(metric.name, format!("upstream_rq_{code}"));
            assert_eq!(CODE_POSITIONS[usize::from(*code) - 100], u8::try_from(n + 1).unwrap());
        }
    }

    #[test]
    fn any_number_can_be_counted() {
        let block = Block::detached();
        (0..=u16::MAX).for_each(|status| count_response(&block, status));
    }

    #[test]
    fn names_are_unique_within_their_scope() {
        for table in TABLES {
            let mut names: Vec<_> = table.metrics.iter().map(|metric| metric.name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}", table.name);
        }
    }
}
