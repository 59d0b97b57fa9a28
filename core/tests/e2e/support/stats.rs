//! What an instance has counted, read from its segment.

use std::time::{Duration, Instant};

use ouro_shm::{ReadOptions, Segment, Snapshot, Value};

use super::{BaseId, DEADLINE};

/// Counters at one moment.
pub(crate) struct Stats(pub(crate) Snapshot);

impl Stats {
    /// What the instance has counted so far.
    #[track_caller]
    pub(crate) fn of(base_id: &BaseId) -> Self {
        let segment = Segment::attach_existing(base_id.0).unwrap();
        Self(segment.snapshot(&ReadOptions { shares_of: Vec::new() }))
    }

    /// A counter or gauge, by its full name; 0 if there is none.
    pub(crate) fn get(&self, name: &str) -> u64 {
        match self.value(name) {
            Some(Value::Counter(value) | Value::Gauge(value)) => *value,
            _ => 0,
        }
    }

    /// The number of values of a histogram.
    pub(crate) fn count(&self, name: &str) -> u64 {
        match self.value(name) {
            Some(Value::Histogram(histogram)) => histogram.count,
            _ => 0,
        }
    }

    /// Names and values of all gauges of what is open or in progress that are not zero; pooled connections may stay.
    pub(crate) fn active(&self) -> Vec<(String, u64)> {
        let mut active = Vec::new();
        for entity in &self.0.entities {
            for (metric, value) in entity.scope.metrics.iter().zip(&entity.values) {
                if let Value::Gauge(1..) = value
                    && metric.name.contains("active")
                    && !metric.name.ends_with("upstream_cx_active")
                    && entity.scope.name != "cluster_endpoint"
                {
                    let Value::Gauge(value) = value else { continue };
                    active
                        .push((format!("{} {:?} {}", entity.scope.name, entity.labels, metric.name), *value));
                }
            }
        }
        active
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.entities.iter().find_map(|entity| {
            let mut prefix = entity.scope.text.clone();
            for label in &entity.labels {
                prefix = prefix.replacen("{}", label, 1);
            }
            entity.value(name.strip_prefix(&prefix)?.strip_prefix('.')?)
        })
    }
}

/// Waits until an instance has counted as much: what ends last is counted a moment after the peer has seen it.
#[track_caller]
pub(crate) fn expect(base_id: &BaseId, wanted: &[(&str, u64)]) {
    let differing = || -> Vec<String> {
        let stats = Stats::of(base_id);
        let differs = wanted.iter().filter(|(name, value)| stats.get(name) != *value);
        differs.map(|(name, value)| format!("{name}: {} instead of {value}", stats.get(name))).collect()
    };
    let start = Instant::now();
    while !differing().is_empty() && start.elapsed() < DEADLINE {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(differing().is_empty(), "{}", differing().join("\n"));
}

/// Waits until nothing is open or in progress any more, pooled connections excepted.
#[track_caller]
pub(crate) fn expect_nothing_active(base_id: &BaseId) {
    let active = || Stats::of(base_id).active();
    let start = Instant::now();
    while !active().is_empty() && start.elapsed() < DEADLINE {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(active().is_empty(), "{:?}", active());
}
