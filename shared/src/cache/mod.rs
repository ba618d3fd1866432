//! What a proxy worker and the cache of the node say to each other.
//!
//! A worker asks for what is kept under a key, or gives something to be kept, and numbers what it says in the frame's header;
//! the answer carries the number of its question, and so does every part of one value. A value of more than one frame comes in
//! parts, in order; those of several values may alternate. Neither side acts on a value before all of it is there. What is
//! kept is opaque here, and to the cache: keys and values are the workers' business.
//!
//! | from → to | kind | body |
//! |---|---|---|
//! | worker → cache | 1 `Find` | key |
//! | | 2 `Keep` | key, for how many seconds, length of the value, its first part |
//! | | 3 `Part` | which one, and its bytes |
//! | cache → worker | 1 `Found` | length of the value, its first part |
//! | | 2 `Missing` | |
//! | | 3 `Part` | which one, and its bytes |
//!
//! A worker gives one value at a time: a `Keep` before the last part of the one before ends its channel. A cache that is
//! stopped or gone is never waited for long: see the worker's side. Kinds are numbered for ever.

mod value;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::frame::BODY_BYTES_MAX;
use crate::message::{Message, MessageError};

pub use self::value::{Part, Value, ValueError, split};

/// Under what a value is kept: a hash of everything that it depends on.
pub type Key = [u8; 32];

/// No longer value is kept.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// No part is longer: with what stands around it, it is a frame.
pub const PART_BYTES_MAX: usize = 60 * 1024;

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToCache {
    /// Asks for what is kept under a key.
    Find(Key),
    /// Gives a value; what is longer than its first part follows.
    Keep {
        /// Under what.
        key: Key,
        /// For how many seconds.
        seconds: u32,
        /// Bytes of the whole.
        length: u32,
        /// The first of them.
        first: Vec<u8>,
    },
    /// More of the value of the same number.
    Part(Part),
}

/// What the cache answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromCache {
    /// A value; what is longer than its first part follows.
    Found {
        /// Bytes of the whole.
        length: u32,
        /// The first of them.
        first: Vec<u8>,
    },
    /// Nothing is kept under that key.
    Missing,
    /// More of the value of the same number.
    Part(Part),
}

fn body<T: Decode<()>>(kind: u16, bytes: &[u8]) -> Result<T, MessageError> {
    codec::decode::<T, { BODY_BYTES_MAX * 4 }>(bytes)
        .map_err(|source| MessageError::Body { kind, source })
}

#[derive(Decode, Encode)]
struct Kept {
    key: Key,
    seconds: u32,
    length: u32,
    first: Vec<u8>,
}

impl Message for ToCache {
    fn kind(&self) -> u16 {
        match self {
            Self::Find(_) => 1,
            Self::Keep { .. } => 2,
            Self::Part(_) => 3,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Find(key) => codec::encode(key),
            Self::Keep { key, seconds, length, first } => {
                codec::encode(&(key, seconds, length, first))
            }
            Self::Part(part) => codec::encode(part),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            1 => Self::Find(body(kind, bytes)?),
            2 => {
                let Kept { key, seconds, length, first } = body(kind, bytes)?;
                Self::Keep { key, seconds, length, first }
            }
            3 => Self::Part(body(kind, bytes)?),
            _ => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

impl Message for FromCache {
    fn kind(&self) -> u16 {
        match self {
            Self::Found { .. } => 1,
            Self::Missing => 2,
            Self::Part(_) => 3,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Found { length, first } => codec::encode(&(length, first)),
            Self::Missing => codec::encode(&()),
            Self::Part(part) => codec::encode(part),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            1 => body(kind, bytes).map(|(length, first)| Self::Found { length, first })?,
            2 => body(kind, bytes).map(|()| Self::Missing)?,
            3 => Self::Part(body(kind, bytes)?),
            _ => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
mod tests;
