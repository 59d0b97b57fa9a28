//! Snapshots made by hand.

use std::sync::Arc;

use ouro_shm::histogram;
use ouro_shm::{
    Entity, HistogramValue, Kind, MetricInfo, Process, ProcessState, ScopeInfo, Snapshot, Unit, Value,
};

pub(crate) fn metric(name: &str, kind: Kind, unit: Unit) -> MetricInfo {
    MetricInfo { name: name.to_owned(), kind, unit, help: format!("Help of {name}.") }
}

pub(crate) fn counter(name: &str) -> MetricInfo {
    metric(name, Kind::Counter, Unit::Count)
}

pub(crate) fn gauge(name: &str) -> MetricInfo {
    metric(name, Kind::Gauge, Unit::Count)
}

pub(crate) fn time(name: &str) -> MetricInfo {
    metric(name, Kind::Histogram, Unit::Microseconds)
}

pub(crate) fn scope(name: &str, text: &str, labels: &[&str], metrics: Vec<MetricInfo>) -> Arc<ScopeInfo> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Arc::new(ScopeInfo { name: name.to_owned(), text: text.to_owned(), labels, metrics })
}

pub(crate) fn entity(scope: &Arc<ScopeInfo>, labels: &[&str], values: Vec<Value>) -> Entity {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Entity { scope: scope.clone(), labels, values }
}

/// The distribution of these values.
pub(crate) fn distribution(values: &[u64]) -> Value {
    let mut buckets = std::collections::BTreeMap::new();
    for value in values {
        *buckets.entry(u16::try_from(histogram::bucket(*value)).unwrap()).or_insert(0) += 1;
    }
    Value::Histogram(HistogramValue {
        count: values.len() as u64,
        sum: values.iter().sum(),
        buckets: buckets.into_iter().collect(),
    })
}

pub(crate) fn process(pid: u32, epoch: u32, state: ProcessState, alive: bool) -> Process {
    let started_ms = 1_000_000 + 10_000 * u64::from(epoch);
    Process { pid, epoch, started_ms, state, workers: 2, alive, version: "0.1.0".to_owned() }
}

/// A listener that speaks HTTP and a cluster with an endpoint, after some traffic.
pub(crate) fn small() -> Snapshot {
    let listener = scope(
        "listener",
        "listener.{}",
        &["listener"],
        vec![counter("downstream_cx_total"), gauge("downstream_cx_active"), time("downstream_cx_length_ms")],
    );
    let http = scope(
        "http",
        "http.{}",
        &["listener"],
        vec![
            counter("downstream_rq_total"),
            counter("downstream_rq_2xx"),
            counter("downstream_rq_5xx"),
            metric("downstream_cx_rx_bytes_total", Kind::Counter, Unit::Bytes),
            time("downstream_rq_time"),
        ],
    );
    let cluster = scope(
        "cluster",
        "cluster.{}",
        &["cluster"],
        vec![
            counter("upstream_rq_total"),
            counter("upstream_rq_2xx"),
            counter("upstream_rq_503"),
            gauge("upstream_cx_active"),
            counter("upstream_cx_connect_fail"),
            time("upstream_cx_connect_ms"),
            time("upstream_rq_time"),
            gauge("membership_total"),
        ],
    );
    let endpoint = scope(
        "cluster_endpoint",
        "cluster.{}.endpoint.{}",
        &["cluster", "endpoint"],
        vec![counter("rq_total"), gauge("rq_active")],
    );
    let entities = vec![
        entity(
            &cluster,
            &["api"],
            vec![
                Value::Counter(1200),
                Value::Counter(1190),
                Value::Counter(10),
                Value::Gauge(7),
                Value::Counter(0),
                distribution(&[]),
                distribution(&[100, 200, 300, 1500, 1_000_000]),
                Value::Gauge(1),
            ],
        ),
        entity(&endpoint, &["api", "127.0.0.1:9000"], vec![Value::Counter(1200), Value::Gauge(3)]),
        entity(
            &http,
            &["web"],
            vec![
                Value::Counter(1200),
                Value::Counter(1190),
                Value::Counter(10),
                Value::Counter(98_765),
                distribution(&[10, 600, 2000]),
            ],
        ),
        entity(&listener, &["web"], vec![Value::Counter(42), Value::Gauge(5), distribution(&[60_000_000])]),
    ];
    Snapshot {
        processes: vec![process(100, 1, ProcessState::Serving, true)],
        entities,
        first_started_ms: 1_000_000,
        read_at_ms: 1_070_500,
        hot_restart_version: 1,
        layout_version: 1,
        memory: (65_536, 1 << 30),
        generations: 2,
        ..Snapshot::default()
    }
}

/// As many clusters, each with 106 counters and gauges and four histograms of a few buckets.
pub(crate) fn large(clusters: usize) -> Snapshot {
    let mut metrics: Vec<_> = (0..96).map(|n| counter(&format!("upstream_rq_kind{n}"))).collect();
    metrics.extend([200, 404, 503].map(|code| counter(&format!("upstream_rq_{code}"))));
    metrics.extend((1..6).map(|class| counter(&format!("upstream_rq_{class}xx"))));
    metrics.extend(["upstream_cx_active", "upstream_rq_active"].map(gauge));
    metrics
        .extend(["upstream_rq_time", "upstream_cx_connect_ms", "upstream_cx_length_ms", "wait_ms"].map(time));
    let scope = scope("cluster", "cluster.{}", &["cluster"], metrics);
    let entities = (0..clusters)
        .map(|n| {
            let number = n as u64;
            let values = scope.metrics.iter().enumerate().map(|(m, metric)| match metric.kind {
                Kind::Counter => Value::Counter(number * 1_000_003 + m as u64),
                Kind::Gauge => Value::Gauge(number % 100),
                Kind::Histogram => distribution(&[number, 500, 700, 1000, 1_000_000]),
            });
            entity(&scope, &[&format!("cluster-number-{n:05}")], values.collect())
        })
        .collect();
    Snapshot { entities, ..Snapshot::default() }
}
