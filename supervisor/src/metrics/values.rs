//! The numbers of one series: as read from a worker's slots, and added up over workers.

use std::array;

use bincode::{Decode, Encode};
use shared::metric::log_linear::{Bucket, CHUNK_SLOTS, CHUNKS};
use shared::metric::{EDGES_MAX, Kind};

/// What a worker's slots held at one moment: pieces of them, each with the index of its first slot. Nothing in them is
/// believed: outside of them everything is 0.
#[derive(Debug)]
pub(super) struct Reading(Vec<(usize, Vec<u8>)>);

impl Reading {
    /// Slots as they lie in memory, from `first` on.
    pub(super) fn new(first: usize, bytes: Vec<u8>) -> Self {
        Self(vec![(first, bytes)])
    }

    /// Adds another piece.
    pub(super) fn push(&mut self, first: usize, bytes: Vec<u8>) {
        self.0.push((first, bytes));
    }

    pub(super) fn slot(&self, index: usize) -> u64 {
        let slot = self.0.iter().find_map(|(first, bytes)| {
            let start = index.checked_sub(*first)?.checked_mul(8)?;
            bytes.get(start..)?.first_chunk()
        });
        slot.map_or(0, |slot| u64::from_ne_bytes(*slot))
    }
}

/// The numbers of one series.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
// Most series are histograms or summaries: a box for each would cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub(super) enum Values {
    Counter(u64),
    Gauge(i64),
    Histogram {
        sum: u64,
        counts: [u64; EDGES_MAX + 1],
    },
    Summary {
        sum: u64,
        chunks: Chunks,
    },
    /// When it was found, and the number.
    Latest {
        at: u64,
        number: u64,
    },
}

type Chunk = Box<[u64; CHUNK_SLOTS]>;

/// The buckets of a summary.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub(super) struct Chunks([Option<Chunk>; CHUNKS]);

impl Values {
    /// A series that has counted nothing.
    pub(super) fn zero(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(0),
            Kind::Gauge => Self::Gauge(0),
            Kind::Latest => Self::Latest { at: 0, number: 0 },
            Kind::Histogram(_) => Self::Histogram { sum: 0, counts: [0; EDGES_MAX + 1] },
            Kind::Summary => Self::Summary { sum: 0, chunks: Chunks::default() },
        }
    }

    /// Takes over what the slots from `first` on hold now. What only grows never falls, whatever they say. New chunks are
    /// taken while there is `room` for them, of which each takes one.
    pub(super) fn refresh(&mut self, reading: &Reading, first: usize, room: &mut usize) {
        let slot = |offset: usize| reading.slot(first.saturating_add(offset));
        match self {
            Self::Counter(total) => *total = slot(0).max(*total),
            Self::Gauge(value) => *value = slot(0).cast_signed(),
            Self::Latest { at, number } => (*at, *number) = (slot(0), slot(1)),
            Self::Histogram { sum, counts } => {
                *sum = slot(0).max(*sum);
                for (count, offset) in counts.iter_mut().zip(1..) {
                    *count = slot(offset).max(*count);
                }
            }
            Self::Summary { sum, chunks } => {
                *sum = slot(0).max(*sum);
                for (chunk, offset) in chunks.0.iter_mut().zip(1..) {
                    let Ok(start @ 1..) = usize::try_from(slot(offset)) else { continue };
                    if chunk.is_none() && *room > 0 {
                        *room -= 1;
                        *chunk = Some(Box::new([0; CHUNK_SLOTS]));
                    }
                    let Some(counts) = chunk else { continue };
                    for (count, position) in counts.iter_mut().zip(0..) {
                        *count = reading.slot(start.saturating_add(position)).max(*count);
                    }
                }
            }
        }
    }

    /// Whether it is of that kind.
    pub(super) fn is_of(&self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Counter(_), Kind::Counter)
                | (Self::Gauge(_), Kind::Gauge)
                | (Self::Latest { .. }, Kind::Latest)
                | (Self::Histogram { .. }, Kind::Histogram(_))
                | (Self::Summary { .. }, Kind::Summary)
        )
    }

    /// How many chunks of buckets are kept.
    #[cfg(test)]
    pub(super) fn chunks_kept(&self) -> usize {
        match self {
            Self::Summary { chunks, .. } => chunks.0.iter().flatten().count(),
            Self::Counter(_) | Self::Gauge(_) | Self::Latest { .. } | Self::Histogram { .. } => 0,
        }
    }

    /// Adds another series of the same family.
    pub(super) fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Counter(total), Self::Counter(more)) => *total = total.saturating_add(*more),
            (Self::Gauge(value), Self::Gauge(more)) => *value = value.saturating_add(*more),
            (Self::Latest { at, number }, Self::Latest { at: at_other, number: number_other }) => {
                if at_other > at {
                    (*at, *number) = (*at_other, *number_other);
                }
            }
            (
                Self::Histogram { sum, counts },
                Self::Histogram { sum: sum_more, counts: counts_more },
            ) => {
                *sum = sum.saturating_add(*sum_more);
                add_each(counts, counts_more);
            }
            (
                Self::Summary { sum, chunks },
                Self::Summary { sum: sum_more, chunks: chunks_more },
            ) => {
                *sum = sum.saturating_add(*sum_more);
                chunks.add(chunks_more);
            }
            // Both come from the same family, which has one kind.
            (
                Self::Counter(_)
                | Self::Gauge(_)
                | Self::Latest { .. }
                | Self::Histogram { .. }
                | Self::Summary { .. },
                _,
            ) => {}
        }
    }
}

