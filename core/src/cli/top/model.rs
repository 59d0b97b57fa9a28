//! From snapshots to what the screen shows: rates, percentiles, rows.
//!
//! Pure: the time and the snapshot are arguments. A metric that is not there counts as 0.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ouro_shm::{Entity, HistogramValue, Process, Snapshot};

use crate::cli::rates::{Index, add_histogram, growth, histogram, histogram_growth, per_second};
use crate::stats::render::server;

/// How far back "the last minute" goes.
const MINUTE: Duration = Duration::from_secs(60);

/// Distributions that are kept for the last minute at most, however short the interval is.
const MINUTE_SAMPLES: usize = 61;

/// What the screen shows.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) processes: Vec<Process>,
    /// Process id of the process that takes new connections.
    pub(super) current: Option<u32>,
    pub(super) read_at_ms: u64,
    pub(super) first_started_ms: u64,
    pub(super) generations: u64,
    pub(super) overflows: u64,
    pub(super) is_alive: bool,
    /// Why there is nothing newer than this.
    pub(super) problem: Option<String>,
    /// Rates are known: there was a snapshot before this one.
    pub(super) has_rates: bool,
    pub(super) totals: Totals,
    pub(super) downstream: Latency,
    pub(super) upstream: Latency,
    pub(super) listeners: Vec<ListenerRow>,
    pub(super) clusters: Vec<ClusterRow>,
    pub(super) workers: Vec<WorkerRow>,
}

/// All listeners together; rates are per second.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) requests: f64,
    pub(super) requests_active: u64,
    pub(super) cx_active: u64,
    pub(super) cx_new: f64,
    pub(super) received_bytes: f64,
    pub(super) sent_bytes: f64,
    pub(super) errors_4xx: f64,
    pub(super) errors_5xx: f64,
    pub(super) connect_failures: f64,
}

/// Time of requests in two windows.
#[derive(Debug, Default)]
pub(super) struct Latency {
    pub(super) interval: Percentiles,
    pub(super) minute: Percentiles,
}

/// Percentiles in milliseconds; `None` where there was no request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Percentiles {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) p999: Option<f64>,
}

/// A listener; rates are per second.
#[derive(Debug)]
pub(super) struct ListenerRow {
    pub(super) name: String,
    pub(super) cx_active: u64,
    pub(super) cx_new: f64,
    pub(super) requests: f64,
    pub(super) classes: [f64; 3],
    pub(super) received_bytes: f64,
    pub(super) sent_bytes: f64,
    pub(super) time: Percentiles,
}

/// A cluster; rates are per second.
#[derive(Debug)]
pub(super) struct ClusterRow {
    pub(super) name: String,
    pub(super) requests: f64,
    pub(super) requests_active: u64,
    pub(super) cx_active: u64,
    pub(super) classes: [f64; 3],
    pub(super) time: Percentiles,
    pub(super) connect_failures: f64,
    pub(super) retries: f64,
}

/// A worker of a process; rates are per second.
#[derive(Debug)]
pub(super) struct WorkerRow {
    pub(super) pid: u32,
    pub(super) worker: u32,
    pub(super) cx_active: u64,
    pub(super) cx_new: f64,
    pub(super) requests: f64,
    pub(super) enters: f64,
    pub(super) completions: f64,
    pub(super) enobufs: f64,
}

/// Remembers what it takes to compute the next frame.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    last: Option<(Duration, Snapshot)>,
    downstream: Minute,
    upstream: Minute,
}

impl Tracker {
    /// The frame for a snapshot that was taken at this time; times only grow.
    pub(super) fn observe(&mut self, at: Duration, snapshot: Snapshot) -> Frame {
        let empty = Snapshot::default();
        let (before_at, before) = self.last.as_ref().map_or((at, &empty), |(at, snapshot)| (*at, snapshot));
        let delta = Delta {
            index: self.last.as_ref().map(|_| Index::new(&before.entities)),
            elapsed: at.saturating_sub(before_at),
        };
        let mut frame = Frame {
            current: server::current(&snapshot).map(|process| process.pid),
            processes: snapshot.processes.clone(),
            read_at_ms: snapshot.read_at_ms,
            first_started_ms: snapshot.first_started_ms,
            generations: snapshot.generations,
            overflows: snapshot.overflows,
            is_alive: snapshot.is_alive(),
            has_rates: self.last.is_some(),
            listeners: listeners(&snapshot, &delta),
            clusters: of_scope(&snapshot.entities, "cluster").map(|entity| cluster(entity, &delta)).collect(),
            workers: workers(&snapshot, before, &delta),
            ..Frame::default()
        };
        frame.totals = totals(&snapshot, &delta, &frame);
        frame.downstream =
            latency(&snapshot, &delta, ("http", "downstream_rq_time"), &mut self.downstream, at);
        frame.upstream = latency(&snapshot, &delta, ("cluster", "upstream_rq_time"), &mut self.upstream, at);
        self.last = Some((at, snapshot));
        frame
    }
}

