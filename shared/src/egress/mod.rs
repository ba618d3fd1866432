//! What the egress role and its clients say to each other.
//!
//! A client (a proxy worker, or the supervisor) asks for a connection by the key of an entry of the destination table, never
//! by an address; the answer carries a connected socket, or says why there is none, and always names the host and port that
//! the table held, so that a client whose configuration is of another moment notices. Questions are numbered by the client,
//! in the frame's header; many may be open, and answers come in any order. A client that no longer wants an answer says so.
//!
//! | from → to | kind | body | descriptor |
//! |---|---|---|---|
//! | client → egress | 1 `Connect` | key of the entry | |
//! | | 2 `Forget` | | |
//! | | 3 `Resolve` | key of the entry: only its name is looked up | |
//! | egress → client | 1 `Connected` | host, port | the socket |
//! | | 2 `Refused` | why, and host and port if there is an entry | |
//! | | 3 `Resolved` | host, port, addresses in the order to try them | |
//! | | 4 `Unresolved` | host, port, what kind of failure, and the resolver's words | |
//!
//! Kinds are numbered for ever. At most [`CONNECTS_MAX`] questions of a client are open: the client keeps more to itself
//! until an answer comes, and egress refuses them as [`Refusal::Busy`].

pub mod client;
mod table;

use std::fmt;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::frame::BODY_BYTES_MAX;
use crate::message::{Message, MessageError};

pub use self::table::{Change, Entry, Origin, Resolver, read_table, table};

/// Questions of one client that are open at a time.
pub const CONNECTS_MAX: usize = 512;

/// What a destination is for; decides who may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Purpose {
    /// An upstream of a proxy worker; named by its provider key's id.
    Provider,
    /// The Cloud's manager.
    Manager,
    /// An etcd; named by its host and port.
    Store,
    /// The forward proxy through which the Cloud is reached.
    CloudProxy,
    /// Where a provider hands out tokens; named by the provider key's id.
    Token,
    /// Where a passthrough route leads; named by the route's id.
    Route,
    /// Where an identity provider publishes its keys; named by the provider's id.
    Keys,
    /// A Redis; named by its host and port.
    Redis,
    /// Where an exporter sends traces; named by its id, which is empty for the one of the configuration file.
    Export,
}

impl Purpose {
    /// The word for it in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Manager => "manager",
            Self::Store => "store",
            Self::CloudProxy => "proxy",
            Self::Token => "token endpoint",
            Self::Route => "passthrough route",
            Self::Keys => "identity provider",
            Self::Redis => "redis",
            Self::Export => "exporter",
        }
    }
}

/// Names an entry of the destination table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Key {
    /// What it is for.
    pub purpose: Purpose,
    /// Which one, where there are several.
    pub id: String,
}

impl Key {
    /// The upstream of a provider key.
    pub fn provider(id: &str) -> Self {
        Self { purpose: Purpose::Provider, id: id.to_owned() }
    }

    /// Where the provider of a provider key hands out tokens.
    pub fn token(provider_key_id: &str) -> Self {
        Self { purpose: Purpose::Token, id: provider_key_id.to_owned() }
    }

    /// Where a passthrough route leads.
    pub fn route(id: &str) -> Self {
        Self { purpose: Purpose::Route, id: id.to_owned() }
    }

    /// A host to which a passthrough route leads, where that is the one that its caller has named. A leading `*.` in an
    /// entry of the table stands for one label.
    pub fn route_host(id: &str, host: &str) -> Self {
        Self { purpose: Purpose::Route, id: format!("{id} {host}") }
    }

    /// The key of the entry that names this host with `*.` in place of its first label; `None` if there can be none.
    pub fn wildcard(&self) -> Option<(Self, &str)> {
        let (id, host) = self.id.rsplit_once(' ')?;
        let (label, rest) = host.split_once('.')?;
        let is_label = !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_host = self.purpose == Purpose::Route && is_label;
        is_host.then(|| (Self::route_host(id, &format!("*.{rest}")), host))
    }

    /// Where an identity provider publishes its keys.
    pub fn keys(id: &str) -> Self {
        Self { purpose: Purpose::Keys, id: id.to_owned() }
    }

    /// The Redis at that authority.
    pub fn redis(authority: &str) -> Self {
        Self { purpose: Purpose::Redis, id: authority.to_owned() }
    }

