//! The worker's end of a usage ring: appends records, and frees those that the supervisor has taken.
//!
//! Through a mapping of the file where every byte of it has its block on the disk and keeps it, so that no full disk can show
//! in the middle of a record. Elsewhere with `pwrite`. The bytes are the same. A disk that cannot read a block back ends a
//! worker that has it mapped, where a call would have failed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{Ordering, fence};

use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, fstatfs};

use super::{BODY_BYTES_MAX, EVENT, HEADER_BYTES, Record, place};
use crate::codec::{self, CodecError};
use crate::crc32::checksum;
use crate::sys::MappedFile;
use crate::usage::UsageEvent;

/// Memory for records that is kept between two of them, in bytes.
const KEPT_BYTES_MAX: usize = 4 * 1024;
/// File systems that write over what has a block without asking for another one, whoever else has a copy of the file. Others
/// (btrfs, ZFS, XFS after a copy that shares blocks) put what is written elsewhere, and a mapping would find no room when it
/// is too late to say so.
const IN_PLACE: [FsType; 2] = [TMPFS_MAGIC, EXT4_SUPER_MAGIC];
/// A block, as files count theirs.
const BLOCK_BYTES: u64 = 512;

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
    /// Kept where it is mapped too: its lock lasts as long as the worker.
    pub(super) file: File,
    mapping: Option<MappedFile>,
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
    /// The end of a new ring of `bytes` bytes, which are written with calls.
    pub fn new(file: File, bytes: u64) -> Self {
        Self {
            file,
            mapping: None,
            bytes,
            end: 0,
            start: 0,
            last: 0,
            ends: VecDeque::new(),
            buffer: Vec::new(),
        }
    }

    /// The same, written through a mapping where that is safe and can be had. To be called before a sandbox closes.
    pub fn mapped(file: File, bytes: u64) -> Self {
        let length = usize::try_from(bytes).ok().filter(|_| is_in_place(&file, bytes));
        let mapping = length.and_then(|length| MappedFile::new(&file, length).ok());
        Self { mapping, ..Self::new(file, bytes) }
    }

    /// Whether it is written through a mapping.
    pub fn is_mapped(&self) -> bool {
        self.mapping.is_some()
    }

    /// Pages that were written to do not count as this process's memory until they are again.
    pub fn rest(&mut self) {
        if let Some(mapping) = &mut self.mapping {
            mapping.rest();
        }
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
        self.put(bytes)?;
        self.end = end;
        self.last = sequence;
        self.ends.push_back(end);
        Ok(sequence)
    }

    /// Puts a record where the next one goes.
    fn put(&mut self, record: &[u8]) -> io::Result<()> {
        let Some(mapping) = &mut self.mapping else {
            return around(record, self.end, self.bytes, |bytes, offset| {
                self.file.write_all_at(bytes, offset)
            });
        };
        let mut write = |bytes: &[u8], position| {
            around(bytes, position, self.bytes, |bytes, offset| {
                mapping.write(bytes, usize::try_from(offset).unwrap_or(usize::MAX))
            })
        };
        let (header, body) = record.split_at(record.len().min(HEADER_BYTES as usize));
        write(body, self.end.saturating_add(HEADER_BYTES))?;
        // Until the rest is there a reader finds what was there before: nothing, or a sequence that is over.
        fence(Ordering::Release);
        write(header, self.end)
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

/// Writes what begins at a position, in two pieces where it goes beyond the end of the file.
fn around(
    bytes: &[u8],
    position: u64,
    ring: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let (offset, before_end) = place(position, ring);
    let (first, second) = bytes.split_at(before_end.min(bytes.len()));
    write(first, offset)?;
    if second.is_empty() { Ok(()) } else { write(second, 0) }
}

/// Whether it is known of a file of `bytes` bytes that each has its block, and is written over in place.
fn is_in_place(file: &File, bytes: u64) -> bool {
    let (Ok(metadata), Ok(system)) = (file.metadata(), fstatfs(file)) else { return false };
    metadata.len() >= bytes && keeps_blocks(system.filesystem_type(), metadata.blocks(), bytes)
}

pub(super) fn keeps_blocks(system: FsType, blocks: u64, bytes: u64) -> bool {
    IN_PLACE.contains(&system) && blocks.saturating_mul(BLOCK_BYTES) >= bytes
}
