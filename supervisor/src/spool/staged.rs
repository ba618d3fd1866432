//! What waits for the next commit: everything that changes between two of them, as one value. Pure.
//!
//! While the disk refuses, it grows, within bounds: past them the oldest events are folded into totals, counted, so that
//! what they used up stays exact.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use shared::codec::CodecError;
use shared::ring::Place;
use shared::usage_total::{ID_BYTES_MAX, Totals, UsageTotal};

use super::block::{Block, Encoded};

/// The most memory that events take which are not on disk.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most caller keys whose costs are summed between two commits.
const KEYS_MAX: usize = 100_000;

/// What must be added once, and not again.
#[derive(Debug)]
pub struct Additions {
    totals: Totals,
    spend: BTreeMap<String, i128>,
}

/// Changes that are not on disk.
#[derive(Debug, Default)]
pub struct Staged {
    /// New blocks, by number.
    pub blocks: BTreeMap<u64, Block>,
    /// Blocks on disk that are done with.
    pub removed: BTreeSet<u64>,
    /// Blocks on disk that cannot be opened.
    pub damaged: BTreeSet<u64>,
    /// Totals to be added.
    pub totals: Totals,
    /// Totals on disk that have become events of `blocks`, by their key in the table.
    pub unfolded: BTreeSet<[u8; 32]>,
    /// Blocks that were made of those: another process would make other events of them, so they are sent from disk alone.
    pub made: BTreeSet<u64>,
    /// How far each ring has been read; `None` once its file is gone.
    pub rings: BTreeMap<String, Option<Place>>,
    /// Change of what waits to be paid for, by caller key, in billionths of a dollar.
    pub spend: BTreeMap<String, i128>,
    bytes: u64,
    bytes_max: Option<u64>,
}

impl Staged {
    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.removed.is_empty()
            && self.damaged.is_empty()
            && self.totals.is_empty()
            && self.unfolded.is_empty()
            && self.rings.is_empty()
            && self.spend.is_empty()
    }

    /// Bytes of the blocks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Events in the blocks.
    pub fn events(&self) -> u64 {
        self.blocks.values().map(|block| u64::from(block.events)).sum()
    }

    /// Events of which only totals are here.
    pub fn folded(&self) -> u64 {
        self.totals.iter().fold(0, |sum, total| sum.saturating_add(total.events))
    }

    /// Blocks that may be sent from memory.
    pub fn sendable(&self) -> impl Iterator<Item = (&u64, &Block)> {
        self.blocks.iter().filter(|(number, _)| !self.made.contains(*number))
    }

    /// Adds events, cut into blocks that are numbered from `next` on. Returns how many events lost their details to make
    /// room. Blocks that `is_leased` names are on their way and stay.
    pub fn append(
        &mut self,
        events: Encoded,
        next: &mut u64,
        is_leased: impl Fn(u64) -> bool,
    ) -> Result<u64, CodecError> {
        for block in events.blocks() {
            self.bytes = self.bytes.saturating_add(block.bytes());
            self.blocks.insert(*next, block);
            *next = next.saturating_add(1);
        }
        let mut shed = 0;
        while self.bytes > self.bytes_max.unwrap_or(BYTES_MAX) {
            let Some(oldest) = self.blocks.keys().copied().find(|number| !is_leased(*number))
            else {
                break;
            };
            let Some(block) = self.remove(oldest) else { break };
            shed += u64::from(block.events);
            for event in block.view()? {
                self.totals.add(UsageTotal::of(&event));
            }
        }
        Ok(shed)
    }

    /// Gives blocks with numbers below `least` new ones, in their order, but for those on their way.
    pub fn renumber(&mut self, least: u64, next: &mut u64, is_leased: impl Fn(u64) -> bool) {
        let below = self.blocks.range(..least).map(|(number, _)| *number);
        let below: Vec<u64> = below.filter(|number| !is_leased(*number)).collect();
        for number in below {
            if let Some(block) = self.blocks.remove(&number) {
                self.blocks.insert(*next, block);
                *next = next.saturating_add(1);
            }
        }
    }

    /// Takes a block out that has not reached the disk.
    pub fn remove(&mut self, number: u64) -> Option<Block> {
        let block = self.blocks.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(block.bytes());
        Some(block)
    }

    /// Notes a change of what waits to be paid for.
    pub fn spend(&mut self, api_key_id: &str, nano_usd: i128) {
        // A key that is one of so many, or that long, was invented: nobody waits for its sum.
        let has_room = self.spend.len() < KEYS_MAX || self.spend.contains_key(api_key_id);
        let is_known = has_room && api_key_id.len() <= ID_BYTES_MAX;
        if nano_usd < 0 || nano_usd > 0 && is_known {
            let sum = self.spend.entry(api_key_id.to_owned()).or_default();
            *sum = sum.saturating_add(nano_usd);
        }
    }

    /// What must be added once.
    pub fn additions(&self) -> Additions {
        Additions { totals: self.totals.clone(), spend: self.spend.clone() }
    }

    /// A commit that seemed to have failed is on disk: what it added is not added again.
    pub fn landed(&mut self, additions: Additions) {
        for total in additions.totals.iter() {
            self.totals.subtract(total);
        }
        // Rows of these keys are new ones, written by that commit.
        self.unfolded.clear();
        for (key, nano_usd) in additions.spend {
            self.spend(&key, nano_usd.saturating_neg());
        }
    }

    /// Everything has reached the disk.
    pub fn clear(&mut self) {
        *self = Self { bytes_max: self.bytes_max, ..Self::default() };
    }
}

/// The number of the first block of a run, above those of every run before: the database that holds them may be out of
/// reach for a while.
pub fn first_number(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default().saturating_mul(1 << 20).max(1)
}

#[cfg(test)]
mod tests {
    use shared::usage::UsageEvent;

    use super::*;

    fn events(count: usize) -> Encoded {
        let event = UsageEvent { prompt_tokens: 3, ..UsageEvent::default() };
        Encoded::of(&vec![event; count]).unwrap()
    }

    #[test]
    fn events_are_cut_into_blocks_of_a_hundred() {
        let (mut staged, mut next) = (Staged::default(), 5);
        staged.append(events(250), &mut next, |_| false).unwrap();
        let counts: Vec<_> = staged.blocks.iter().map(|(id, block)| (*id, block.events)).collect();
        assert_eq!(counts, [(5, 100), (6, 100), (7, 50)]);
        assert_eq!((next, staged.events()), (8, 250));
    }

    #[test]
    fn blocks_below_what_the_database_holds_get_new_numbers_in_their_order() {
        let (mut staged, mut next) = (Staged::default(), 1);
        staged.append(events(300), &mut next, |_| false).unwrap();
        next = 9;
        staged.renumber(9, &mut next, |number| number == 2);
        assert_eq!(staged.blocks.keys().copied().collect::<Vec<_>>(), [2, 9, 10]);
        assert_eq!((next, staged.events()), (11, 300));
    }

    #[test]
    fn past_the_bound_the_oldest_lose_their_details_and_no_token() {
        let (mut staged, mut next) = (Staged::default(), 0);
        staged.bytes_max = Some(10_000);
        let mut shed = 0;
        for _ in 0..10 {
            shed += staged.append(events(100), &mut next, |number| number == 0).unwrap();
        }
        assert!(shed > 0 && staged.bytes() <= 10_000);
        assert!(staged.blocks.contains_key(&0), "what is on its way stays");
        let total = staged.totals.pop().unwrap();
        assert_eq!((total.events, total.prompt_tokens), (shed, shed * 3));
        assert_eq!(staged.events() + shed, 1000);
    }
}
