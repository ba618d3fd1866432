//! Buckets that are narrow for small values and wide for large ones, so that a quantile read from them is off by less than
//! one percent, and that can be added up over processes.
//!
//! A value below 64 has a bucket of its own. Above, each doubling is cut into 64 buckets of equal width. Buckets come in
//! chunks of 64: chunk 0 for the values below 64, chunk n for those of bit length n + 6.

/// Buckets of a chunk.
pub const CHUNK_SLOTS: usize = 64;
/// Chunks of a whole summary.
pub const CHUNKS: usize = 27;
/// Largest value told apart: 71 minutes in microseconds. A larger one counts as this.
pub const VALUE_MAX: u64 = u32::MAX as u64;

/// Where a value is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Below [`CHUNKS`].
    pub chunk: usize,
    /// Below [`CHUNK_SLOTS`].
    pub position: usize,
}

impl Bucket {
    /// The bucket of a value.
    pub fn of(value: u64) -> Self {
        let value = value.min(VALUE_MAX);
        let doublings = value.checked_ilog2().and_then(|bits| bits.checked_sub(6));
        let chunk = doublings.map_or(0, |doublings| doublings.saturating_add(1));
        // The six bits behind the highest one, or the value itself in chunk 0.
        let position = value.wrapping_shr(doublings.unwrap_or(0)) & 0x3f;
        Self { chunk: chunk as usize, position: position as usize }
    }

    /// The value in the middle of the bucket.
    pub fn middle(self) -> u64 {
        let position = self.position as u64;
        let Some(doublings) = self.chunk.checked_sub(1) else { return position };
        let width = 1u64.checked_shl(doublings as u32).unwrap_or(u64::MAX);
        let lowest = position.saturating_add(CHUNK_SLOTS as u64).saturating_mul(width);
        lowest.saturating_add(width.saturating_sub(1) / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_bucket_of_the_last_chunk_takes_the_largest_values() {
        let last = Bucket { chunk: CHUNKS - 1, position: CHUNK_SLOTS - 1 };
        assert_eq!(Bucket::of(VALUE_MAX), last);
        assert_eq!(Bucket::of(u64::MAX), last);
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut last = Bucket::of(0);
        for value in 1..100_000 {
            let bucket = Bucket::of(value);
            let next = match last.position + 1 {
                CHUNK_SLOTS => Bucket { chunk: last.chunk + 1, position: 0 },
                position => Bucket { chunk: last.chunk, position },
            };
            assert!(bucket == last || bucket == next, "{value}");
            last = bucket;
        }
    }

    proptest! {
        #[test]
        fn the_middle_of_a_bucket_is_within_one_percent_of_every_value_in_it(value in 0..=VALUE_MAX) {
            let middle = Bucket::of(value).middle();
            prop_assert_eq!(Bucket::of(middle), Bucket::of(value));
            prop_assert!(middle.abs_diff(value) * 100 <= value, "{} for {}", middle, value);
        }

        #[test]
        fn every_value_has_a_bucket(value: u64) {
            let bucket = Bucket::of(value);
            prop_assert!(bucket.chunk < CHUNKS && bucket.position < CHUNK_SLOTS);
        }
    }
}
