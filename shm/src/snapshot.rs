//! What a reader gets: every process, every entity and every value at one moment.

use std::sync::Arc;

use crate::histogram;
use crate::metric::{Kind, Unit};

/// Everything that a segment says.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Processes that have a place in the table, the dead among them that were not folded yet, oldest first.
    pub processes: Vec<Process>,
    /// Entities, ordered by scope and labels.
    pub entities: Vec<Entity>,
    /// What each worker of each live process counted, for scopes that the reader asked for; see
    /// [`crate::ReadOptions::shares_of`].
    pub shares: Vec<Share>,
    /// When the first process of the instance started, Unix time in milliseconds.
    pub first_started_ms: u64,
    /// When this was read, Unix time in milliseconds.
    pub read_at_ms: u64,
    /// Hot-restart version of the segment.
    pub hot_restart_version: u32,
    /// Layout version of the segment.
    pub layout_version: u32,
    /// Bytes of memory that the segment holds, and that it may hold at most.
    pub memory: (u64, u64),
    /// Entities and histograms that found no room.
    pub overflows: u64,
    /// Processes that the instance has had so far.
    pub generations: u64,
}

impl Snapshot {
    /// Whether a process of the instance lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.processes.iter().any(|process| process.alive)
    }

    /// The entity of a scope with these labels.
    #[must_use]
    pub fn entity(&self, scope: &str, labels: &[&str]) -> Option<&Entity> {
        self.entities.iter().find(|entity| entity.scope.name == scope && entity.labels == labels)
    }
}

/// A process of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its restart epoch.
    pub epoch: u32,
    /// When it started, Unix time in milliseconds.
    pub started_ms: u64,
    /// What it says it does.
    pub state: ProcessState,
    /// Its worker threads.
    pub workers: u32,
    /// It exists.
    pub alive: bool,
    /// Version of its program.
    pub version: String,
}

/// What a process says it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessState {
    /// It prepares to serve.
    Starting,
    /// It serves.
    Serving,
    /// It serves what it has and takes nothing more.
    Draining,
    /// It has ended in good order.
    Gone,
}

/// One thing that has counters.
#[derive(Clone, Debug)]
pub struct Entity {
    /// What kind of thing it is.
    pub scope: Arc<ScopeInfo>,
    /// Its labels, as many as the scope has.
    pub labels: Vec<String>,
    /// A value for each metric of the scope.
    pub values: Vec<Value>,
}

impl Entity {
    /// The value of a metric.
    #[must_use]
    pub fn value(&self, metric: &str) -> Option<&Value> {
        let position = self.scope.metrics.iter().position(|m| m.name == metric)?;
        self.values.get(position)
    }

    /// The value of a counter or gauge; 0 where there is none.
    #[must_use]
    pub fn number(&self, metric: &str) -> u64 {
        match self.value(metric) {
            Some(Value::Counter(value) | Value::Gauge(value)) => *value,
            _ => 0,
        }
    }
}

/// What one worker counted itself.
#[derive(Clone, Debug)]
pub struct Share {
    /// Process id of its process.
    pub pid: u32,
    /// Its number.
    pub worker: u32,
    /// Entities that it counts, ordered by scope and labels. Counters are those of this process alone.
    pub entities: Vec<Entity>,
}

/// A scope as the segment describes it: the reader need not know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeInfo {
    /// See [`crate::Scope::NAME`].
    pub name: String,
    /// See [`crate::Scope::TEXT`].
    pub text: String,
    /// See [`crate::Scope::LABELS`].
    pub labels: Vec<String>,
    /// See [`crate::Scope::METRICS`].
    pub metrics: Vec<MetricInfo>,
}

/// A metric as the segment describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricInfo {
    /// Its name within the scope.
    pub name: String,
    /// How it behaves.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// One sentence for operators.
    pub help: String,
}

/// The value of a metric, all processes and workers together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Total so far, processes that are gone included.
    Counter(u64),
    /// Of the processes that live.
    Gauge(u64),
    /// Distribution so far, processes that are gone included.
    Histogram(HistogramValue),
}

/// A distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramValue {
    /// Number of values.
    pub count: u64,
    /// Their sum, in the metric's unit.
    pub sum: u64,
    /// Bucket numbers (see [`histogram::bucket`]) with the number of values in each, ascending, empty ones left out.
    pub buckets: Vec<(u16, u64)>,
}

impl HistogramValue {
    /// The value below which this share of all values lies, 3.1 % off at most; `None` while there are no values.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.buckets.iter().map(|(_, n)| n).sum();
        if total == 0 {
            return None;
        }
        let rank = ((share.clamp(0.0, 1.0) * total as f64).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for (bucket, n) in &self.buckets {
            seen += n;
            if seen >= rank {
                let (low, high) = (
                    histogram::lower_bound(usize::from(*bucket)),
                    histogram::upper_bound(usize::from(*bucket)),
                );
                // A bucket of one value is exact.
                return Some(if high - low == 1 { low as f64 } else { (low + high) as f64 / 2.0 });
            }
        }
        None
    }

    /// Number of values that are at most `bound`, counting whole buckets only: exact where `bound + 1` is a lower bound
    /// of a bucket.
    #[must_use]
    pub fn at_most(&self, bound: u64) -> u64 {
        self.buckets
            .iter()
            .filter(|(bucket, _)| histogram::upper_bound(usize::from(*bucket)) <= bound.saturating_add(1))
            .map(|(_, n)| n)
            .sum()
    }
}
