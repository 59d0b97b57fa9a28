//! Snapshots made by hand, a second apart.

use ouro_shm::{ProcessState, Share, Value};

use super::*;
use crate::stats::render::fixtures;

/// After so many requests, each of `time_us`, some of them answered with 5xx.
fn snapshot(requests: u64, errors: u64, time_us: u64) -> Snapshot {
    let listener = fixtures::scope(
        "listener",
        "listener.{}",
        &["listener"],
        vec![fixtures::gauge("downstream_cx_active"), fixtures::counter("downstream_cx_total")],
    );
    let http = fixtures::scope(
        "http",
        "http.{}",
        &["listener"],
        vec![
            fixtures::counter("downstream_rq_total"),
            fixtures::counter("downstream_rq_5xx"),
            fixtures::counter("downstream_cx_rx_bytes_total"),
            fixtures::time("downstream_rq_time"),
        ],
    );
    let cluster = fixtures::scope(
        "cluster",
        "cluster.{}",
        &["cluster"],
        vec![
            fixtures::counter("upstream_rq_total"),
            fixtures::counter("upstream_rq_retry"),
            fixtures::time("upstream_rq_time"),
        ],
    );
    let worker = fixtures::scope("worker", "worker_{}", &["worker"], vec![fixtures::counter("ring_enters")]);
    let times = || fixtures::distribution(&vec![time_us; usize::try_from(requests).unwrap()]);
    let of_listener =
        || fixtures::entity(&listener, &["web"], vec![Value::Gauge(7), Value::Counter(requests / 10)]);
    let of_http = || {
        let counters = [requests, errors, requests * 100].map(Value::Counter);
        fixtures::entity(&http, &["web"], counters.into_iter().chain([times()]).collect())
    };
    let of_cluster = fixtures::entity(
        &cluster,
        &["api"],
        vec![Value::Counter(requests), Value::Counter(requests / 2), times()],
    );
    let of_worker = fixtures::entity(&worker, &["0"], vec![Value::Counter(requests * 3)]);
    Snapshot {
        processes: vec![fixtures::process(100, 0, ProcessState::Serving, true)],
        entities: vec![of_cluster, of_http(), of_listener()],
        shares: vec![Share { pid: 100, worker: 0, entities: vec![of_http(), of_listener(), of_worker] }],
        ..Snapshot::default()
    }
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
}

#[test]
fn the_first_frame_has_no_rates() {
    let frame = Tracker::default().observe(Duration::ZERO, snapshot(1000, 10, 500));
    assert!(!frame.has_rates && frame.is_alive);
    assert_close(frame.totals.requests, 0.0);
    assert_eq!((frame.totals.cx_active, frame.workers[0].cx_active), (7, 7));
    assert_eq!(frame.downstream.minute, Percentiles::default());
}

#[test]
fn the_second_frame_has_the_rates_between_the_two() {
    let mut tracker = Tracker::default();
    tracker.observe(Duration::from_secs(5), snapshot(1000, 10, 500));
    let frame = tracker.observe(Duration::from_secs(7), snapshot(1200, 12, 500));
    assert!(frame.has_rates);
    assert_eq!(frame.current, Some(100));
    assert_close(frame.totals.requests, 100.0);
    assert_close(frame.totals.errors_5xx, 1.0);
    assert_close(frame.totals.cx_new, 10.0);
    assert_close(frame.totals.received_bytes, 10_000.0);
    assert_close(frame.listeners[0].requests, 100.0);
    assert_close(frame.listeners[0].classes[2], 1.0);
    assert_close(frame.clusters[0].retries, 50.0);
    assert_close(frame.workers[0].requests, 100.0);
    assert_close(frame.workers[0].enters, 300.0);
    // The middle of the bucket of 500 us.
    assert_close(frame.clusters[0].time.p50.unwrap(), 0.504);
    assert_close(frame.downstream.interval.p999.unwrap(), 0.504);
}

#[test]
fn the_interval_forgets_what_the_minute_remembers() {
    let mut tracker = Tracker::default();
    tracker.observe(Duration::ZERO, snapshot(0, 0, 500));
    let frame = tracker.observe(Duration::from_secs(1), snapshot(100, 0, 500));
    assert!(frame.downstream.interval.p50.is_some());
    for second in 2..61 {
        let frame = tracker.observe(Duration::from_secs(second), snapshot(100, 0, 500));
        assert_eq!(frame.downstream.interval, Percentiles::default());
        assert!(frame.downstream.minute.p50.is_some(), "{second}");
    }
    let frame = tracker.observe(Duration::from_secs(61), snapshot(100, 0, 500));
    assert_eq!(frame.upstream.minute, Percentiles::default());
}

#[test]
fn short_intervals_share_a_sample_of_the_minute() {
    let mut minute = Minute::default();
    let one = HistogramValue { count: 1, sum: 1, buckets: vec![(1, 1)] };
    for tenth in 0..300 {
        let sum = minute.add(Duration::from_millis(tenth * 100), one.clone());
        assert_eq!(sum.count, tenth + 1);
        assert!(minute.0.len() <= MINUTE_SAMPLES);
    }
    assert_eq!(minute.0.len(), 30);
}

#[test]
fn what_is_not_there_counts_as_nothing() {
    let mut tracker = Tracker::default();
    tracker.observe(Duration::ZERO, Snapshot::default());
    let bare = fixtures::scope("listener", "listener.{}", &["listener"], vec![]);
    let entities = vec![fixtures::entity(&bare, &["web"], vec![])];
    let frame = tracker.observe(Duration::from_secs(1), Snapshot { entities, ..Snapshot::default() });
    assert_eq!(frame.listeners.len(), 1);
    assert_eq!(frame.totals, Totals::default());
    assert_eq!(frame.current, None);
}
