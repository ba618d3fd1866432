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
/// How the body of an event begins: the first variant of [`Record`].
const EVENT: u32 = 0;
/// Bytes that its number takes.
const EVENT_BYTES: usize = 1;
/// Memory for records that is kept between two of them, in bytes.
const KEPT_BYTES_MAX: usize = 4 * 1024;
/// Read at a time, in bytes: at first, and once there is more. Larger than any record.
const READ_BYTES: [usize; 2] = [4 * 1024, 64 * 1024];

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
    /// Memory for the next record.
    buffer: Vec<u8>,
}

impl Writer {
    /// The end of a new ring of `bytes` bytes.
    pub fn new(file: File, bytes: u64) -> Self {
        Self { file, bytes, end: 0, start: 0, last: 0, ends: VecDeque::new(), buffer: Vec::new() }
    }

    /// Appends a record and says its sequence.
    pub fn push(&mut self, record: &Record) -> Result<u64, WriteError> {
        self.append(|body| codec::encode_onto(body, record))
    }

    /// Appends an event, as [`Record::Event`].
    pub fn push_event<S: AsRef<str>>(&mut self, event: &UsageEvent<S>) -> Result<u64, WriteError> {
        self.append(|body| {
            codec::encode_onto(body, &EVENT)?;
            codec::encode_onto(body, event)
        })
    }

    fn append(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<u64, WriteError> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        bytes.extend_from_slice(&[0; HEADER_BYTES as usize]);
        let encoded = encode(&mut bytes).map_err(|_| WriteError::TooLong);
        let written = encoded.and_then(|()| self.write(&mut bytes));
        if bytes.capacity() <= KEPT_BYTES_MAX {
            self.buffer = bytes;
        }
        written
    }

    /// Writes a record of which all is there but its header.
    fn write(&mut self, bytes: &mut [u8]) -> Result<u64, WriteError> {
        let body_bytes = bytes.len().saturating_sub(HEADER_BYTES as usize);
        let length = u32::try_from(body_bytes).map_err(|_| WriteError::TooLong)?;
        if body_bytes > BODY_BYTES_MAX {
            return Err(WriteError::TooLong);
        }
        let sequence = self.last.saturating_add(1);
        let end = self.end.saturating_add(bytes.len() as u64);
        if end.saturating_sub(self.start) > self.bytes {
            return Err(WriteError::Full);
        }
        let mut put = |place: std::ops::Range<usize>, number: &[u8]| {
            if let Some(place) = bytes.get_mut(place) {
                place.copy_from_slice(number);
            }
        };
        put(0..4, &length.to_le_bytes());
        put(8..16, &sequence.to_le_bytes());
        let sum = checksum(&[bytes.get(8..).unwrap_or_default()]);
        if let Some(place) = bytes.get_mut(4..8) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
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

/// A record as it was read.
#[derive(Debug)]
pub enum Seen<'a> {
    /// One event, and how it is encoded.
    Event(Box<UsageEvent<&'a str>>, &'a [u8]),
    /// The sums of events for which there was no room.
    Total(UsageTotal),
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Reader {
    file: Arc<File>,
    bytes: u64,
    place: Place,
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
                let event = codec::borrow_decode::<_, { BODY_BYTES_MAX * 4 }>(encoded)?;
                return Ok(take(Seen::Event(event, encoded)));
            }
            match codec::decode::<_, { BODY_BYTES_MAX * 4 }>(body)? {
                Record::Total(total) => Ok(take(Seen::Total(total))),
                // Its number in another form than we write.
                Record::Event(event) => {
                    let encoded = codec::encode(&event)?;
                    let event = codec::borrow_decode::<_, { BODY_BYTES_MAX * 4 }>(&encoded)?;
                    Ok(take(Seen::Event(event, &encoded)))
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
    fn an_event_is_seen_as_it_was_encoded_whatever_form_its_number_has() {
        let (mut writer, mut reader) = ring();
        let Record::Event(written) = event(7, 3) else { panic!() };
        writer.push(&Record::Event(written.clone())).unwrap();
        writer.push_event(&*written).unwrap();
        let body = codec::encode(&written).unwrap();
        let otherwise = |bytes: &mut Vec<u8>| {
            bytes.extend([&[251, 0, 0], &body[..]].concat());
            Ok(())
        };
        writer.append(otherwise).unwrap();
        for _ in 0..3 {
            let seen = reader.next_seen(|seen| match seen {
                Seen::Event(event, encoded) => (event.event_id.to_owned(), encoded.to_owned()),
                Seen::Total(_) => panic!(),
            });
            assert_eq!(seen.unwrap(), ("7".to_owned(), body.clone()));
        }
        let total = UsageTotal { events: 7, ..UsageTotal::default() };
        writer.push(&Record::Total(total.clone())).unwrap();
        reader.next_seen(|seen| assert!(matches!(seen, Seen::Total(it) if it == total))).unwrap();
    }

    #[test]
    fn what_was_written_since_the_reader_read_ahead_is_read() {
        let (mut writer, mut reader) = ring();
        for number in 0..100 {
            writer.push(&event(number, number)).unwrap();
            assert_eq!(reader.next_record().unwrap(), event(number, number));
            assert!(matches!(reader.next_record(), Err(ReadError::Absent(_))));
            writer.release(reader.place().sequence);
        }
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
                reader.rest();
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
