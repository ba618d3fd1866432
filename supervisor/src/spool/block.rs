//! A block: up to a hundred events that are kept, sent and let go together.
//!
//! On disk it is `count u32 (little-endian), sealed bincode`, sealed for its table, number and count.

use std::ops::Range;
use std::time::SystemTime;

use shared::codec::{self, CodecError};
use shared::usage::UsageEvent;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::state::seal::{SealError, Sealer};

/// The most events of a block: as many as one request to the Cloud may hold.
pub const EVENTS_MAX: usize = 100;
/// Bytes before the sealed part.
const COUNT_BYTES: usize = 4;
/// The most that one block may take when decoded: no record of a ring is longer than 32 KiB.
const DECODED_MAX: usize = 64 * 1024 * 1024;

/// Events as they are encoded, on their way into blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    blocks: Vec<Block>,
}

impl Encoded {
    /// Adds an event that is encoded.
    pub fn push(&mut self, event: &[u8]) {
        let has_room = |block: &&mut Block| (block.events as usize) < EVENTS_MAX;
        if let Some(block) = self.blocks.last_mut().filter(has_room) {
            return block.push(event);
        }
        let bytes = self.blocks.last().map_or(event.len(), |block| block.plain.len());
        self.blocks.push(Block::new(event, bytes));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.events as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The events of some.
    pub fn of(events: &[UsageEvent]) -> Result<Self, CodecError> {
        let mut encoded = Self::default();
        for event in events {
            encoded.push(&codec::encode(event)?);
        }
        Ok(encoded)
    }

    /// They as blocks, which take no more memory than they have to.
    pub fn blocks(mut self) -> Vec<Block> {
        self.blocks.iter_mut().for_each(|block| block.plain.shrink_to_fit());
        self.blocks
    }
}

/// Events as they are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// How many events.
    pub events: u32,
    plain: Vec<u8>,
    /// Where its first event is; empty if that is not known.
    first: Range<usize>,
}

/// Why a block cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Shorter than any block.
    #[error("is cut short")]
    Short,
    /// Damaged or sealed elsewhere.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Sealed by us and no list of events.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Block {
    /// A block of one event, with memory for so many bytes in all.
    fn new(event: &[u8], bytes: usize) -> Self {
        let mut plain = Vec::with_capacity(bytes.max(event.len() + 1));
        // As a list of them is encoded: how many, and then they.
        plain.push(1);
        plain.extend_from_slice(event);
        Self { events: 1, first: 1..plain.len(), plain }
    }

    /// Adds an event. There may be no more of them than [`EVENTS_MAX`], so that their number is one byte.
    fn push(&mut self, event: &[u8]) {
        self.events += 1;
        if let (Some(count), Ok(events)) = (self.plain.first_mut(), u8::try_from(self.events)) {
            *count = events;
        }
        self.plain.extend_from_slice(event);
    }

    /// Its events.
    pub fn open(&self) -> Result<Vec<UsageEvent>, CodecError> {
        codec::decode::<_, DECODED_MAX>(&self.plain)
    }

    /// Its events, with the texts of this block.
    pub fn view(&self) -> Result<Vec<UsageEvent<&str>>, CodecError> {
        codec::borrow_decode::<_, DECODED_MAX>(&self.plain)
    }

    /// Its events, one behind the other, as they are encoded.
    pub fn encoded(&self) -> &[u8] {
        let count = codec::borrow_decode_first::<u64, DECODED_MAX>(&self.plain);
        count.map_or(&[], |(_, events)| events)
    }

    /// When its first event occurred.
    pub fn begins(&self) -> Option<SystemTime> {
        let event = |bytes| codec::borrow_decode::<UsageEvent<&str>, DECODED_MAX>(bytes);
        let moment = match self.plain.get(self.first.clone()).filter(|first| !first.is_empty()) {
            Some(first) => event(first).ok()?.occurred_at,
            None => self.view().ok()?.first()?.occurred_at,
        };
        OffsetDateTime::parse(moment, &Rfc3339).ok().map(SystemTime::from)
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.plain.len() as u64
    }

    /// As it is written to disk under `number`.
    pub fn seal(&self, number: u64, sealer: &Sealer) -> Result<Vec<u8>, SealError> {
        let count = self.events.to_le_bytes();
        sealer.seal_behind(&count, &place(number, self.events), &self.plain)
    }

    /// How many events there are in a block on disk.
    pub fn count(bytes: &[u8]) -> u32 {
        bytes.first_chunk::<COUNT_BYTES>().map_or(0, |count| u32::from_le_bytes(*count))
    }

    /// The block that was written under `number`.
    pub fn unseal(number: u64, bytes: &[u8], sealer: &Sealer) -> Result<Self, BlockError> {
        let (count, sealed) = bytes.split_first_chunk::<COUNT_BYTES>().ok_or(BlockError::Short)?;
        let events = u32::from_le_bytes(*count);
        let mut opened = sealer.open(&place(number, events), sealed)?;
        Ok(Self { events, plain: std::mem::take(&mut *opened), first: 0..0 })
    }
}

