//! Log-linear buckets: values up to 15 exactly, above that 16 buckets for each power of two.
//!
//! A bucket's width is at most 1/16 of its lower bound, so a quantile that is answered with the middle of its bucket is
//! off by 3.1 % at most. The largest value that is told apart is 2^35 - 1 (9.5 hours in microseconds); what is
//! larger counts in the last bucket.

/// Buckets of a histogram; with eight bytes each, one page.
pub const BUCKETS: usize = 512;

const LINEAR: u64 = 16;

/// The bucket that counts `value`.
#[must_use]
#[inline]
pub const fn bucket(value: u64) -> usize {
    if value < LINEAR {
        #[allow(clippy::cast_possible_truncation)] // below 16
        return value as usize;
    }
    let octave = value.ilog2() as usize; // 4 and up
    #[allow(clippy::cast_possible_truncation)] // below 16 after masking
    let within = ((value >> (octave - 4)) & (LINEAR - 1)) as usize;
    let bucket = (octave - 3) * 16 + within;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// The smallest value of a bucket.
#[must_use]
pub const fn lower_bound(bucket: usize) -> u64 {
    if bucket < 16 {
        return bucket as u64;
    }
    let octave = bucket / 16 + 3;
    (LINEAR + (bucket % 16) as u64) << (octave - 4)
}

/// The smallest value above a bucket.
#[must_use]
pub const fn upper_bound(bucket: usize) -> u64 {
    lower_bound(bucket + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for n in 0..BUCKETS {
            let (low, high) = (lower_bound(n), upper_bound(n));
            assert!(low < high);
            assert_eq!(bucket(low), n);
            assert_eq!(bucket(high - 1), n);
            assert!(n < 16 || (high - low) * 16 <= low, "bucket {n}: {low}..{high}");
        }
        assert_eq!(upper_bound(BUCKETS - 1), 1 << 35);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
