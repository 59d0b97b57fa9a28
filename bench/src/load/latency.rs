//! A distribution of latencies: buckets of which each is about 3 % wide.

/// Buckets of one power of two.
const STEPS: usize = 32;

/// Powers of two that are told apart; the rest is put into the last.
const POWERS: usize = 40;

/// How often which latency occurred.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; STEPS * POWERS], count: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        let place = bucket(nanoseconds).min(self.buckets.len() - 1);
        self.buckets[place] += 1;
        self.count += 1;
    }

    /// Counts what another has counted, too.
    pub(crate) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
        self.count += other.count;
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
    }

    /// The latency that this share of all (0.5, 0.99 …) did not exceed, microseconds; none if nothing was counted.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share
    pub(crate) fn quantile_us(&self, share: f64) -> Option<f64> {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && self.count > 0 {
                return Some(upper_end(place) as f64 / 1000.0);
            }
        }
        None
    }
}

/// Below [`STEPS`] each value has a bucket; above, each power of two has that many.
fn bucket(value: u64) -> usize {
    let steps = STEPS as u64;
    if value < steps {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = value.ilog2() - STEPS.ilog2();
    let step = (value >> power) - steps;
    usize::try_from(u64::from(power + 1) * steps + step).unwrap_or(usize::MAX)
}

const fn upper_end(bucket: usize) -> u64 {
    let (power, step) = (bucket / STEPS, bucket % STEPS);
    if power == 0 {
        return step as u64;
    }
    (((STEPS + step + 1) as u64) << (power - 1)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        for value in (0..2000).chain([1 << 20, 123_456_789, 1 << 40]) {
            let end = upper_end(bucket(value));
            assert!(end >= value && end - value <= value / 32, "{value}: {end}");
            assert!(bucket(value) < STEPS * POWERS);
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_us(0.5), None);
        for n in 1..=1000 {
            latencies.record(n * 1000);
        }
        let near = |share: f64, us: f64| (latencies.quantile_us(share).unwrap() / us - 1.0).abs() < 0.04;
        assert!(near(0.5, 500.0) && near(0.99, 990.0) && near(0.999, 999.0));
        latencies.record(u64::MAX);
        assert!(latencies.quantile_us(1.0).unwrap() > 1e6);
    }
}
