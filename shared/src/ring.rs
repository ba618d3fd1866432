//! The usage ring: one file per proxy worker, in which usage events outlive the worker that wrote them.
//!
//! The worker appends records with `pwrite`; the supervisor reads them with `pread`, keeps them elsewhere, and only then
//! frees their place. What is written is in the kernel's page cache: no death of a process takes it back.
//!
//! ```text
//! record   length of the body   u32
//!          checksum             u32   CRC-32 of the sequence and the body
//!          sequence             u64   1, 2, 3, …
//!          body                       one `Record`, bincode
//! ```
//! Little-endian. Records follow each other without a gap and wrap around the end of the file, in the middle of a record
//! too. Where the next record would begin there is something else: zeros, a torn record, or one of the lap before, with a
//! lower sequence. So the end needs no mark, and the reader no trust: it takes a record only if length, checksum, sequence
//! and body are as they must be.

mod gap;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::crc32::checksum;
use crate::usage::UsageEvent;
use crate::usage_total::UsageTotal;

/// Size of a ring, in bytes: some 18,000 events.
pub const RING_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes before the body of a record.
const HEADER_BYTES: u64 = 16;
/// The longest body of a record, in bytes.
pub const BODY_BYTES_MAX: usize = 32 * 1024;

/// What a worker has to tell.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Record {
    /// One event.
    Event(Box<UsageEvent>),
    /// The sums of events for which there was no room.
    Total(UsageTotal),
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The supervisor has to free records first.
    #[error("the usage ring is full")]
    Full,
    /// Longer than any record may be, or cannot be encoded.
    #[error("the record is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    /// The file refused it.
    #[error("cannot write to the usage ring: {0}")]
    Io(#[from] io::Error),
}

/// The worker's end.
#[derive(Debug)]
pub struct Writer {
    file: File,
    bytes: u64,
    /// Where the next record goes, counted through all laps.
    end: u64,
    /// Where the oldest record that is not free begins.
    start: u64,
    /// Sequence of the record written last.
    last: u64,
    /// Ends of the records that are not free, oldest first.
    ends: VecDeque<u64>,
}

impl Writer {
    /// The end of a new ring of `bytes` bytes.
    pub fn new(file: File, bytes: u64) -> Self {
        Self { file, bytes, end: 0, start: 0, last: 0, ends: VecDeque::new() }
    }

    /// Appends a record and says its sequence.
    pub fn push(&mut self, record: &Record) -> Result<u64, WriteError> {
        let body = codec::encode(record).map_err(|_| WriteError::TooLong)?;
        let length = u32::try_from(body.len()).map_err(|_| WriteError::TooLong)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        let sequence = self.last.saturating_add(1);
        let end = self.end.saturating_add(HEADER_BYTES).saturating_add(length.into());
        if end.saturating_sub(self.start) > self.bytes {
            return Err(WriteError::Full);
        }
        let sum = checksum(&[&sequence.to_le_bytes(), &body]);
        let mut bytes = Vec::with_capacity(body.len().saturating_add(HEADER_BYTES as usize));
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&body);
        let (offset, before_end) = place(self.end, self.bytes);
        let (first, second) = bytes.split_at(before_end.min(bytes.len()));
        self.file.write_all_at(first, offset)?;
        if !second.is_empty() {
            self.file.write_all_at(second, 0)?;
        }
        self.end = end;
        self.last = sequence;
        self.ends.push_back(end);
        Ok(sequence)
    }

    /// Frees every record up to `sequence`. False if there is no such record.
    pub fn release(&mut self, sequence: u64) -> bool {
        if sequence > self.last {
            return false;
        }
        let kept = usize::try_from(self.last.saturating_sub(sequence)).unwrap_or(usize::MAX);
        while self.ends.len() > kept {
            self.start = self.ends.pop_front().unwrap_or(self.start);
        }
        true
    }

    /// Sequence of the record written last; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }
}

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

/// The supervisor's end.
#[derive(Debug)]
pub struct Reader {
    file: Arc<File>,
    bytes: u64,
    place: Place,
}

impl Reader {
    /// A reader of a ring of `bytes` bytes that goes on at `place`.
    pub fn new(file: impl Into<Arc<File>>, bytes: u64, place: Place) -> Self {
        Self { file: file.into(), bytes, place }
    }

    /// How far it has read.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes the next record. After an error it stands where it stood.
    pub fn next_record(&mut self) -> Result<Record, ReadError> {
        let sequence = self.place.sequence.saturating_add(1);
        let absent = ReadError::Absent(sequence);
        let mut header = [0; HEADER_BYTES as usize];
        self.read(&mut header, self.place.position)?;
        let [length, sum] = [&header[..4], &header[4..8]].map(|bytes| {
            bytes.iter().rev().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte))
        });
        let length_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        // The checksum of a record covers its sequence, so a record of the lap before is told by it.
        if length_bytes > BODY_BYTES_MAX || header[8..] != sequence.to_le_bytes() {
            return Err(absent);
        }
        let mut body = vec![0; length_bytes];
        let begin = self.place.position.saturating_add(HEADER_BYTES);
        self.read(&mut body, begin)?;
        if checksum(&[&sequence.to_le_bytes(), &body]) != sum {
            return Err(absent);
        }
        let record = codec::decode::<_, { BODY_BYTES_MAX * 4 }>(&body)
            .map_err(|source| ReadError::Body { sequence, source })?;
        self.place = Place { sequence, position: begin.saturating_add(length.into()) };
        Ok(record)
    }

    fn read(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let (offset, before_end) = place(position, self.bytes);
        let (first, second) = buffer.split_at_mut(before_end.min(buffer.len()));
        self.file.read_exact_at(first, offset)?;
        if second.is_empty() { Ok(()) } else { self.file.read_exact_at(second, 0) }
    }
}