/// The distributions of the last minute, an interval each.
#[derive(Debug, Default)]
struct Minute(VecDeque<(Duration, HistogramValue)>);

impl Minute {
    /// Adds an interval that ended now, and sums up those that ended within the last minute.
    fn add(&mut self, at: Duration, interval: HistogramValue) -> HistogramValue {
        let step = MINUTE / (u32::try_from(MINUTE_SAMPLES).unwrap_or(u32::MAX) - 1);
        match self.0.back_mut() {
            // Intervals shorter than a step share a sample.
            Some((start, sum)) if at.saturating_sub(*start) < step => add_histogram(sum, &interval),
            _ => self.0.push_back((at, interval)),
        }
        while self.0.len() > MINUTE_SAMPLES
            || self.0.front().is_some_and(|(start, _)| at.saturating_sub(*start) >= MINUTE)
        {
            self.0.pop_front();
        }
        let mut sum = HistogramValue::default();
        for (_, sample) in &self.0 {
            add_histogram(&mut sum, sample);
        }
        sum
    }
}

/// Looks at what has happened since the snapshot before; all rates are 0 if there was none.
struct Delta<'a> {
    index: Option<Index<'a>>,
    elapsed: Duration,
}

impl Delta<'_> {
    fn rate(&self, entity: &Entity, metric: &str) -> f64 {
        let Some(index) = &self.index else { return 0.0 };
        let before = index.find(entity).map_or(0, |old| old.number(metric));
        per_second(growth(before, entity.number(metric)), self.elapsed)
    }

    fn classes(&self, entity: &Entity, metrics: [&str; 3]) -> [f64; 3] {
        metrics.map(|metric| self.rate(entity, metric))
    }

    fn distribution(&self, entity: &Entity, metric: &str) -> HistogramValue {
        let (Some(index), Some(now)) = (&self.index, histogram(entity, metric)) else {
            return HistogramValue::default();
        };
        match index.find(entity).and_then(|old| histogram(old, metric)) {
            Some(before) => histogram_growth(before, now),
            None => now.clone(),
        }
    }
}

fn of_scope<'a>(entities: &'a [Entity], scope: &'a str) -> impl Iterator<Item = &'a Entity> {
    entities.iter().filter(move |entity| entity.scope.name == scope)
}

fn listeners(snapshot: &Snapshot, delta: &Delta<'_>) -> Vec<ListenerRow> {
    let index = Index::new(&snapshot.entities);
    let row = |entity: &Entity| {
        let sibling = |scope| index.named(scope, &entity.labels);
        let (http, tcp) = (sibling("http"), sibling("tcp"));
        let of_both = |metric| [http, tcp].into_iter().flatten().map(|other| delta.rate(other, metric)).sum();
        ListenerRow {
            name: entity.labels.join(" "),
            cx_active: entity.number("downstream_cx_active"),
            cx_new: delta.rate(entity, "downstream_cx_total"),
            requests: of_both("downstream_rq_total"),
            classes: http.map_or([0.0; 3], |http| {
                delta.classes(http, ["downstream_rq_2xx", "downstream_rq_4xx", "downstream_rq_5xx"])
            }),
            received_bytes: of_both("downstream_cx_rx_bytes_total"),
            sent_bytes: of_both("downstream_cx_tx_bytes_total"),
            time: http.map_or_else(Percentiles::default, |http| {
                percentiles(&delta.distribution(http, "downstream_rq_time"))
            }),
        }
    };
    of_scope(&snapshot.entities, "listener").map(row).collect()
}