/// The event that the bytes begin with, and what is behind it.
pub fn first(bytes: &[u8]) -> Result<(UsageEvent<&str>, &[u8]), CodecError> {
    codec::borrow_decode_first::<_, DECODED_MAX>(bytes)
}

fn place(number: u64, events: u32) -> Vec<u8> {
    format!("blocks/{number}/{events}").into_bytes()
}

/// Disk that a value of so many bytes takes: the database rounds up what is larger than half a page to a power of two.
pub fn allocated(bytes: u64) -> u64 {
    const PAGE: u64 = 4096;
    let with_key = bytes.saturating_add(64);
    if with_key <= PAGE / 2 { with_key } else { with_key.next_power_of_two().max(PAGE) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::seal::DataKey;

    #[test]
    fn a_block_opens_under_its_own_number_and_count_alone() {
        let sealer = DataKey::generate().unwrap().sealer(&[0; 16], "spool", "e").unwrap();
        let event = |event_id: &str, at: &str| UsageEvent {
            event_id: event_id.to_owned(),
            occurred_at: at.to_owned(),
            ..UsageEvent::default()
        };
        let events = vec![event("a", "2023-11-14T22:13:20Z"), event("b", "b"), event("c", "c")];
        let block = Encoded::of(&events).unwrap().blocks().remove(0);
        let mut sealed = block.seal(7, &sealer).unwrap();
        assert_eq!(Block::count(&sealed), 3);
        let opened = Block::unseal(7, &sealed, &sealer).unwrap();
        assert_eq!(opened.open().unwrap(), events);
        let begins = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert_eq!([opened.begins(), block.begins()], [begins, begins]);
        assert!(Block::unseal(8, &sealed, &sealer).is_err());
        for length in 0..sealed.len() {
            assert!(Block::unseal(7, &sealed[..length], &sealer).is_err());
        }
        sealed[0] = 2;
        assert!(Block::unseal(7, &sealed, &sealer).is_err());
    }

    #[test]
    fn events_are_encoded_in_blocks_of_a_hundred_as_lists_of_them_are() {
        let event = |n: usize| UsageEvent { event_id: n.to_string(), ..UsageEvent::default() };
        let events: Vec<_> = (0..250).map(event).collect();
        let encoded = Encoded::of(&events).unwrap();
        assert_eq!(encoded.len(), events.len());
        let blocks = encoded.blocks();
        assert_eq!(blocks.len(), 3);
        for (block, events) in blocks.iter().zip(events.chunks(EVENTS_MAX)) {
            assert_eq!(block.plain, codec::encode(&events.to_vec()).unwrap());
            assert_eq!(block.plain.capacity(), block.plain.len());
            assert_eq!(block.encoded(), &block.plain[1..]);
        }
    }

    #[test]
    fn what_a_block_takes_on_disk_is_never_told_too_low() {
        assert_eq!([allocated(10), allocated(3000), allocated(45_000)], [74, 4096, 65_536]);
    }
}
