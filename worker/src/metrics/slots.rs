//! The slots and which series has which: the only writer of the memory that `shared::metric` describes.

use std::sync::atomic::{AtomicU64, Ordering};

use shared::message::Series;
use shared::metric::family::SAMPLES_DROPPED;
use shared::metric::log_linear::{Bucket, CHUNK_SLOTS};
use shared::metric::{
    Edges, FAMILIES, Family, LABEL_BYTES_MAX, LABELS_BYTES_MAX, OTHER, SERIES_MAX, UNKNOWN,
};

use crate::Map;

/// Number of slots in use.
const USED_SLOT: usize = 0;
/// What was counted nowhere. It has its slot from the beginning: when it is needed there is none left.
const DROPPED_SLOT: usize = 1;

/// Where a series counts.
pub(super) struct Found {
    /// Its first slot; `None` if there is no room for it.
    pub(super) slot: Option<usize>,
    /// What the supervisor has to be told, if the series is new.
    pub(super) new: Option<Series>,
}

/// The slots of this worker and the series in them.
pub(super) struct Slots {
    slots: &'static [AtomicU64],
    used: usize,
    labels_bytes: usize,
    /// By family number: label values, each followed by a byte that no text holds → first slot.
    series: Vec<Map<Box<[u8]>, usize>>,
    /// The key looked for last; kept for its room.
    key: Vec<u8>,
}

impl Slots {
    /// Counts in `slots`, which hold zeroes.
    pub(super) fn new(slots: &'static [AtomicU64]) -> Self {
        let series = FAMILIES.iter().map(|_| Map::default()).collect();
        let mut new = Self { slots, used: 0, labels_bytes: 0, series, key: Vec::new() };
        new.take(DROPPED_SLOT + 1);
        new
    }

    /// The slots of a series, taken into use if it is the first time.
    pub(super) fn find(&mut self, family: &Family, labels: &[&str]) -> Found {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let none = Found { slot: None, new: None };
        let number = usize::from(family.number);
        self.key.clear();
        for label in labels {
            self.key.extend_from_slice(published(label).as_bytes());
            self.key.push(u8::MAX);
        }
        let Some(series) = self.series.get(number) else { return none };
        if let Some(slot) = series.get(self.key.as_slice()) {
            return Found { slot: Some(*slot), new: None };
        }
        if series.len() >= SERIES_MAX && labels.iter().any(|label| *label != OTHER) {
            return self.find(family, &vec![OTHER; labels.len()]);
        }
        let labels_bytes = self.labels_bytes.saturating_add(self.key.len());
        if labels_bytes > LABELS_BYTES_MAX {
            return none;
        }
        let Some(slot) = self.take(family.kind.slots()) else { return none };
        self.labels_bytes = labels_bytes;
        if let Some(series) = self.series.get_mut(number) {
            series.insert(self.key.as_slice().into(), slot);
        }
        Found { slot: Some(slot), new: announcement(family, slot, labels) }
    }