fn cluster(entity: &Entity, delta: &Delta<'_>) -> ClusterRow {
    ClusterRow {
        name: entity.labels.join(" "),
        requests: delta.rate(entity, "upstream_rq_total"),
        requests_active: entity.number("upstream_rq_active"),
        cx_active: entity.number("upstream_cx_active"),
        classes: delta.classes(entity, ["upstream_rq_2xx", "upstream_rq_4xx", "upstream_rq_5xx"]),
        time: percentiles(&delta.distribution(entity, "upstream_rq_time")),
        connect_failures: delta.rate(entity, "upstream_cx_connect_fail"),
        retries: delta.rate(entity, "upstream_rq_retry"),
    }
}

/// What is counted of a worker, summed over its entities.
#[derive(Default)]
struct WorkerCounts {
    cx_total: u64,
    requests: u64,
    enters: u64,
    completions: u64,
    enobufs: u64,
}

fn worker_counts(entities: &[Entity]) -> WorkerCounts {
    let sum = |scope, metric| {
        of_scope(entities, scope).map(|entity| entity.number(metric)).fold(0_u64, u64::saturating_add)
    };
    WorkerCounts {
        cx_total: sum("listener", "downstream_cx_total"),
        requests: sum("http", "downstream_rq_total"),
        enters: sum("worker", "ring_enters"),
        completions: sum("worker", "ring_completions"),
        enobufs: sum("worker", "ring_enobufs"),
    }
}

fn workers(snapshot: &Snapshot, before: &Snapshot, delta: &Delta<'_>) -> Vec<WorkerRow> {
    let old: HashMap<_, _> = before
        .shares
        .iter()
        .map(|share| ((share.pid, share.worker), worker_counts(&share.entities)))
        .collect();
    let row = |share: &ouro_shm::Share| {
        let now = worker_counts(&share.entities);
        let before = old.get(&(share.pid, share.worker));
        let rate = |number: fn(&WorkerCounts) -> u64| {
            if delta.index.is_none() {
                return 0.0;
            }
            per_second(growth(before.map_or(0, number), number(&now)), delta.elapsed)
        };
        let listeners = of_scope(&share.entities, "listener");
        WorkerRow {
            pid: share.pid,
            worker: share.worker,
            cx_active: listeners.map(|entity| entity.number("downstream_cx_active")).sum(),
            cx_new: rate(|counts| counts.cx_total),
            requests: rate(|counts| counts.requests),
            enters: rate(|counts| counts.enters),
            completions: rate(|counts| counts.completions),
            enobufs: rate(|counts| counts.enobufs),
        }
    };
    snapshot.shares.iter().map(row).collect()
}

fn totals(snapshot: &Snapshot, delta: &Delta<'_>, frame: &Frame) -> Totals {
    let http = |metric| of_scope(&snapshot.entities, "http").map(|entity| delta.rate(entity, metric)).sum();
    Totals {
        requests: frame.listeners.iter().map(|row| row.requests).sum(),
        requests_active: of_scope(&snapshot.entities, "http").map(|e| e.number("downstream_rq_active")).sum(),
        cx_active: frame.listeners.iter().map(|row| row.cx_active).sum(),
        cx_new: frame.listeners.iter().map(|row| row.cx_new).sum(),
        received_bytes: frame.listeners.iter().map(|row| row.received_bytes).sum(),
        sent_bytes: frame.listeners.iter().map(|row| row.sent_bytes).sum(),
        errors_4xx: http("downstream_rq_4xx"),
        errors_5xx: http("downstream_rq_5xx"),
        connect_failures: frame.clusters.iter().map(|row| row.connect_failures).sum(),
    }
}

fn latency(
    snapshot: &Snapshot,
    delta: &Delta<'_>,
    (scope, metric): (&str, &str),
    minute: &mut Minute,
    at: Duration,
) -> Latency {
    let mut interval = HistogramValue::default();
    for entity in of_scope(&snapshot.entities, scope) {
        add_histogram(&mut interval, &delta.distribution(entity, metric));
    }
    Latency { interval: percentiles(&interval), minute: percentiles(&minute.add(at, interval)) }
}

fn percentiles(histogram: &HistogramValue) -> Percentiles {
    // Cells hold microseconds.
    let quantile = |share| histogram.quantile(share).map(|value| value / 1000.0);
    Percentiles { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), p999: quantile(0.999) }
}

#[cfg(test)]
mod tests;
