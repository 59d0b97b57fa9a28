//! The admin interface without a proxy behind it: served as the process serves it, with statistics made by hand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use ouro::config;
use ouro::config::model::Address;
use ouro::control::admin::{
    AdminListener, AdminState, BoundListener, Command, ProcessInfo, QUEUED_COMMANDS, Stage, Status, serve,
};
use ouro_shm::{
    Entity, HistogramValue, Kind, MetricInfo, Process, ProcessState, ScopeInfo, Snapshot, Unit, Value,
    histogram,
};
use tokio::sync::oneshot;

use super::support::lock;

/// A cluster whose name would be markup if a page did not escape it. No configuration can have it; a segment can.
pub(crate) const EVIL: &str = "<img src=x onerror=console.error('run')>";

/// An admin interface on a thread of its own.
pub(crate) struct Fake {
    address: Address,
    status: Arc<Status>,
    told: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Serves on a free port. The number that `snapshot` gets counts readings.
    pub(crate) fn start(snapshot: impl Fn(u64) -> Snapshot + Send + Sync + 'static) -> Self {
        Self::start_at(&Address::Ip("127.0.0.1:0".parse().unwrap()), snapshot)
    }

    pub(crate) fn start_at(
        address: &Address,
        snapshot: impl Fn(u64) -> Snapshot + Send + Sync + 'static,
    ) -> Self {
        let listener = AdminListener::bind(address).unwrap();
        let address = listener.address().clone();
        let status = Arc::new(Status::default());
        status.set_stage(Stage::Live);
        let told = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (commands, mut queue) = tokio::sync::mpsc::channel(QUEUED_COMMANDS);
        let readings = AtomicU64::new(0);
        let state = AdminState {
            snapshot: Box::new(move || snapshot(readings.fetch_add(1, Ordering::Relaxed))),
            endpoints: Box::new(|_| {
                vec![("127.0.0.1:9000".to_owned(), 2), ("unix:/run/app.sock".to_owned(), 1)]
            }),
            model: Arc::new(config::quick_start("127.0.0.1:9000".parse().unwrap())),
            listeners: vec![BoundListener {
                name: "web".to_owned(),
                address: Address::Ip("127.0.0.1:8080".parse().unwrap()),
                protocol: "http",
                workers: 2,
            }],
            process: ProcessInfo {
                version: "0.1.0",
                pid: 4711,
                epoch: 3,
                workers: 2,
                started: (Instant::now(), SystemTime::now()),
                command_line: vec!["ouro".to_owned(), "-c".to_owned(), "o.toml".to_owned()],
                options: vec![("base_id", 7.into())],
                engine: "io_uring",
                kernel: "6.1.0".to_owned(),
                capabilities: vec![("recv_limit", false)],
            },
            status: Arc::clone(&status),
            names: vec!["proxy.internal".to_owned()],
            commands,
        };
        let heard = Arc::clone(&told);
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tokio_uring::start(async move {
                tokio::task::spawn_local(async move {
                    while let Some(command) = queue.recv().await {
                        obey(command, &heard);
                    }
                });
                ready.send(()).unwrap();
                let stop = async { drop(stopped.await) };
                serve(listener, Arc::new(state), stop).await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self { address, status, told, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match &self.address {
            Address::Ip(address) => *address,
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// The commands that were given, in words.
    pub(crate) fn told(&self) -> Vec<String> {
        lock(&self.told).clone()
    }

    /// Stops serving and waits for the end of it.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

fn obey(command: Command, told: &Mutex<Vec<String>>) {
    let (words, done, answer) = match command {
        Command::DrainListeners { graceful, done } => {
            (format!("drain graceful={graceful}"), Some(done), Ok(()))
        }
        Command::HealthcheckFail => ("fail".to_owned(), None, Ok(())),
        Command::HealthcheckOk => ("ok".to_owned(), None, Ok(())),
        Command::SetLogLevel { level, done } => (format!("level {level:?}"), Some(done), Ok(())),
        Command::ResetCounters { done } => ("reset".to_owned(), Some(done), Err("Not today.".to_owned())),
        Command::Quit => ("quit".to_owned(), None, Ok(())),
    };
    lock(told).push(words);
    if let Some(done) = done {
        done.send(answer).unwrap();
    }
}

/// An instance at a moment, `second` seconds after the first: 100 requests a second, 3 of them failing.
pub(crate) fn traffic(second: u64) -> Snapshot {
    let rate = |n: u64| Value::Counter(1000 + n * second);
    let times = |scale: u64| {
        let spread = [(300, 50), (600, 30), (2_000, 15), (9_000, 5)];
        distribution(&spread.map(|(us, share)| (us, (1 + second) * share * scale)))
    };
    let http = scope(
        "http",
        "http.{}",
        &["listener"],
        &[
            ("downstream_rq_total", Kind::Counter),
            ("downstream_rq_2xx", Kind::Counter),
            ("downstream_rq_4xx", Kind::Counter),
            ("downstream_rq_5xx", Kind::Counter),
            ("downstream_cx_rx_bytes_total", Kind::Counter),
            ("downstream_cx_tx_bytes_total", Kind::Counter),
            ("downstream_rq_time", Kind::Histogram),
        ],
    );
    let listener = scope(
        "listener",
        "listener.{}",
        &["listener"],
        &[("downstream_cx_total", Kind::Counter), ("downstream_cx_active", Kind::Gauge)],
    );
    let cluster = scope(
        "cluster",
        "cluster.{}",
        &["cluster"],
        &[
            ("upstream_rq_total", Kind::Counter),
            ("upstream_cx_connect_fail", Kind::Counter),
            ("upstream_cx_active", Kind::Gauge),
            ("upstream_rq_time", Kind::Histogram),
        ],
    );
    let endpoint = scope(
        "cluster_endpoint",
        "cluster.{}.endpoint.{}",
        &["cluster", "endpoint"],
        &[("rq_total", Kind::Counter), ("rq_active", Kind::Gauge)],
    );
    let entities = vec![
        entity(&cluster, &[EVIL], vec![rate(1), rate(0), Value::Gauge(0), times(0)]),
        entity(&cluster, &["demo"], vec![rate(97), rate(3), Value::Gauge(12), times(1)]),
        entity(&endpoint, &["demo", "127.0.0.1:9000"], vec![rate(64), Value::Gauge(2)]),
        entity(&endpoint, &["demo", "unix:/run/app.sock"], vec![rate(33), Value::Gauge(1)]),
        entity(
            &http,
            &["web"],
            vec![rate(100), rate(90), rate(7), rate(3), rate(20_480), rate(1_048_576), times(1)],
        ),
        entity(&listener, &["web"], vec![rate(5), Value::Gauge(42)]),
    ];
    let process = |pid, epoch, state, alive| Process {
        pid,
        epoch,
        started_ms: 1_000_000 + u64::from(epoch) * 60_000,
        state,
        workers: 2,
        alive,
        version: "0.1.0".to_owned(),
    };
    Snapshot {
        processes: vec![
            process(4700, 2, ProcessState::Draining, true),
            process(4711, 3, ProcessState::Serving, true),
        ],
        entities,
        first_started_ms: 1_000_000,
        read_at_ms: 2_000_000 + second * 1000,
        hot_restart_version: 1,
        layout_version: 1,
        memory: (1 << 20, 1 << 30),
        generations: 4,
        ..Snapshot::default()
    }
}

fn scope(name: &str, text: &str, labels: &[&str], metrics: &[(&str, Kind)]) -> Arc<ScopeInfo> {
    let metric = |(name, kind): &(&str, Kind)| MetricInfo {
        name: (*name).to_owned(),
        kind: *kind,
        unit: if *kind == Kind::Histogram { Unit::Microseconds } else { Unit::Count },
        help: format!("Help of {name}."),
    };
    Arc::new(ScopeInfo {
        name: name.to_owned(),
        text: text.to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        metrics: metrics.iter().map(metric).collect(),
    })
}

fn entity(scope: &Arc<ScopeInfo>, labels: &[&str], values: Vec<Value>) -> Entity {
    assert_eq!(scope.metrics.len(), values.len());
    Entity {
        scope: Arc::clone(scope),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        values,
    }
}

fn distribution(values: &[(u64, u64)]) -> Value {
    let buckets: Vec<_> = values.iter().map(|(us, n)| (histogram::bucket(*us) as u16, *n)).collect();
    let sum = values.iter().map(|(us, n)| us * n).sum();
    Value::Histogram(HistogramValue { count: values.iter().map(|(_, n)| n).sum(), sum, buckets })
}
