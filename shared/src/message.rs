//! What the two sides say to each other.
//!
//! A worker speaks first: `Hello`, once. The supervisor checks the version, looks at the process from outside and answers
//! `Welcome` with the role's settings, then, if there is one, the whole configuration, then `Activate`: only now does the
//! worker accept connections, and says `Ready`. After that it is sent each change of configuration as it comes. It confirms
//! every revision it serves (`Applied`), says that there is usage in its ring, names the metric slots it takes into use, and answers pings.
//! `Retire` tells it that the node is going away (health routes answer 503, connections are told to close), `Drain` that it
//! should stop accepting, finish what is in flight and leave. What a worker says never carries a descriptor.
//!
//! | from → to | kind | body | descriptor | allowed in |
//! |---|---|---|---|---|
//! | worker → supervisor | 1 `Hello` | who, which versions, what confinement | | starting, once |
//! | | 2 `Ready` | | | starting, once |
//! | | 3 `Applied` | revision | | after welcome |
//! | | 4 `Refused` | revision, reason | | after welcome |
//! | | 5 `Usage` | sequence of the newest record in the usage ring | | serving, draining; once, then not before `UsageTaken` |
//! | | 6 `Series` | metric series and its slots | | after welcome |
//! | | 7 `Pong` | number, requests in flight | | after welcome |
//! | | 8 `Fetch` | which page | | status role |
//! | | 9 `KeysInUse` | caller keys, how often used | | serving, draining |
//! | | 10 `KeySet` | keys of an identity provider | | joining, serving, draining |
//! | | 11 `ExporterHealth` | how exporters are doing | | export role, after welcome |
//! | | 12 `KeyTaken` | number of a signing key | | signer role, after welcome |
//! | supervisor → worker | 1 `Welcome` | | settings, as sealed memory | |
//! | | 2 `Configuration` | revision, whole or change | sealed memory | |
//! | | 3 `Ping` | number | | |
//! | | 4 `Retire` | | | |
//! | | 5 `Drain` | | | |
//! | | 6 `Page` | HTTP status, content type | sealed memory | |
//! | | 7 `Activate` | | | |
//! | | 8 `UsageTaken` | sequence of the last record that is safe | | |
//! | | 9 `Budgets` | whole or change | verdicts, as sealed memory | |
//! | | 10 `Peer` | role of the helper | a socket to it | |
//! | | 11 `Client` | whom to serve | a socket to it | |
//! | | 12 `Destinations` | whole or change | the destination table, as sealed memory | |
//! | | 13 `Resolver` | | texts of the resolver's files, as sealed memory | |
//! | | 14 `SigningKey` | which key, and what for | the key, as sealed memory | |
//! | | 15 `Certificate` | | the listener's certificate and ticket keys, as sealed memory | |
//! | | 16 `Counters` | lane | what all proxy workers count together | memory that both sides map |
//! | | 18 `KeySet` | keys of an identity provider | | |
//! | | 19 `LogFilter` | filter directives of the log | | |
//! | | 20 `Exporters` | | to the export role: whom to send to, as sealed memory | |
//! | | 17 `Outlive` | | | to a helper: if the supervisor dies, serve on while there is a client |
//!
//! The supervisor's side holds the table of what may be said in which state (`broker.rs`); a message that may not be said,
//! that comes with a descriptor, or that is not well-formed, costs the worker its life and nothing else.
//!
//! **Versions.** See `version.rs` and `channel.rs`: a hello is written in the oldest version that its writer speaks and names the
//! range; the welcome is written in the newest that both speak, and so is everything after it. A worker with nothing in common,
//! or of another build where that matters, is refused with both named in the log. Kinds are numbered for ever: a new message
//! takes a new number. A frame of an unknown kind ends the channel, unless its header says that it may be skipped.
//!
//! **Sizes.** A frame is one datagram of at most 64 KiB and its header, read into one buffer of that size: what is longer is an
//! error. The header's length must be what follows. A body may claim at most 256 KiB once decoded ([`BODY_BYTES_MAX`] × 4),
//! counted by the decoder before it allocates, and nothing may follow it. Larger things (settings, configuration, verdicts,
//! pages) are sealed memory, written by the supervisor alone, of which one value claims at most 16 MiB.
//!
//! **Queues**, and what happens at the bound:
//!
//! | queue | bound | at the bound |
//! |---|---|---|
//! | socket, each direction | 1 MiB | the writer waits |
//! | worker: messages that wait for the socket | 10,000 | questions and keys in use are not taken; the rest is queued |
//! | worker: records of usage | ring of 8 MiB | events become totals |
//! | supervisor: messages of all workers that wait for its loop | 128 | their readers wait, first come, first served |
//! | supervisor: messages of one worker | 2,000 a second, 4,000 at once | it is heard more slowly |
//! | supervisor: keys, labels and messages said by one worker | 20,000 a second, 200,000 at once (`fleet/allowance.rs`) | the worker is ended |
//! | supervisor: messages for a worker | 4,096 | the worker does not read, and is ended |
//! | supervisor: frames to be skipped, in a row | 256 | the worker is ended |
//! | `Usage` that was not answered | 1 | the worker is ended |
//! | `Fetch` that was not answered, all workers | 256 | the worker is ended |
//! | `Series` of a worker | by family, label and total bytes (`metrics/source.rs`) | the worker is ended |
//! | `KeysInUse` | a body; unknown keys are nothing | the worker is ended |
//! | `KeySet` | a body; one is kept for each provider that there is | others are nothing |
//! | `ExporterHealth` | a body, said once a second; numbers that nobody has are nothing | reasons are cut to 256 characters |
//! | `Hello`: reasons why confinement is incomplete | 16 of 300 characters | the rest is cut |
//! | log of a worker | lines of 4 KiB (`log_line.rs`), 32 MiB a second | lines are cut, bytes dropped and counted |
//! | records of a ring, read at a time | the ring's size | the rest is read later |

