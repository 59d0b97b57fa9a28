//! Histograms with the few fixed bounds that Prometheus wants.

use ouro_shm::{HistogramValue, Unit, histogram};

use super::{push_labels, push_number, push_scaled};

/// Bounds of durations: microseconds, and how they are written in seconds.
const DURATIONS: &[(u64, &str)] = &[
    (500, "0.0005"),
    (1000, "0.001"),
    (2500, "0.0025"),
    (5000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
    (60_000_000, "60"),
    (300_000_000, "300"),
    (1_800_000_000, "1800"),
    (3_600_000_000, "3600"),
];

/// Bounds of anything else.
const SIZES: &[(u64, &str)] = &[
    (1, "1"),
    (4, "4"),
    (16, "16"),
    (64, "64"),
    (256, "256"),
    (1024, "1024"),
    (4096, "4096"),
    (16_384, "16384"),
    (65_536, "65536"),
    (262_144, "262144"),
    (1_048_576, "1048576"),
    (16_777_216, "16777216"),
    (268_435_456, "268435456"),
    (4_294_967_296, "4294967296"),
];

/// Bounds at most.
const MAX_BOUNDS: usize = 24;
const _: () = assert!(DURATIONS.len() < MAX_BOUNDS && SIZES.len() < MAX_BOUNDS);

/// The bounds of a family, and which of our buckets lies below which.
pub(super) struct Bounds {
    bounds: &'static [(u64, &'static str)],
    /// For each of our buckets, the first bound that it counts below; `bounds.len()` where there is none.
    slots: Vec<u8>,
    unit: Unit,
}

impl Bounds {
    pub(super) fn new(unit: Unit) -> Self {
        let bounds = if unit == Unit::Microseconds { DURATIONS } else { SIZES };
        let slot = |bucket| {
            // A bucket counts with its middle, as it does for quantiles, so that the error has no direction.
            let middle = u64::midpoint(histogram::lower_bound(bucket), histogram::upper_bound(bucket) - 1);
            let slot = bounds.iter().position(|(bound, _)| middle <= *bound).unwrap_or(bounds.len());
            u8::try_from(slot).unwrap_or(u8::MAX)
        };
        Self { bounds, slots: (0..histogram::BUCKETS).map(slot).collect(), unit }
    }

    /// Lines of one histogram.
    pub(super) const fn lines(&self) -> usize {
        self.bounds.len() + 3
    }

    /// Appends one histogram. `head` is scratch space.
    pub(super) fn push(
        &self,
        out: &mut String,
        head: &mut String,
        name: &str,
        labels: &str,
        histogram: &HistogramValue,
    ) {
        let mut counts = [0_u64; MAX_BOUNDS];
        for (bucket, number) in &histogram.buckets {
            let slot =
                self.slots.get(usize::from(*bucket)).map_or(self.bounds.len(), |slot| usize::from(*slot));
            counts[slot] += number;
        }
        head.clear();
        head.push_str(name);
        head.push_str("_bucket{");
        head.push_str(labels);
        head.push_str(if labels.is_empty() { "le=\"" } else { ",le=\"" });
        let mut below = 0;
        for ((_, bound), number) in self.bounds.iter().zip(counts) {
            below += number;
            out.push_str(head);
            out.push_str(bound);
            out.push_str("\"} ");
            push_number(out, below);
            out.push('\n');
        }
        // Values are counted while this is read, and buckets may have found no room: the larger number is the newer.
        let total = histogram.count.max(below + counts[self.bounds.len()]);
        out.push_str(head);
        out.push_str("+Inf\"} ");
        push_number(out, total);
        out.push('\n');
        out.push_str(name);
        out.push_str("_sum");
        push_labels(out, labels, "");
        out.push(' ');
        push_scaled(out, histogram.sum, self.unit);
        out.push('\n');
        out.push_str(name);
        out.push_str("_count");
        push_labels(out, labels, "");
        out.push(' ');
        push_number(out, total);
        out.push('\n');
    }
}
