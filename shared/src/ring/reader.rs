//! The supervisor's end of a usage ring: takes records in their order, and trusts none of their bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{BODY_BYTES_MAX, EVENT, HEADER_BYTES, Record, place};
use crate::codec::{self, CodecError};
use crate::crc32::checksum;
use crate::usage::encoded::{self, Cost};
use crate::usage_total::UsageTotal;

/// Bytes that its number takes.
const EVENT_BYTES: usize = 1;
/// Read at a time, in bytes: at first, and once there is more. Larger than any record.
const READ_BYTES: [usize; 2] = [4 * 1024, 64 * 1024];

/// Why there is no further record to be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing, a torn record, or one of the lap before.
    #[error("there is no record {0} where it should be")]
    Absent(u64),
    /// Whole, but no record.
    #[error("record {sequence} of the usage ring {source}")]
    Body {
        /// Its sequence.
        sequence: u64,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The file refused it.
    #[error("cannot read the usage ring: {0}")]
    Io(#[from] io::Error),
}

/// How far a ring has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Sequence of the record taken last; 0 before the first.
    pub sequence: u64,
    /// Where the next one begins, counted through all laps.
    pub position: u64,
}

/// A record as it was read.
#[derive(Debug)]
pub enum Seen<'a> {
    /// What one event has cost whom, and how it is encoded.
    Event(Cost<'a>, &'a [u8]),
    /// The sums of events for which there was no room.
    Total(UsageTotal),
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Reader {
    pub(super) file: Arc<File>,
    pub(super) bytes: u64,
    pub(super) place: Place,
    /// What was read at a time, and where that begins. The worker may have gone on writing since.
    ahead: Vec<u8>,
    ahead_at: u64,
}

/// What there is at a place.
enum At {
    /// A record with this body, within what was read ahead.
    Body(std::ops::Range<usize>),
    /// No record.
    Nothing,
    /// Not as much as would tell.
    Short,
}

impl Reader {
    /// A reader of a ring of `bytes` bytes that goes on at `place`.
    pub fn new(file: impl Into<Arc<File>>, bytes: u64, place: Place) -> Self {
        Self { file: file.into(), bytes, place, ahead: Vec::new(), ahead_at: 0 }
    }

    /// How far it has read.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes the next record. After an error it stands where it stood.
    pub fn next_record(&mut self) -> Result<Record, ReadError> {
        self.next_body(codec::decode::<_, { BODY_BYTES_MAX * 4 }>)
    }

    /// Lets `take` look at the next record, and takes it. After an error it stands where it stood.
    pub fn next_seen<T>(&mut self, take: impl FnOnce(Seen<'_>) -> T) -> Result<T, ReadError> {
        self.next_body(|body| {
            let encoded = body.get(EVENT_BYTES..).unwrap_or_default();
            if body.first().copied().map(u32::from) == Some(EVENT) {
                if let Some(cost) = encoded::cost(encoded) {
                    return Ok(take(Seen::Event(cost, encoded)));
                }
                let event: Box<_> = codec::borrow_decode::<_, { BODY_BYTES_MAX * 4 }>(encoded)?;
                return Ok(take(Seen::Event(Cost::of(&event), encoded)));
            }
            match codec::decode::<_, { BODY_BYTES_MAX * 4 }>(body)? {
                Record::Total(total) => Ok(take(Seen::Total(total))),
                // Its number in another form than we write.
                Record::Event(event) => {
                    let encoded = codec::encode(&event)?;
                    let cost_usd = event.cost_usd;
                    let cost = Cost { api_key_id: &event.api_key_id, cost_usd };
                    Ok(take(Seen::Event(cost, &encoded)))
                }
            }
        })
    }

    /// Forgets what was read ahead, and its memory.
    pub fn rest(&mut self) {
        self.ahead = Vec::new();
    }

    fn next_body<T>(
        &mut self,
        take: impl FnOnce(&[u8]) -> Result<T, CodecError>,
    ) -> Result<T, ReadError> {
        let sequence = self.place.sequence.saturating_add(1);
        let body = self.find(sequence)?.ok_or(ReadError::Absent(sequence))?;
        let length = body.len() as u64;
        let body = self.ahead.get(body).unwrap_or_default();
        let taken = take(body).map_err(|source| ReadError::Body { sequence, source })?;
        let position = self.place.position.saturating_add(HEADER_BYTES).saturating_add(length);
        self.place = Place { sequence, position };
        Ok(taken)
    }

    /// Where the body of the next record is within what is read ahead; `None` if there is no such record.
    fn find(&mut self, sequence: u64) -> io::Result<Option<std::ops::Range<usize>>> {
        // What was read a while ago may be older than what is there.
        if let At::Body(body) = self.look(sequence) {
            return Ok(Some(body));
        }
        let first = if self.ahead.is_empty() { 0 } else { 1 };
        for bytes in READ_BYTES.into_iter().skip(first) {
            let bytes = bytes.min(usize::try_from(self.bytes).unwrap_or(usize::MAX));
            let mut ahead = std::mem::take(&mut self.ahead);
            ahead.resize(bytes, 0);
            self.read(&mut ahead, self.place.position)?;
            (self.ahead, self.ahead_at) = (ahead, self.place.position);
            match self.look(sequence) {
                At::Body(body) => return Ok(Some(body)),
                At::Nothing => return Ok(None),
                At::Short => {}
            }
        }
        Ok(None)
    }

    fn look(&self, sequence: u64) -> At {
        let begin = self.place.position.checked_sub(self.ahead_at);
        let begin = begin.and_then(|begin| usize::try_from(begin).ok());
        let Some(record) = begin.and_then(|begin| self.ahead.get(begin..)) else {
            return At::Short;
        };
        let begin = self.ahead.len().saturating_sub(record.len());
        let Some(header) = record.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return At::Short;
        };
        let [length, sum] = [&header[..4], &header[4..8]].map(|bytes| {
            bytes.iter().rev().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte))
        });
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // The checksum of a record covers its sequence, so a record of the lap before is told by it.
        if length > BODY_BYTES_MAX || header[8..] != sequence.to_le_bytes() {
            return At::Nothing;
        }
        let end = length.saturating_add(HEADER_BYTES as usize);
        let Some(checked) = record.get(8..end) else { return At::Short };
        if checksum(&[checked]) != sum {
            return At::Nothing;
        }
        let begin = begin.saturating_add(HEADER_BYTES as usize);
        At::Body(begin..begin.saturating_add(length))
    }

    pub(super) fn read(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let (offset, before_end) = place(position, self.bytes);
        let (first, second) = buffer.split_at_mut(before_end.min(buffer.len()));
        self.file.read_exact_at(first, offset)?;
        if second.is_empty() { Ok(()) } else { self.file.read_exact_at(second, 0) }
    }
}
