//! The usage ring: one file per proxy worker, in which usage events outlive the worker that wrote them.
//!
//! The worker appends records through a mapping of the file, or with `pwrite` (`ring/writer.rs`); the supervisor reads them
//! with `pread`, keeps them elsewhere, and only then frees their place. Either way what is written is in the kernel's page
//! cache at once: no death of a process takes it back.
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
//! and body are as they must be. That holds at every moment, also where the worker is killed or writes on meanwhile: bytes may
//! appear in any order, and a record is none before all of them are there. The worker tells of a record only after that.

mod gap;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use bincode::{Decode, Encode};

use crate::usage::UsageEvent;
use crate::usage_total::UsageTotal;

pub use reader::{Place, ReadError, Reader, Seen};
pub use writer::{WriteError, Writer};

/// Size of a ring, in bytes: some 18,000 events.
pub const RING_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes before the body of a record.
const HEADER_BYTES: u64 = 16;
/// The longest body of a record, in bytes.
pub const BODY_BYTES_MAX: usize = 32 * 1024;
/// How the body of an event begins: the first variant of [`Record`].
const EVENT: u32 = 0;

/// What a worker has to tell.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Record {
    /// One event.
    Event(Box<UsageEvent>),
    /// The sums of events for which there was no room.
    Total(UsageTotal),
}

/// Where in the file a position is, and how many bytes there are from there to the file's end.
fn place(position: u64, bytes: u64) -> (u64, usize) {
    let offset = position.checked_rem(bytes).unwrap_or_default();
    (offset, usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX))
}
