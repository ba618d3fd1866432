//! What is said to the export role, and by it.
//!
//! A proxy worker tells of each request that is over, once, and is never answered. It never waits: what the socket has no
//! room for is lost, and counted by the worker.
//!
//! | from → to | kind | body |
//! |---|---|---|
//! | worker → export | 1 `Trace` | a request with its attempts |
//!
//! The supervisor tells the role whom to send to ([`Exporting`], in sealed memory), and hears how that goes ([`Health`]).
//! Kinds are numbered for ever.

mod trace;

use std::io::{self, BufReader};
use std::os::fd::OwnedFd;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::frame::BODY_BYTES_MAX;
use crate::memory::{self, MemoryReader};
use crate::message::{Message, MessageError};
use crate::resource::Exporter;

pub use self::trace::{ATTEMPTS_MAX, Attempt, Parent, TEXT_CHARS_MAX, Trace, is_sampled};

/// So many exporters of the projection are served.
pub const EXPORTERS_MAX: usize = 32;
/// Longest reason that an exporter's failure is told with, in characters. As published.
pub const REASON_CHARS_MAX: usize = 256;
/// What the exporter of the configuration file is called; it has the number 0.
pub const CONFIGURED: &str = "observability.tracing.otlp";

/// An exporter as the role is told of it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Numbered {
    /// Another one whenever anything about it changes.
    pub number: u32,
    /// Where to, and what.
    pub exporter: Exporter,
}

/// Whom the role sends to, beside the exporter of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Exporting {
    /// Who we are: as in the heartbeat.
    pub instance_id: String,
    /// The environment; empty if there is none.
    pub env_id: String,
    /// At most [`EXPORTERS_MAX`].
    pub exporters: Vec<Numbered>,
}

impl Exporting {
    /// In sealed memory.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let bytes = codec::encode(self).map_err(io::Error::other)?;
        memory::sealed("aisix-exporters", |writer| writer.write_all(&bytes))
    }

    /// What `memory` holds.
    pub fn read(memory: OwnedFd) -> Result<Self, CodecError> {
        codec::decode_next(&mut BufReader::new(MemoryReader::new(memory)))
    }
}

/// How an exporter is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Health {
    /// Which one.
    pub number: u32,
    /// Batches that were accepted.
    pub delivered: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Tries that failed since the last that did not.
    pub failed_in_a_row: u32,
    /// Why the last one failed, in words.
    pub last_error: Option<String>,
    /// When that was, in seconds since 1970.
    pub last_failure_unix: Option<i64>,
    /// When a batch was accepted last, in seconds since 1970.
    pub last_success_unix: Option<i64>,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToExport {
    /// A request is over.
    Trace(Box<Trace>),
}

/// What the role answers: nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum FromExport {}

impl Message for ToExport {
    fn kind(&self) -> u16 {
        match self {
            Self::Trace(_) => 1,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Trace(trace) => codec::encode(trace),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        match kind {
            1 => codec::decode::<Trace, { BODY_BYTES_MAX * 4 }>(bytes)
                .map(|trace| Self::Trace(Box::new(trace)))
                .map_err(|source| MessageError::Body { kind, source }),
            _ => Err(MessageError::UnknownKind(kind)),
        }
    }
}

impl Message for FromExport {
    fn kind(&self) -> u16 {
        match *self {}
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match *self {}
    }

    fn decode(kind: u16, _: &[u8]) -> Result<Self, MessageError> {
        Err(MessageError::UnknownKind(kind))
    }
}

#[cfg(test)]
mod tests;
