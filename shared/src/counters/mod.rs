//! What all proxy workers of a node count together: requests and tokens in windows of time, how many are in progress, and
//! small facts about upstreams. In memory that the supervisor hands out and that outlives any worker.
//!
//! No worker ever waits for another: everything is one compare-and-swap on a word. What a worker holds when it dies is
//! written down in a ledger of its own, from which the supervisor gives it back.
//!
//! ```text
//! windows  (key, kind 2 bits | window 22 bits | count 40 bits) × WINDOWS
//! gauges   (key, count) × GAUGES
//! cells    (key, word) × CELLS
//! ledgers  (place of a gauge + 1) × HELD_MAX, one for each lane
//! ```
//! Tables are open-addressed by the key, which is a hash: two names that share one count together, which 64 bits make an
//! accident that does not happen. A place is found within [`PROBES`] steps or not at all; then the caller counts alone.

mod gauge;
mod window;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

pub use gauge::{Held, NoRoom};
pub use window::{Period, Taken, Window};

use crate::memory;

/// Windows counted at a time.
const WINDOWS: usize = 1 << 19;
/// Gauges at a time.
const GAUGES: usize = 1 << 16;
/// Cells, for the life of the memory.
const CELLS: usize = 1 << 17;
/// Workers at a time, those included that finish what they have.
pub const LANES: usize = 256;
/// What one worker holds at a time.
const HELD_MAX: usize = 1 << 14;
/// How far a place is looked for.
const PROBES: usize = 64;

const GAUGES_AT: usize = WINDOWS * 2;
const CELLS_AT: usize = GAUGES_AT + GAUGES * 2;
const LEDGERS_AT: usize = CELLS_AT + CELLS * 2;

/// Size of the memory, in words of eight bytes.
pub const WORDS: usize = LEDGERS_AT + LANES * HELD_MAX;

/// The same in bytes. Most of it is never touched, and takes no memory until it is.
pub const BYTES: u64 = WORDS as u64 * 8;

/// Memory for all counters of a node, all of them at zero.
pub fn new_memory() -> io::Result<OwnedFd> {
    memory::fixed_size("aisix-counters", BYTES)
}

/// Names the cell in which workers tell how the Redis is that limits are shared by.
pub const LIMITS_REDIS: &[&str] = &["state", "redis of limits"];
/// It answers.
pub const REDIS_ANSWERS: u64 = 1;
/// It does not: limits are counted on this node alone.
pub const REDIS_AWAY: u64 = 2;

/// Names the cell in which workers tell when they last had to refuse a request because too many came, in seconds since 1970.
pub const OVERLOADED_AT: &[&str] = &["state", "overloaded at"];

/// Names the cell in which the worker of a lane tells how many connections it has, plus one; zero while it accepts none.
pub fn connections_of(lane: usize) -> CounterKey {
    CounterKey::of(&["connections", &lane.to_string()])
}

/// Names something that is counted. Zero names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey(u64);

impl CounterKey {
    /// The key of a name that consists of these parts. The same in every build.
    pub fn of(parts: &[&str]) -> Self {
        Self::beginning(parts).key()
    }

    /// What the keys of names have in common that begin with these parts.
    pub fn beginning(parts: &[&str]) -> KeyBegin {
        parts.iter().fold(KeyBegin::EMPTY, |begin, part| begin.and(part))
    }

    /// The hash itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The first parts of a name.
#[derive(Clone, Copy, Debug)]
pub struct KeyBegin(u64);

impl KeyBegin {
    /// Nothing yet.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// The key of the name that ends with this part.
    pub fn with(self, part: &str) -> CounterKey {
        self.and(part).key()
    }

    /// With a further part. FNV-1a.
    pub const fn and(self, part: &str) -> Self {
        let (mut hash, mut left) = (self, part.as_bytes());
        while let [byte, rest @ ..] = left {
            hash = hash.and_byte(*byte);
            left = rest;
        }
        // A separator that no text holds keeps parts apart.
        hash.and_byte(0xff)
    }

    const fn and_byte(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// With murmur's finalizer, since places are taken from the low bits.
    fn key(self) -> CounterKey {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        CounterKey((hash ^ (hash >> 33)).max(1))
    }
}

/// The counters, as one worker uses them.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    words: &'static [AtomicU64],
    lane: usize,
}

impl Counters {
    /// Counters in `words`, of which there are [`WORDS`], for the worker of that lane. Only one living worker has a lane.
    /// `None` if there are too few, or no such lane.
    pub fn new(words: &'static [AtomicU64], lane: usize) -> Option<Self> {
        (words.len() >= WORDS && lane < LANES).then_some(Self { words, lane })
    }

    /// Counters in `memory`, of [`new_memory`], for the worker of that lane.
    ///
    /// # Errors
    /// The memory is too small or cannot be mapped, or there is no such lane.
    pub fn open(memory: &File, lane: usize) -> io::Result<Self> {
        let words = memory::mapped(memory, WORDS)?;
        Self::new(words, lane).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Counters of this process alone, for as long as it lives.
    pub fn private() -> Self {
        let mapped = new_memory().and_then(|memory| Self::open(&File::from(memory), 0));
        mapped.unwrap_or_else(|_| {
            let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
            Self { words: Vec::leak(words), lane: 0 }
        })
    }

    /// The same counters for another lane.
    pub fn with_lane(self, lane: usize) -> Option<Self> {
        Self::new(self.words, lane)
    }

    /// The lane that they are used from.
    pub fn lane(&self) -> usize {
        self.lane
    }

    /// A word that all workers share; zero at first. `None` if there is no room for another one.
    pub fn cell(&self, key: CounterKey) -> Option<&'static AtomicU64> {
        self.find(CELLS_AT, CELLS, key).map(|place| self.word(place + 1))
    }

    /// The cell, if anybody has used it.
    pub fn known_cell(&self, key: CounterKey) -> Option<&'static AtomicU64> {
        self.known(CELLS_AT, CELLS, key).map(|place| self.word(place + 1))
    }

    fn word(&self, place: usize) -> &'static AtomicU64 {
        static NOTHING: AtomicU64 = AtomicU64::new(0);
        // Every place is within the memory, whose size was looked at.
        self.words.get(place).unwrap_or(&NOTHING)
    }

    /// Where the key's entry is, or can be made; the entry is made.
    fn find(&self, table: usize, entries: usize, key: CounterKey) -> Option<usize> {
        self.places(table, entries, key).find(|place| {
            let slot = self.word(*place);
            match slot.load(SeqCst) {
                known if known == key.0 => true,
                0 => match slot.compare_exchange(0, key.0, SeqCst, SeqCst) {
                    Ok(_) => true,
                    Err(other) => other == key.0,
                },
                _ => false,
            }
        })
    }

    /// Where the key's entry is, if there is one.
    fn known(&self, table: usize, entries: usize, key: CounterKey) -> Option<usize> {
        self.places(table, entries, key)
            .map(|place| (place, self.word(place).load(SeqCst)))
            .take_while(|(_, found)| *found != 0)
            .find(|(_, found)| *found == key.0)
            .map(|(place, _)| place)
    }

    fn places(
        &self,
        table: usize,
        entries: usize,
        key: CounterKey,
    ) -> impl Iterator<Item = usize> + use<> {
        // The tables' sizes are powers of two.
        let first = usize::try_from(key.0 & (entries as u64 - 1)).unwrap_or_default();
        (0..PROBES).map(move |step| table + ((first + step) & (entries - 1)) * 2)
    }
}

#[cfg(test)]
mod tests;
