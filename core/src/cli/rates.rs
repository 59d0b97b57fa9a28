//! What has happened between two snapshots.
//!
//! Time is an argument: nothing here reads a clock or a segment.

use std::collections::HashMap;
use std::time::Duration;

use ouro_shm::{Entity, HistogramValue, Value};

/// The entities of a snapshot, to be found by scope and labels.
pub(super) struct Index<'a>(HashMap<(&'a str, &'a [String]), &'a Entity>);

impl<'a> Index<'a> {
    pub(super) fn new(entities: &'a [Entity]) -> Self {
        Self(
            entities
                .iter()
                .map(|entity| ((entity.scope.name.as_str(), entity.labels.as_slice()), entity))
                .collect(),
        )
    }

    /// The same entity in this snapshot.
    pub(super) fn find(&self, entity: &Entity) -> Option<&'a Entity> {
        self.named(&entity.scope.name, &entity.labels)
    }

    /// The entity of a scope with these labels.
    pub(super) fn named(&self, scope: &str, labels: &[String]) -> Option<&'a Entity> {
        self.0.get(&(scope, labels)).copied()
    }
}

/// By how much a counter has grown. One that is smaller than before was reset: it counts from 0.
pub(super) const fn growth(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}

/// What has been added to a distribution; all of it if it was reset.
pub(super) fn histogram_growth(before: &HistogramValue, now: &HistogramValue) -> HistogramValue {
    if now.count < before.count {
        return now.clone();
    }
    let mut old = before.buckets.iter().copied().peekable();
    let mut buckets = Vec::new();
    for (bucket, number) in &now.buckets {
        while old.next_if(|(other, _)| other < bucket).is_some() {}
        let before = old.next_if(|(other, _)| other == bucket).map_or(0, |(_, number)| number);
        if *number > before {
            buckets.push((*bucket, *number - before));
        }
    }
    HistogramValue { count: now.count - before.count, sum: growth(before.sum, now.sum), buckets }
}

/// Adds a distribution to another.
pub(super) fn add_histogram(sum: &mut HistogramValue, other: &HistogramValue) {
    sum.count = sum.count.saturating_add(other.count);
    sum.sum = sum.sum.saturating_add(other.sum);
    let mut merged = Vec::with_capacity(sum.buckets.len() + other.buckets.len());
    let (mut left, mut right) =
        (sum.buckets.iter().copied().peekable(), other.buckets.iter().copied().peekable());
    loop {
        let next = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) if a < b => left.next(),
            (Some((a, _)), Some((b, _))) if a > b => right.next(),
            (Some(_), Some(_)) => {
                left.next().zip(right.next()).map(|((bucket, a), (_, b))| (bucket, a.saturating_add(b)))
            }
            (Some(_), None) => left.next(),
            (None, _) => right.next(),
        };
        let Some(next) = next else { break };
        merged.push(next);
    }
    sum.buckets = merged;
}

/// So many in this time, per second.
#[allow(clippy::cast_precision_loss)] // to be looked at
pub(super) fn per_second(number: u64, elapsed: Duration) -> f64 {
    number as f64 / elapsed.as_secs_f64().max(0.001)
}

/// The distribution of a metric; empty where there is none.
pub(super) fn histogram<'a>(entity: &'a Entity, metric: &str) -> Option<&'a HistogramValue> {
    match entity.value(metric) {
        Some(Value::Histogram(histogram)) => Some(histogram),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(buckets: &[(u16, u64)]) -> HistogramValue {
        let count = buckets.iter().map(|(_, number)| number).sum();
        HistogramValue { count, sum: count * 10, buckets: buckets.to_vec() }
    }

    #[test]
    fn a_counter_that_was_reset_counts_from_0() {
        assert_eq!(growth(5, 9), 4);
        assert_eq!(growth(5, 5), 0);
        assert_eq!(growth(5, 2), 2);
    }

    #[test]
    fn a_distribution_grows_by_its_new_values() {
        let before = distribution(&[(1, 2), (3, 4)]);
        let now = distribution(&[(1, 2), (2, 1), (3, 6), (9, 1)]);
        assert_eq!(histogram_growth(&before, &now), distribution(&[(2, 1), (3, 2), (9, 1)]));
        assert_eq!(histogram_growth(&now, &before), before);
        assert_eq!(histogram_growth(&now, &now), distribution(&[]));
    }

    #[test]
    fn a_bucket_that_vanished_does_no_harm() {
        let before = distribution(&[(1, 2), (3, 4)]);
        let now = HistogramValue { count: 7, sum: 70, buckets: vec![(3, 5)] };
        assert_eq!(histogram_growth(&before, &now).buckets, [(3, 1)]);
    }

    #[test]
    fn distributions_add_up() {
        let mut sum = distribution(&[(1, 2), (3, 4)]);
        add_histogram(&mut sum, &distribution(&[(0, 1), (3, 1), (7, 1)]));
        assert_eq!(sum, distribution(&[(0, 1), (1, 2), (3, 5), (7, 1)]));
    }

    #[test]
    fn no_time_is_no_division_by_zero() {
        assert!(per_second(5, Duration::ZERO).is_finite());
        assert!((per_second(5, Duration::from_secs(2)) - 2.5).abs() < 1e-9);
    }
}
