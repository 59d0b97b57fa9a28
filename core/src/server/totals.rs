//! Totals on their way between processes that do not share a segment.
//!
//! Everything is named, so that neither side need know what the other one counts: scopes with their metrics, entities with
//! their labels. Buckets of histograms are told by the smallest value that they hold, since what buckets there are may
//! differ. Gauges stay where they are: they say what a process has, and that process still lives.

use std::sync::Arc;

use ouro_restart::Blob;
use ouro_shm::{
    Entity, HistogramValue, Kind, MetricInfo, ReadOptions, ScopeInfo, Segment, Unit, Value, histogram,
};
use prost::Message as _;

/// What is said of a segment as a whole, and of entities of one scope.
const SEGMENT: &str = "segment/1";
const SCOPE: &str = "scope/1";

/// Entities in one piece at most.
const ENTITIES_PER_PIECE: usize = 500;

/// What another process has counted, or has taken over itself.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Processes of the instance so far.
    pub(super) generations: u64,
    /// When the first of them started, Unix time in milliseconds; 0 if that is not known.
    pub(super) first_started_ms: u64,
    pub(super) entities: Vec<Entity>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SegmentPiece {
    #[prost(uint64, tag = "1")]
    generations: u64,
    #[prost(uint64, tag = "2")]
    first_started_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopePiece {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(string, repeated, tag = "3")]
    labels: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    metrics: Vec<MetricPiece>,
    #[prost(message, repeated, tag = "5")]
    entities: Vec<EntityPiece>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MetricPiece {
    #[prost(string, tag = "1")]
    name: String,
    /// 0 counter, 1 gauge, 2 histogram.
    #[prost(uint32, tag = "2")]
    kind: u32,
    /// 0 count, 1 bytes, 2 microseconds, 3 seconds.
    #[prost(uint32, tag = "3")]
    unit: u32,
    #[prost(string, tag = "4")]
    help: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EntityPiece {
    #[prost(string, repeated, tag = "1")]
    labels: Vec<String>,
    /// One for each metric: of a histogram the number of values, of a gauge 0.
    #[prost(uint64, repeated, tag = "2")]
    numbers: Vec<u64>,
    /// One for each metric that is a histogram.
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<HistogramPiece>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HistogramPiece {
    #[prost(uint64, tag = "1")]
    sum: u64,
    /// The smallest value of each bucket that holds something.
    #[prost(uint64, repeated, tag = "2")]
    bounds: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    counts: Vec<u64>,
}

/// Everything that is counted in a segment at this moment.
pub(super) fn blobs(segment: &Segment) -> Vec<Blob> {
    let snapshot = segment.snapshot(&ReadOptions::default());
    let whole =
        SegmentPiece { generations: snapshot.generations, first_started_ms: snapshot.first_started_ms };
    let mut blobs = vec![Blob { name: SEGMENT.into(), bytes: whole.encode_to_vec() }];
    for of_one in snapshot.entities.chunk_by(|a, b| Arc::ptr_eq(&a.scope, &b.scope)) {
        for entities in of_one.chunks(ENTITIES_PER_PIECE) {
            let Some(first) = entities.first() else { continue };
            let piece = ScopePiece {
                name: first.scope.name.clone(),
                text: first.scope.text.clone(),
                labels: first.scope.labels.clone(),
                metrics: first.scope.metrics.iter().map(metric_piece).collect(),
                entities: entities.iter().map(entity_piece).collect(),
            };
            blobs.push(Blob { name: SCOPE.into(), bytes: piece.encode_to_vec() });
        }
    }
    blobs
}

/// What these say; an error if they are broken. What is not known is passed over.
pub(super) fn read(blobs: &[Blob]) -> Result<Carried, prost::DecodeError> {
    let mut carried = Carried::default();
    for blob in blobs {
        match blob.name.as_str() {
            SEGMENT => {
                let piece = SegmentPiece::decode(&*blob.bytes)?;
                (carried.generations, carried.first_started_ms) = (piece.generations, piece.first_started_ms);
            }
            SCOPE => carried.entities.extend(entities(ScopePiece::decode(&*blob.bytes)?)),
            _ => {}
        }
    }
    Ok(carried)
}

fn metric_piece(metric: &MetricInfo) -> MetricPiece {
    MetricPiece {
        name: metric.name.clone(),
        kind: match metric.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 2,
        },
        unit: match metric.unit {
            Unit::Count => 0,
            Unit::Bytes => 1,
            Unit::Microseconds => 2,
            Unit::Seconds => 3,
        },
        help: metric.help.clone(),
    }
}

fn entity_piece(entity: &Entity) -> EntityPiece {
    let mut piece =
        EntityPiece { labels: entity.labels.clone(), numbers: Vec::new(), histograms: Vec::new() };
    for value in &entity.values {
        piece.numbers.push(match value {
            Value::Counter(number) => *number,
            Value::Gauge(_) => 0,
            Value::Histogram(value) => {
                let bound = |(bucket, _): &(u16, u64)| histogram::lower_bound(usize::from(*bucket));
                piece.histograms.push(HistogramPiece {
                    sum: value.sum,
                    bounds: value.buckets.iter().map(bound).collect(),
                    counts: value.buckets.iter().map(|(_, count)| *count).collect(),
                });
                value.count
            }
        });
    }
    piece
}

/// The entities of a piece; a metric of a kind that is not known is none of theirs.
fn entities(piece: ScopePiece) -> Vec<Entity> {
    let kinds: Vec<Option<Kind>> = piece
        .metrics
        .iter()
        .map(|metric| match metric.kind {
            0 => Some(Kind::Counter),
            1 => Some(Kind::Gauge),
            2 => Some(Kind::Histogram),
            _ => None,
        })
        .collect();
    let metrics = piece.metrics.into_iter().zip(&kinds).filter_map(|(metric, kind)| {
        let unit = match metric.unit {
            1 => Unit::Bytes,
            2 => Unit::Microseconds,
            3 => Unit::Seconds,
            _ => Unit::Count,
        };
        kind.map(|kind| MetricInfo { name: metric.name, kind, unit, help: metric.help })
    });
    let scope = Arc::new(ScopeInfo {
        name: piece.name,
        text: piece.text,
        labels: piece.labels,
        metrics: metrics.collect(),
    });
    let entity = |entity: EntityPiece| {
        let mut histograms = entity.histograms.into_iter();
        let values = kinds.iter().zip(entity.numbers).filter_map(|(kind, number)| {
            Some(match (*kind)? {
                Kind::Counter => Value::Counter(number),
                Kind::Gauge => Value::Gauge(0),
                Kind::Histogram => Value::Histogram(distribution(number, histograms.next()?)),
            })
        });
        Entity { scope: Arc::clone(&scope), labels: entity.labels, values: values.collect() }
    };
    piece.entities.into_iter().map(entity).collect()
}

fn distribution(count: u64, piece: HistogramPiece) -> HistogramValue {
    let mut buckets: Vec<(u16, u64)> = Vec::with_capacity(piece.bounds.len());
    for (bound, count) in piece.bounds.into_iter().zip(piece.counts) {
        let bucket = u16::try_from(histogram::bucket(bound)).unwrap_or(u16::MAX);
        match buckets.last_mut() {
            // Theirs are narrower than ours.
            Some((last, sum)) if *last == bucket => *sum = sum.wrapping_add(count),
            _ => buckets.push((bucket, count)),
        }
    }
    HistogramValue { count, sum: piece.sum, buckets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ouro_shm::Joining;

    ouro_shm::scope! {
        /// Something that is counted.
        Thing "thing" "thing.{}" ["name"] {
            Counter DONE "done" Count "How much was done.";
            Gauge OPEN "open" Count "How much is open.";
            Histogram TIME "time" Microseconds "How long it took.";
        }
    }

    #[test]
    fn everything_but_gauges_arrives_as_it_was() {
        let segment = Segment::private(1 << 24);
        let member = segment.join(&Joining { epoch: 0, workers: 1, version: "1" }).unwrap();
        let stripe = member.stripe(0);
        for n in 0..1_200_u64 {
            let block = stripe.block(member.register::<Thing>(&[&format!("t{n}")]));
            block.add(Thing::DONE, n);
            block.raise(Thing::OPEN, 5);
            (0..n % 7).for_each(|k| block.record(Thing::TIME, n * n * k));
        }
        let before = segment.snapshot(&ReadOptions::default());
        let carried = read(&blobs(&segment)).unwrap();
        assert_eq!((carried.generations, carried.first_started_ms), (1, before.first_started_ms));
        assert_eq!(carried.entities.len(), 1_200);
        for (carried, entity) in carried.entities.iter().zip(&before.entities) {
            assert_eq!((&carried.scope, &carried.labels), (&entity.scope, &entity.labels));
            assert_eq!(carried.value("done"), entity.value("done"));
            assert_eq!(carried.value("open"), Some(&Value::Gauge(0)));
            assert_eq!(carried.value("time"), entity.value("time"));
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_broken_is_an_error() {
        let metric = |name: &str, kind| MetricPiece { name: name.into(), kind, ..MetricPiece::default() };
        let piece = ScopePiece {
            name: "thing".into(),
            metrics: vec![metric("old", 0), metric("strange", 9), metric("new", 0)],
            entities: vec![EntityPiece { numbers: vec![1, 2, 3], ..EntityPiece::default() }],
            ..ScopePiece::default()
        };
        let blob = |name: &str, bytes: &[u8]| vec![Blob { name: name.into(), bytes: bytes.to_vec() }];
        let carried = read(&blob(SCOPE, &piece.encode_to_vec())).unwrap();
        assert_eq!(carried.entities[0].values, [Value::Counter(1), Value::Counter(3)]);
        assert!(read(&blob("weather/1", b"fine")).unwrap().entities.is_empty());
        assert!(read(&blob(SCOPE, b"\xff\xff\xff")).is_err());
    }
}