use std::io;
use std::os::fd::OwnedFd;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::export::Health;
use crate::frame::BODY_BYTES_MAX;
use crate::id::{Revision, Role, WorkerId};
use crate::key_set::KeySet;
use crate::memory::{self, MemoryReader};
use crate::signing::SigningKey;
use crate::version::Protocols;
use crate::worker_settings::WorkerSettings;

/// A message of one direction: an enum whose variants are the kinds.
pub trait Message: Sized {
    /// The number of the variant.
    fn kind(&self) -> u16;
    /// The body of the frame.
    fn encode(&self) -> Result<Vec<u8>, CodecError>;
    /// Whether a reader that does not know the kind may go on without.
    fn may_skip(&self) -> bool {
        false
    }
    /// The message of that kind.
    fn decode(kind: u16, body: &[u8]) -> Result<Self, MessageError>;
}

/// Why a frame's body was not taken for a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A kind that this build does not know.
    #[error("unknown message kind {0}")]
    UnknownKind(u16),
    /// The body is not of its kind.
    #[error("message kind {kind} {source}")]
    Body {
        /// The kind the header names.
        kind: u16,
        /// What is wrong with the body.
        source: CodecError,
    },
}

/// What a worker says first.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Hello {
    /// The id it was started with.
    pub worker: WorkerId,
    /// The role it was started with.
    pub role: Role,
    /// Protocol versions it speaks.
    pub protocols: Protocols,
    /// Version text of its build; must be the supervisor's.
    pub version: String,
    /// What confines it.
    pub confinement: Confinement,
}

/// What confines a worker, as it found when it had locked itself in.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Confinement {
    /// A system call filter is in force.
    pub seccomp: bool,
    /// Landlock ABI in force; 0 where the kernel has none.
    pub landlock_abi: u16,
    /// Why something is missing, in words; empty if nothing is.
    pub missing: Vec<String>,
}

/// A metric series that a worker takes into use.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Series {
    /// Number of the metric family in this build's table.
    pub family: u16,
    /// Index of its first slot; how many follow is the family's matter.
    pub first_slot: u32,
    /// Label values, in the family's order.
    pub labels: Vec<String>,
}

/// What the status role asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Page {
    /// The metrics of the whole node, as text.
    Metrics,
    /// State of the configuration, as JSON.
    Config,
    /// Whether there is a configuration.
    Ready,
    /// State of the connection to the Cloud, as JSON.
    Managed,
    /// State of every model, as JSON.
    Models,
    /// What the status page shows, as JSON.
    Overview,
}

/// What a worker may say.
#[derive(Clone, Debug, PartialEq)]
pub enum ToSupervisor {
    /// First and once: who it is.
    Hello(Hello),
    /// It accepts connections.
    Ready,
    /// Every new request is served by this revision.
    Applied(Revision),
    /// The revision could not be applied; the one before stays.
    Refused(Revision, String),
    /// The usage ring has records up to this sequence. Not said again before it is answered.
    Usage(u64),
    /// A metric series is in use from now on.
    Series(Series),
    /// Answer to a ping, with the number of requests in flight.
    Pong(u64, u32),
    /// The status role asks for a page; the answer carries the same request id.
    Fetch(Page),
    /// Caller keys whose budget requests depend on, and how many requests of each came since it was last told.
    KeysInUse(Vec<(String, u32)>),
    /// The signer signs with the key of this number from now on.
    KeyTaken(u64),
    /// It has fetched the keys of an identity provider: for all workers.
    KeySet(KeySet),
    /// How the exporters are doing whose state has changed.
    ExporterHealth(Vec<Health>),
}

