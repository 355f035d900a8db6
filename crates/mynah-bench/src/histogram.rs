//! Latencies, counted in buckets whose width grows with the value.
//!
//! 64 buckets for each power of two keep the error of a percentile under 1.6 % whatever the range, so a run of
//! an hour costs the same 18 KiB as a run of a second.
//! Never: allocates after `new`, keeps single samples, knows what the numbers mean.

/// log2 of the number of buckets for each power of two.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
/// Values from 2^41 ns (36 minutes) on share the last bucket.
const TOP_BITS: u32 = 41;
const BUCKETS: usize = ((TOP_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts of values in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    /// Counts `times` occurrences of `value`.
    #[inline]
    pub(crate) fn record(&mut self, value: u64, times: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += times;
        }
        self.total += times;
        self.max = self.max.max(value);
    }

    /// Adds all counts of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value below or at which `per_mille` of 1,000 samples lie; 0 without samples.
    pub(crate) fn per_mille(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(index).min(self.max);
            }
        }
        self.max
    }
}

#[inline]
fn bucket(value: u64) -> usize {
    let value = value.min((1 << TOP_BITS) - 1);
    if value < SUB {
        return usize::try_from(value).unwrap_or(0);
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    // The leading one of `value >> shift` is the row below; the six bits after it are the place in the row.
    let index = (u64::from(shift) << SUB_BITS) + (value >> shift);
    usize::try_from(index).unwrap_or(BUCKETS - 1)
}

/// The largest value that falls into bucket `index`.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB {
        return index;
    }
    let shift = (index >> SUB_BITS) - 1;
    let mantissa = (index & (SUB - 1)) + SUB;
    ((mantissa + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket() {
        let mut last = 0;
        for bits in 0..TOP_BITS {
            for step in 0..7 {
                let value = (1u64 << bits) + step * ((1u64 << bits) / 8);
                let index = bucket(value);
                assert!(index < BUCKETS, "{value}");
                assert!(upper(index) >= value, "{value} over {}", upper(index));
                assert!(upper(index) - value <= value / 60 + 1, "{value} too wide");
                assert!(index >= last, "{value} not monotone");
                last = index;
            }
        }
    }

    #[test]
    fn percentiles_of_one_to_thousand() {
        let mut histogram = Histogram::new();
        for value in 1..=1000 {
            histogram.record(value * 1000, 1);
        }
        let near = |got: u64, want: u64| assert!(got.abs_diff(want) <= want / 60, "{got} is not {want}");
        near(histogram.per_mille(500), 500_000);
        near(histogram.per_mille(990), 990_000);
        near(histogram.per_mille(999), 999_000);
        assert_eq!(histogram.per_mille(1000), 1_000_000);
        assert_eq!(histogram.max(), 1_000_000);
    }

    #[test]
    fn merge_adds_and_repeats_count() {
        let (mut a, mut b) = (Histogram::new(), Histogram::new());
        assert_eq!(a.per_mille(500), 0);
        a.record(10, 3);
        b.record(1 << 60, 1);
        a.merge(&b);
        assert_eq!(a.per_mille(750), 10);
        assert_eq!(a.max(), 1 << 60);
    }
}