    /// Where an exporter sends traces.
    pub fn export(id: &str) -> Self {
        Self { purpose: Purpose::Export, id: id.to_owned() }
    }

    /// The Cloud's manager.
    pub fn manager() -> Self {
        Self { purpose: Purpose::Manager, id: String::new() }
    }

    /// The etcd at that authority.
    pub fn store(authority: &str) -> Self {
        Self { purpose: Purpose::Store, id: authority.to_owned() }
    }

    /// The forward proxy on the way to the Cloud.
    pub fn cloud_proxy() -> Self {
        Self { purpose: Purpose::CloudProxy, id: String::new() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id.as_str() {
            "" => formatter.write_str(self.purpose.name()),
            id => write!(formatter, "{} {id}", self.purpose.name()),
        }
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToEgress {
    /// Asks for a connection.
    Connect(Key),
    /// The answer to the question of the same number is not wanted any more.
    Forget,
    /// Asks where the name of an entry leads, and for nothing more.
    Resolve(Key),
}

/// What egress answers.
#[derive(Clone, Debug, PartialEq)]
pub enum FromEgress {
    /// The socket that comes along is connected to this host and port.
    Connected {
        /// Host name or address, as the table has it.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// There is no connection.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Where it should have led; `None` without an entry.
        place: Option<(String, u16)>,
    },
    /// Where the name leads.
    Resolved {
        /// Host name or address, as the table has it.
        host: String,
        /// TCP port.
        port: u16,
        /// Its addresses, as text.
        addresses: Vec<String>,
    },
    /// The name leads nowhere.
    Unresolved {
        /// Host name, as the table has it.
        host: String,
        /// TCP port.
        port: u16,
        /// What kind of failure it is.
        kind: Unresolved,
        /// What the resolver says.
        words: String,
    },
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Unresolved {
    /// There is no such name.
    Unknown,
    /// There is such a name, without an address.
    NoAddress,
    /// No resolver answers.
    NoAnswer,
    /// A resolver answers that it cannot tell.
    Failing,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The table has no such entry.
    Unknown,
    /// The name has no address; what the resolver says.
    Resolve(String),
    /// No address accepted the connection: the system's error number, 0 if there is none, and its words.
    Connect(i32, String),
    /// No connection within so many milliseconds.
    Timeout(u64),
    /// This client may not ask for it, or the name leads where no projected name may lead; the reason.
    NotPermitted(String),
    /// More questions are open than may be.
    Busy,
}

fn body<T: Decode<()>>(kind: u16, bytes: &[u8]) -> Result<T, MessageError> {
    codec::decode::<T, { BODY_BYTES_MAX * 4 }>(bytes)
        .map_err(|source| MessageError::Body { kind, source })
}

impl Message for ToEgress {
    fn kind(&self) -> u16 {
        match self {
            Self::Connect(_) => 1,
            Self::Forget => 2,
            Self::Resolve(_) => 3,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Connect(key) | Self::Resolve(key) => codec::encode(key),
            Self::Forget => codec::encode(&()),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            1 => Self::Connect(body(kind, bytes)?),
            2 => body(kind, bytes).map(|()| Self::Forget)?,
            3 => Self::Resolve(body(kind, bytes)?),
            _ => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

impl Message for FromEgress {
    fn kind(&self) -> u16 {
        match self {
            Self::Connected { .. } => 1,
            Self::Refused { .. } => 2,
            Self::Resolved { .. } => 3,
            Self::Unresolved { .. } => 4,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Connected { host, port } => codec::encode(&(host, port)),
            Self::Refused { refusal, place } => codec::encode(&(refusal, place)),
            Self::Resolved { host, port, addresses } => codec::encode(&(host, port, addresses)),
            Self::Unresolved { host, port, kind, words } => {
                codec::encode(&(host, port, kind, words))
            }
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            1 => body(kind, bytes).map(|(host, port)| Self::Connected { host, port })?,
            2 => body(kind, bytes).map(|(refusal, place)| Self::Refused { refusal, place })?,
            3 => body(kind, bytes).map(|(host, port, addresses)| Self::Resolved {
                host,
                port,
                addresses,
            })?,
            4 => body(kind, bytes).map(|(host, port, kind, words)| Self::Unresolved {
                host,
                port,
                kind,
                words,
            })?,
            _ => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
mod tests;