/// Whom a helper serves over a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Client {
    /// The supervisor itself.
    Supervisor,
    /// A proxy worker.
    Worker(WorkerId),
    /// A worker of the export role.
    Exporter(WorkerId),
}

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// The hello was accepted. The settings come along as sealed memory, see [`welcome`].
    Welcome,
    /// Configuration in the sealed memory that comes along: all of it, or the change since the revision before.
    Configuration {
        /// The revision in force once it is applied.
        revision: Revision,
        /// Whether it replaces everything.
        whole: bool,
    },
    /// Asks for a pong with the same number.
    Ping(u64),
    /// The node is going away: health routes say so, kept-alive connections are told to close.
    Retire,
    /// Stop accepting, finish what is in flight, leave.
    Drain,
    /// The page asked for: HTTP status and content type; the body comes along as sealed memory.
    Page(u16, String),
    /// Accept connections.
    Activate,
    /// Every record of the usage ring up to this sequence is safe: its place is free.
    UsageTaken(u64),
    /// Budget verdicts in the sealed memory that comes along: all of them, or those that are new.
    Budgets {
        /// Whether they replace everything.
        whole: bool,
    },
    /// A helper of that role is reached over the socket that comes along, in place of any before.
    Peer(Role),
    /// To a helper: serve whoever is at the other end of the socket that comes along.
    Client(Client),
    /// To egress: destinations in the sealed memory that comes along: all of them, or those that changed.
    Destinations {
        /// Whether they replace everything.
        whole: bool,
    },
    /// To egress: names are resolved with the files in the sealed memory that comes along.
    Resolver,
    /// To a helper: if the supervisor is gone, go on for as long as there is a client.
    Outlive,
    /// To the signer: sign with the key in the sealed memory that comes along, and for a while with the one before.
    SigningKey(SigningKey),
    /// To a proxy worker: show new callers the certificate in the sealed memory that comes along.
    Certificate,
    /// To a proxy worker, once and straight after the welcome: count in the memory that comes along, see [`crate::counters`].
    Counters {
        /// Which ledger is its own.
        lane: u16,
    },
    /// To a proxy worker: an identity provider signs with these keys.
    KeySet(KeySet),
    /// What is logged from now on. A worker of an older build skips it.
    LogFilter(String),
    /// To the export role: send to those in the sealed memory that comes along, and to nobody else of the projection.
    Exporters,
}

/// Settings in sealed memory, as they go with a welcome: a file of trusted issuers may be larger than a frame.
pub fn welcome(settings: &WorkerSettings) -> io::Result<OwnedFd> {
    let bytes = codec::encode(settings).map_err(io::Error::other)?;
    memory::sealed("aisix-settings", |writer| writer.write_all(&bytes))
}

/// The settings that went with a welcome.
pub fn welcomed(memory: OwnedFd) -> Result<WorkerSettings, CodecError> {
    codec::decode_next(&mut MemoryReader::new(memory))
}

fn body<T: Decode<()>>(kind: u16, bytes: &[u8]) -> Result<T, MessageError> {
    codec::decode::<T, { BODY_BYTES_MAX * 4 }>(bytes)
        .map_err(|source| MessageError::Body { kind, source })
}