fn add_each(counts: &mut [u64], more: &[u64]) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count = count.saturating_add(*more);
    }
}

impl Chunks {
    /// Values, counted.
    #[cfg(test)]
    pub(super) fn of(values: &[u64]) -> Self {
        let mut chunks = Self::default();
        for value in values {
            let Bucket { chunk, position } = Bucket::of(*value);
            chunks.0[chunk].get_or_insert_with(|| Box::new([0; CHUNK_SLOTS]))[position] += 1;
        }
        chunks
    }

    /// What was counted since `before`, an earlier state of the same.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (chunk, before) in since.0.iter_mut().zip(&before.0) {
            let (Some(counts), Some(before)) = (chunk, before) else { continue };
            for (count, before) in counts.iter_mut().zip(before.iter()) {
                *count = count.saturating_sub(*before);
            }
        }
        since
    }

    /// Adds what was counted elsewhere.
    pub(super) fn add(&mut self, more: &Self) {
        for (chunk, more) in self.0.iter_mut().zip(&more.0) {
            match (chunk, more) {
                (Some(chunk), Some(more)) => add_each(&mut chunk[..], &more[..]),
                (chunk @ None, Some(more)) => *chunk = Some(more.clone()),
                (_, None) => {}
            }
        }
    }

    /// How many values were counted.
    pub(super) fn count(&self) -> u64 {
        self.buckets().fold(0, |total, (_, count)| total.saturating_add(count))
    }

    /// The value that a share `quantile` (0 to 1) of all values does not exceed; `None` if there are no values.
    pub(super) fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = ((quantile * self.count() as f64).ceil() as u64).max(1);
        let mut passed = 0u64;
        let mut highest = None;
        for (value, count) in self.buckets().filter(|(_, count)| *count > 0) {
            passed = passed.saturating_add(count);
            highest = Some(value);
            if passed >= rank {
                break;
            }
        }
        highest
    }

    /// Value and count of each bucket, ascending.
    fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let chunks = self.0.iter().enumerate();
        chunks.filter_map(|(chunk, counts)| Some((chunk, counts.as_ref()?))).flat_map(
            |(chunk, counts)| {
                let buckets =
                    array::from_fn::<_, CHUNK_SLOTS, _>(|position| Bucket { chunk, position });
                buckets.map(Bucket::middle).into_iter().zip(counts.iter().copied())
            },
        )
    }
}
