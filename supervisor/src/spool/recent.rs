//! Blocks that have just been written to disk, and are free to be sent: kept in memory too, so that they need not be read back and
//! opened when they are sent, as most are within a moment. Pure.
//!
//! Bound: [`BYTES_MAX`]; what is beyond is read from disk when it is sent.

use std::collections::BTreeMap;

use super::block::Block;
use super::store::End;

/// Memory that they take, at most.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Such blocks, by number.
#[derive(Debug, Default)]
pub struct Recent {
    blocks: BTreeMap<u64, Block>,
    events: u64,
    bytes: u64,
}

impl Recent {
    /// Keeps a block that is on disk, if there is room.
    pub fn add(&mut self, number: u64, block: Block) {
        let bytes = self.bytes.saturating_add(block.bytes());
        if bytes <= BYTES_MAX {
            self.bytes = bytes;
            self.events = self.events.saturating_add(block.events.into());
            self.blocks.insert(number, block);
        }
    }

    /// Events in them.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The one with the oldest events.
    pub fn oldest(&self) -> Option<(u64, &Block)> {
        self.blocks.first_key_value().map(|(number, block)| (*number, block))
    }

    /// Takes blocks from one end, as [`super::store::Store::blocks`] finds them.
    pub fn take(&mut self, end: End, events_max: usize) -> Vec<(u64, Block)> {
        let (mut taken, mut room) = (Vec::new(), events_max);
        while room > 0 {
            let next = match end {
                End::Oldest => self.blocks.first_key_value(),
                End::Newest => self.blocks.last_key_value(),
            };
            let Some((number, block)) = next else { break };
            let (number, count) = (*number, block.events as usize);
            if count > room && room < events_max {
                break;
            }
            room = room.saturating_sub(count);
            taken.extend(self.remove(number).map(|block| (number, block)));
        }
        taken
    }

    /// Takes the block of that number, if it is here.
    pub fn remove(&mut self, number: u64) -> Option<Block> {
        let block = self.blocks.remove(&number)?;
        self.events = self.events.saturating_sub(block.events.into());
        self.bytes = self.bytes.saturating_sub(block.bytes());
        Some(block)
    }

    /// Nobody knows any more what is on disk.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use shared::usage::UsageEvent;

    use super::*;
    use crate::spool::block::Encoded;

    fn block(events: usize, padding: usize) -> Block {
        let event = UsageEvent { error_message: "x".repeat(padding), ..UsageEvent::default() };
        let encoded = Encoded::of(&vec![event; events]).unwrap();
        encoded.blocks().remove(0)
    }

    #[test]
    fn blocks_come_from_either_end_as_many_as_there_is_room_for_and_at_least_one() {
        let mut recent = Recent::default();
        for (number, events) in [(1, 60), (2, 40), (3, 1), (4, 100), (5, 7)] {
            recent.add(number, block(events, 0));
        }
        assert_eq!(recent.events(), 208);
        let mut numbers = |end, max| {
            let taken = recent.take(end, max);
            taken.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(End::Oldest, 100), [1, 2]);
        assert_eq!(numbers(End::Newest, 100), [5]);
        assert_eq!(numbers(End::Newest, 50), [4]);
        assert_eq!(numbers(End::Oldest, 100), [3]);
        assert!(numbers(End::Oldest, 100).is_empty());
        assert_eq!((recent.events(), recent.bytes), (0, 0));
    }

    #[test]
    fn what_finds_no_room_is_not_kept() {
        let mut recent = Recent::default();
        for number in 0..10 {
            recent.add(number, block(20, 30_000));
        }
        assert!(recent.bytes <= BYTES_MAX);
        assert_eq!(recent.oldest().map(|(number, _)| number), Some(0));
        assert_eq!(recent.blocks.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        recent.remove(0);
        recent.add(10, block(20, 30_000));
        assert_eq!(recent.events(), 120);
    }
}
