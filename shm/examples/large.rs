//! How long it takes to read 10 000 clusters that three workers have counted in, and how much memory that takes.
//!
//! `cargo run --release -p ouro-shm --example large`

use std::time::Instant;

use ouro_shm::{Joining, Kind, Metric, ReadOptions, Scope, Segment, SegmentError, Unit, Value};

ouro_shm::scope! {
    /// Something small.
    pub Endpoint "endpoint" "cluster.{}.endpoint.{}" ["cluster", "address"] {
        Counter A "a" Count "One.";
        Counter B "b" Count "Two.";
        Gauge C "c" Count "Three.";
        Gauge D "d" Count "Four.";
        Counter E "e" Count "Five.";
        Counter F "f" Count "Six.";
        Histogram G "g" Microseconds "Seven.";
    }
}

ouro_shm::scope! {
    /// The one that all histograms of clusters are like.
    pub Cluster "cluster" "cluster.{}" ["cluster"] {
        Histogram H0 "h0" Microseconds "A histogram."; Histogram H1 "h1" Microseconds "A histogram.";
        Histogram H2 "h2" Microseconds "A histogram."; Histogram H3 "h3" Microseconds "A histogram.";
        Counter C0 "c0" Count "A counter."; Gauge G0 "g0" Count "A gauge.";
    }
}

/// Clusters with more counters than anybody would write down.
#[derive(Debug)]
enum Wide {}

const COUNTER: Metric =
    Metric { name: "upstream_rq_something", kind: Kind::Counter, unit: Unit::Count, help: "It." };

const fn wide() -> [Metric; 110] {
    let mut metrics = [COUNTER; 110];
    let mut n = 0;
    while n < Cluster::METRICS.len() {
        metrics[n] = Cluster::METRICS[n];
        n += 1;
    }
    metrics
}

impl Scope for Wide {
    const NAME: &'static str = "cluster";
    const TEXT: &'static str = "cluster.{}";
    const LABELS: &'static [&'static str] = &["cluster"];
    const METRICS: &'static [Metric] = &wide();
}

const ENTITIES: usize = 10_000;
const WORKERS: u32 = 3;

fn main() -> Result<(), SegmentError> {
    let (segment, base_id) = Segment::create_dynamic(ouro_shm::DEFAULT_SIZE, |_| true)?;
    let member = segment.join(&Joining { epoch: 0, workers: WORKERS, version: "large" })?;
    let stripes: Vec<_> = (0..WORKERS).map(|worker| member.stripe(worker)).collect();
    let start = Instant::now();
    let mut blocks = Vec::new();
    for n in 0..ENTITIES {
        let cluster = format!("cluster-{n}");
        let wide = member.register::<Wide>(&[&cluster]);
        let endpoint = member.register::<Endpoint>(&[&cluster, "10.0.0.1:8080"]);
        blocks.extend(stripes.iter().map(|stripe| (stripe.block(wide), stripe.block(endpoint))));
    }
    println!("registered in {:?}", start.elapsed());
    let memory = segment.snapshot(&ReadOptions::default()).memory.0 >> 20;
    println!("{memory} MiB before anything is recorded");
    let start = Instant::now();
    for (block, endpoint) in &blocks {
        for position in 0..3 {
            let histogram = ouro_shm::HistogramId::<Wide>::at(position);
            for n in 0..20 {
                block.record(histogram, n * 100);
            }
        }
        block.inc(ouro_shm::CounterId::at(4));
        endpoint.inc(Endpoint::A);
    }
    println!("counted in {:?}", start.elapsed());
    let reader = Segment::attach_existing(base_id)?;
    for round in 0..4 {
        let start = Instant::now();
        let snapshot = reader.snapshot(&ReadOptions::default());
        let elapsed = start.elapsed();
        let total: u64 = snapshot.entities.iter().filter_map(|entity| entity.value("h0")).map(count).sum();
        println!(
            "round {round}: read {} entities in {elapsed:?}, {} MiB of {} MiB, {} overflows, {total} values",
            snapshot.entities.len(),
            snapshot.memory.0 >> 20,
            snapshot.memory.1 >> 20,
            snapshot.overflows,
        );
    }
    drop((blocks, stripes, member));
    let start = Instant::now();
    println!("folded {:?} in {:?}", segment.fold(), start.elapsed());
    let start = Instant::now();
    let snapshot = reader.snapshot(&ReadOptions::default());
    println!("read {} folded entities in {:?}", snapshot.entities.len(), start.elapsed());
    Segment::unlink(base_id).map_err(|source| SegmentError::Io { what: "cannot unlink".into(), source })
}

fn count(value: &Value) -> u64 {
    match value {
        Value::Histogram(histogram) => histogram.count,
        Value::Counter(_) | Value::Gauge(_) => 0,
    }
}
