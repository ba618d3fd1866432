//! Counts within windows of time that are aligned to the wall clock, in UTC.

use std::sync::atomic::Ordering::SeqCst;

use super::{CounterKey, Counters, WINDOWS};

const COUNT_BITS: u32 = 40;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const NUMBER_BITS: u32 = 22;
const NUMBER_MAX: u64 = (1 << NUMBER_BITS) - 1;

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Period {
    const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::Hour, Self::Day];

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

/// The window of a length that a moment lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    period: Period,
    number: u64,
}

impl Window {
    /// The window at a moment, in seconds since 1970 UTC.
    pub const fn at(period: Period, unix_seconds: u64) -> Self {
        Self { period, number: unix_seconds / period.seconds() }
    }

    /// Its bits in a word. Zero is no window: numbers begin long after 1970.
    fn bits(self) -> u64 {
        ((self.period as u64) << NUMBER_BITS) | (self.number & NUMBER_MAX)
    }

    /// Whether an entry with these bits belongs to the same window, or to the one that has just begun where our clock was
    /// read a moment ago.
    fn is_at(self, bits: u64) -> bool {
        let next = Self { number: self.number + 1, ..self };
        bits == self.bits() || bits == next.bits()
    }
}

/// What has become of a wish to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Counted; so many in all.
    Counted(u64),
    /// Not counted, since there were so many already.
    Full(u64),
    /// There is no room for another counter: the caller counts alone.
    NoRoom,
}

impl Counters {
    /// Counts `amount` unless the count would come above `limit`. Of all workers together never more than `limit` are counted.
    pub fn take(&self, key: CounterKey, window: Window, amount: u64, limit: u64) -> Taken {
        let Some(place) = self.window_place(key, window) else { return Taken::NoRoom };
        let word = self.word(place + 1);
        let mut found = word.load(SeqCst);
        loop {
            let (bits, count) = parted(found);
            let (bits, count) = if window.is_at(bits) { (bits, count) } else { (window.bits(), 0) };
            let total = count.saturating_add(amount).min(COUNT_MAX);
            if total > limit {
                return Taken::Full(count);
            }
            match word.compare_exchange_weak(found, joined(bits, total), SeqCst, SeqCst) {
                Ok(_) => return Taken::Counted(total),
                Err(other) => found = other,
            }
        }
    }

    /// Takes back what [`Counters::take`] has counted, if the window is still the same.
    pub fn give_back(&self, key: CounterKey, window: Window, amount: u64) {
        let Some(place) = self.known(0, WINDOWS, key) else { return };
        let _ = self.word(place + 1).fetch_update(SeqCst, SeqCst, |found| {
            let (bits, count) = parted(found);
            (bits == window.bits()).then(|| joined(bits, count.saturating_sub(amount)))
        });
    }

    /// How much was counted in the window.
    pub fn count(&self, key: CounterKey, window: Window) -> u64 {
        let Some(place) = self.known(0, WINDOWS, key) else { return 0 };
        let (bits, count) = parted(self.word(place + 1).load(SeqCst));
        if window.is_at(bits) { count } else { 0 }
    }

    /// The entry of the key, made if need be, in place of one whose window is over if there is no other room.
    fn window_place(&self, key: CounterKey, window: Window) -> Option<usize> {
        self.known(0, WINDOWS, key).or_else(|| self.find(0, WINDOWS, key)).or_else(|| {
            self.places(0, WINDOWS, key).find(|place| {
                let (slot, word) = (self.word(*place), self.word(place + 1));
                let (owner, found) = (slot.load(SeqCst), word.load(SeqCst));
                // Emptied first, so that the next owner begins at nothing.
                is_over(found, window)
                    && word.compare_exchange(found, 0, SeqCst, SeqCst).is_ok()
                    && slot.compare_exchange(owner, key.0, SeqCst, SeqCst).is_ok()
            })
        })
    }
}

/// Whether the window of an entry has ended some windows before the moment of `now`.
fn is_over(word: u64, now: Window) -> bool {
    let (bits, _) = parted(word);
    let period = Period::ALL.get((bits >> NUMBER_BITS) as usize).copied().unwrap_or(Period::Second);
    let seconds = now.number * now.period.seconds();
    let current = Window::at(period, seconds).number & NUMBER_MAX;
    let age = current.wrapping_sub(bits & NUMBER_MAX) & NUMBER_MAX;
    // The beginning of a long window says little of the moment within it: only what is surely over.
    let margin = now.period.seconds() / period.seconds() + 1;
    age > margin && age < NUMBER_MAX / 2
}

const fn parted(word: u64) -> (u64, u64) {
    (word >> COUNT_BITS, word & COUNT_MAX)
}

const fn joined(bits: u64, count: u64) -> u64 {
    (bits << COUNT_BITS) | count
}
