//! The worker's end of a usage ring: appends records, and frees those that the supervisor has taken.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bincode::Encode;

use super::{BODY_BYTES_MAX, EVENT, HEADER_BYTES, Record, place};
use crate::codec::{self, CodecError};
use crate::crc32::checksum;
use crate::usage::UsageEvent;

/// Memory for records that is kept between two of them, in bytes.
const KEPT_BYTES_MAX: usize = 4 * 1024;

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
    pub(super) file: File,
    bytes: u64,
    /// Where the next record goes, counted through all laps.
    pub(super) end: u64,
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
    pub fn push_event<S: Encode>(&mut self, event: &UsageEvent<S>) -> Result<u64, WriteError> {
        self.append(|body| {
            codec::encode_onto(body, &EVENT)?;
            codec::encode_onto(body, event)
        })
    }

    pub(super) fn append(
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