    /// Adds to a counter.
    pub(super) fn add(&self, slot: usize, amount: u64) {
        if let Some(slot) = self.slots.get(slot) {
            // One thread writes, so that nothing is lost between the two; the supervisor needs no order.
            slot.store(slot.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        }
    }

    /// Adds to a gauge.
    pub(super) fn shift(&self, slot: usize, amount: i64) {
        self.add(slot, amount.cast_unsigned());
    }

    /// Says what was found last, and when.
    pub(super) fn found(&self, first_slot: usize, micros: u64, number: u64) {
        for (slot, value) in [(first_slot, micros), (first_slot + 1, number)] {
            if let Some(slot) = self.slots.get(slot) {
                slot.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Counts a duration in a histogram.
    pub(super) fn add_to_histogram(&self, first_slot: usize, edges: &Edges, micros: u64) {
        self.add(first_slot, micros);
        self.add(first_slot + 1 + edges.bucket_of(micros), 1);
    }

    /// Counts a duration in a summary. `false` if there is no room for its bucket.
    #[must_use]
    pub(super) fn add_to_summary(&mut self, first_slot: usize, micros: u64) -> bool {
        let bucket = Bucket::of(micros);
        let entry = first_slot + 1 + bucket.chunk;
        let chunk = match self.value(entry) {
            0 => {
                let Some(chunk) = self.take(CHUNK_SLOTS) else { return false };
                self.add(entry, chunk as u64);
                chunk
            }
            chunk => chunk as usize,
        };
        self.add(first_slot, micros);
        self.add(chunk + bucket.position, 1);
        true
    }

    /// Counts what could not be counted. The first time there is something to announce.
    pub(super) fn add_dropped(&self) -> Option<Series> {
        self.add(DROPPED_SLOT, 1);
        let first = self.value(DROPPED_SLOT) == 1;
        if first { announcement(&SAMPLES_DROPPED, DROPPED_SLOT, &[]) } else { None }
    }

    fn value(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.load(Ordering::Relaxed))
    }

    /// Takes `count` slots into use.
    fn take(&mut self, count: usize) -> Option<usize> {
        let first = self.used;
        let used = first.checked_add(count).filter(|used| *used <= self.slots.len())?;
        self.used = used;
        self.add(USED_SLOT, count as u64);
        Some(first)
    }
}

/// A label's value as it is published.
fn published(label: &str) -> &str {
    match label.get(..label.floor_char_boundary(LABEL_BYTES_MAX)) {
        Some("") | None => UNKNOWN,
        Some(label) => label,
    }
}

fn announcement(family: &Family, slot: usize, labels: &[&str]) -> Option<Series> {
    let labels = labels.iter().map(|label| published(label).to_owned()).collect();
    Some(Series { family: family.number, first_slot: u32::try_from(slot).ok()?, labels })
}

#[cfg(test)]
mod tests {
    use shared::metric::family::{AUTH_DECISIONS, REQUEST_DURATION, TOKENS_CONSUMED};
    use shared::metric::log_linear::CHUNKS;

    use super::*;

    fn slots(count: usize) -> Slots {
        Slots::new(Vec::leak((0..count).map(|_| AtomicU64::new(0)).collect()))
    }

    #[test]
    fn a_series_is_announced_once_and_keeps_its_slot() {
        let mut slots = slots(100);
        let first = slots.find(&TOKENS_CONSUMED, &["openai", "gpt-4o"]);
        let series = first.new.unwrap();
        assert_eq!(series.labels, ["openai", "gpt-4o"]);
        assert_eq!(Some(series.first_slot as usize), first.slot);
        let again = slots.find(&TOKENS_CONSUMED, &["openai", "gpt-4o"]);
        assert_eq!((again.slot, again.new), (first.slot, None));
    }

    #[test]
    fn label_values_do_not_run_into_each_other() {
        let mut slots = slots(100);
        let one = slots.find(&TOKENS_CONSUMED, &["ab", "c"]).slot;
        assert_ne!(one, slots.find(&TOKENS_CONSUMED, &["a", "bc"]).slot);
    }

    #[test]
    fn an_empty_label_is_unknown_and_a_long_one_is_cut_between_characters() {
        let mut slots = slots(100);
        let long = format!("x{}", "ä".repeat(LABEL_BYTES_MAX));
        let series = slots.find(&TOKENS_CONSUMED, &["", &long]).new.unwrap();
        assert_eq!(series.labels[0], UNKNOWN);
        assert_eq!(series.labels[1].len(), LABEL_BYTES_MAX - 1);
        assert!(long.starts_with(&series.labels[1]));
    }

    #[test]
    fn sets_of_labels_beyond_the_limit_are_counted_together() {
        let mut slots = slots(SERIES_MAX * 2);
        for n in 0..SERIES_MAX {
            slots.find(&TOKENS_CONSUMED, &["openai", &n.to_string()]);
        }
        let other = slots.find(&TOKENS_CONSUMED, &["openai", "one more"]);
        assert_eq!(other.new.unwrap().labels, [OTHER, OTHER]);
        let next = slots.find(&TOKENS_CONSUMED, &["openai", "and one more"]);
        assert_eq!((next.slot, next.new), (other.slot, None));
        assert!(slots.find(&AUTH_DECISIONS, &["none", "denied", "x"]).new.is_some());
    }

    #[test]
    fn without_a_free_slot_nothing_is_taken_and_the_loss_is_counted() {
        let room_for_one = 2 + (1 + CHUNKS) + CHUNK_SLOTS;
        let mut slots = slots(room_for_one);
        let summary = slots.find(&REQUEST_DURATION, &["a", "b", "200"]).slot.unwrap();
        assert!(slots.add_to_summary(summary, 1_000));
        assert!(!slots.add_to_summary(summary, 1_000_000));
        assert!(slots.find(&TOKENS_CONSUMED, &["a", "b"]).slot.is_none());
        assert_eq!(slots.value(summary), 1_000, "what has no bucket is not in the sum either");
        assert_eq!(slots.value(USED_SLOT), room_for_one as u64);
        assert_eq!(slots.add_dropped().unwrap().first_slot, DROPPED_SLOT as u32);
        assert_eq!(slots.add_dropped(), None);
        assert_eq!(slots.value(DROPPED_SLOT), 2);
    }
}