impl Message for ToSupervisor {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => 1,
            Self::Ready => 2,
            Self::Applied(_) => 3,
            Self::Refused(..) => 4,
            Self::Usage(_) => 5,
            Self::Series(_) => 6,
            Self::Pong(..) => 7,
            Self::Fetch(_) => 8,
            Self::KeysInUse(_) => 9,
            Self::KeySet(_) => 10,
            Self::ExporterHealth(_) => 11,
            Self::KeyTaken(_) => 12,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Hello(hello) => codec::encode(hello),
            Self::Applied(revision) => codec::encode(revision),
            Self::Refused(revision, reason) => codec::encode(&(revision, reason)),
            Self::Usage(sequence) => codec::encode(sequence),
            Self::Series(series) => codec::encode(series),
            Self::Pong(number, in_flight) => codec::encode(&(number, in_flight)),
            Self::Fetch(page) => codec::encode(page),
            Self::KeysInUse(keys) => codec::encode(keys),
            Self::KeyTaken(number) => codec::encode(number),
            Self::ExporterHealth(health) => codec::encode(health),
            Self::KeySet(set) => codec::encode(set),
            Self::Ready => codec::encode(&()),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            1 => Self::Hello(body(kind, bytes)?),
            2 => body(kind, bytes).map(|()| Self::Ready)?,
            3 => Self::Applied(body(kind, bytes)?),
            4 => body(kind, bytes).map(|(revision, reason)| Self::Refused(revision, reason))?,
            5 => Self::Usage(body(kind, bytes)?),
            6 => Self::Series(body(kind, bytes)?),
            7 => body(kind, bytes).map(|(number, in_flight)| Self::Pong(number, in_flight))?,
            8 => Self::Fetch(body(kind, bytes)?),
            9 => Self::KeysInUse(body(kind, bytes)?),
            10 => Self::KeySet(body(kind, bytes)?),
            11 => Self::ExporterHealth(body(kind, bytes)?),
            12 => Self::KeyTaken(body(kind, bytes)?),
            _ => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

impl Message for ToWorker {
    fn kind(&self) -> u16 {
        match self {
            Self::Welcome => 1,
            Self::Configuration { .. } => 2,
            Self::Ping(_) => 3,
            Self::Retire => 4,
            Self::Drain => 5,
            Self::Page(..) => 6,
            Self::Activate => 7,
            Self::UsageTaken(_) => 8,
            Self::Budgets { .. } => 9,
            Self::Peer(_) => 10,
            Self::Client(_) => 11,
            Self::Destinations { .. } => 12,
            Self::Resolver => 13,
            Self::Outlive => 17,
            Self::SigningKey(_) => 14,
            Self::Certificate => 15,
            Self::Counters { .. } => 16,
            Self::KeySet(_) => 18,
            Self::LogFilter(_) => 19,
            Self::Exporters => 20,
        }
    }

    fn may_skip(&self) -> bool {
        matches!(self, Self::LogFilter(_))
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Configuration { revision, whole } => codec::encode(&(revision, whole)),
            Self::Ping(number) => codec::encode(number),
            Self::Page(status, content_type) => codec::encode(&(status, content_type)),
            Self::UsageTaken(sequence) => codec::encode(sequence),
            Self::Budgets { whole } => codec::encode(whole),
            Self::Peer(role) => codec::encode(role),
            Self::Client(client) => codec::encode(client),
            Self::Destinations { whole } => codec::encode(whole),
            Self::SigningKey(key) => codec::encode(key),
            Self::Counters { lane } => codec::encode(lane),
            Self::KeySet(set) => codec::encode(set),
            Self::LogFilter(directives) => codec::encode(directives),
            Self::Welcome
            | Self::Retire
            | Self::Drain
            | Self::Activate
            | Self::Resolver
            | Self::Certificate
            | Self::Exporters
            | Self::Outlive => codec::encode(&()),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            1 => body(kind, bytes).map(|()| Self::Welcome)?,
            2 => body(kind, bytes)
                .map(|(revision, whole)| Self::Configuration { revision, whole })?,
            3 => Self::Ping(body(kind, bytes)?),
            4 => body(kind, bytes).map(|()| Self::Retire)?,
            5 => body(kind, bytes).map(|()| Self::Drain)?,
            6 => body(kind, bytes).map(|(status, content)| Self::Page(status, content))?,
            7 => body(kind, bytes).map(|()| Self::Activate)?,
            8 => Self::UsageTaken(body(kind, bytes)?),
            9 => body(kind, bytes).map(|whole| Self::Budgets { whole })?,
            10 => Self::Peer(body(kind, bytes)?),
            11 => Self::Client(body(kind, bytes)?),
            12 => body(kind, bytes).map(|whole| Self::Destinations { whole })?,
            13 => body(kind, bytes).map(|()| Self::Resolver)?,
            17 => body(kind, bytes).map(|()| Self::Outlive)?,
            14 => Self::SigningKey(body(kind, bytes)?),
            15 => body(kind, bytes).map(|()| Self::Certificate)?,
            16 => body(kind, bytes).map(|lane| Self::Counters { lane })?,
            18 => Self::KeySet(body(kind, bytes)?),
            19 => Self::LogFilter(body(kind, bytes)?),
            20 => body(kind, bytes).map(|()| Self::Exporters)?,
            _ => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
mod tests;