/// Where in the file a position is, and how many bytes there are from there to the file's end.
fn place(position: u64, bytes: u64) -> (u64, usize) {
    let offset = position.checked_rem(bytes).unwrap_or_default();
    (offset, usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::fixed_size;

    const SMALL: u64 = 4096;

    fn ring() -> (Writer, Reader) {
        let file = File::from(fixed_size("ring", SMALL).unwrap());
        let other = file.try_clone().unwrap();
        (Writer::new(file, SMALL), Reader::new(other, SMALL, Place::default()))
    }

    fn event(id: usize, padding: usize) -> Record {
        Record::Event(Box::new(UsageEvent {
            event_id: id.to_string(),
            error_message: "x".repeat(padding),
            ..UsageEvent::default()
        }))
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let (mut writer, _) = ring();
        let total = UsageTotal { hour: "h".to_owned(), events: 7, ..UsageTotal::default() };
        assert_eq!(writer.push(&Record::Total(total)).unwrap(), 1);
        let mut bytes = [0; 32];
        writer.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..4], 13_u32.to_le_bytes());
        assert_eq!(bytes[8..16], 1_u64.to_le_bytes());
        assert_eq!(bytes[16..29], [1, 0, 0, 1, b'h', 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[4..8], checksum(&[&bytes[8..29]]).to_le_bytes());
    }

    #[test]
    fn a_full_ring_takes_nothing_until_records_are_freed() {
        let (mut writer, mut reader) = ring();
        let mut written = 0;
        while writer.push(&event(written, 100)).is_ok() {
            written += 1;
        }
        assert!(matches!(writer.push(&event(0, 100)), Err(WriteError::Full)));
        assert!(!writer.release(writer.last() + 1));
        assert_eq!(reader.next_record().unwrap(), event(0, 100));
        assert!(writer.release(1));
        writer.push(&event(written, 100)).unwrap();
        for expected in 1..=written {
            assert_eq!(reader.next_record().unwrap(), event(expected, 100));
        }
        assert!(matches!(reader.next_record(), Err(ReadError::Absent(_))));
    }

    #[test]
    fn a_record_that_is_too_long_is_refused() {
        let (mut writer, _) = ring();
        let long = event(1, BODY_BYTES_MAX);
        assert!(matches!(writer.push(&long), Err(WriteError::TooLong)));
    }

    #[test]
    fn every_truncation_and_every_damage_of_a_record_ends_the_reading_before_it() {
        let (mut writer, mut reader) = ring();
        writer.push(&event(1, 3)).unwrap();
        let first = writer.end;
        writer.push(&event(2, 3)).unwrap();
        let mut whole = vec![0; writer.end as usize];
        writer.file.read_exact_at(&mut whole, 0).unwrap();
        for at in first as usize..whole.len() {
            for damaged in [
                [&whole[..at], &vec![0; whole.len() - at][..]].concat(),
                [&whole[..at], &[whole[at] ^ 0x10], &whole[at + 1..]].concat(),
            ] {
                writer.file.write_all_at(&damaged, 0).unwrap();
                reader.place = Place::default();
                assert_eq!(reader.next_record().unwrap(), event(1, 3));
                let second = reader.next_record();
                assert!(second.is_err() || damaged == whole, "damage at byte {at}: {second:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_order_over_many_laps(
            steps in proptest::collection::vec((0..900usize, 0..6usize), 1..200)
        ) {
            let (mut writer, mut reader) = ring();
            let (mut written, mut read) = (0, 0);
            for (padding, reads) in steps {
                if writer.push(&event(written, padding)).is_ok() {
                    written += 1;
                }
                for _ in 0..reads.min(written - read) {
                    let Record::Event(event) = reader.next_record().unwrap() else { panic!() };
                    prop_assert_eq!(event.event_id, read.to_string());
                    read += 1;
                }
                prop_assert!(writer.release(reader.place().sequence));
            }
        }

        #[test]
        fn no_content_can_panic_the_reader_or_make_it_go_on_for_ever(
            bytes in proptest::collection::vec(any::<u8>(), SMALL as usize),
            sequence: u64,
            position: u64,
        ) {
            let (writer, mut reader) = ring();
            writer.file.write_all_at(&bytes, 0).unwrap();
            reader.place = Place { sequence, position };
            let mut taken = 0;
            while reader.next_record().is_ok() {
                taken += 1;
                prop_assert!(taken <= SMALL);
            }
        }
    }
}
