//! The one way out: every outgoing connection, of a worker or of the supervisor, is asked for here.
//!
//! Whoever implements it decides how a name is resolved and whether the destination is permitted.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::egress::Key;

/// Where a connection should lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The entry of the destination table by which egress knows it.
    pub key: Key,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// No address of the name accepted the connection; the last reason is kept.
    #[error("cannot connect to {destination}: {source}")]
    Connect {
        /// Where to.
        destination: Destination,
        /// Why the last address failed.
        source: io::Error,
    },
    /// It took too long.
    #[error("no connection to {destination} within {limit:?}")]
    Timeout {
        /// Where to.
        destination: Destination,
        /// The limit.
        limit: Duration,
    },
    /// The name leads where it must not lead, or whoever asks may not.
    #[error("a connection to {destination} is not permitted: {reason}")]
    NotPermitted {
        /// Where to.
        destination: Destination,
        /// Why not.
        reason: String,
    },
    /// The destination table has no such entry, or one that leads elsewhere, and that did not change in time.
    #[error("the egress worker does not know {} as {destination}", destination.key)]
    Unknown {
        /// Where to.
        destination: Destination,
    },
    /// There is nobody to make connections.
    #[error(
        "no connection to {destination}: the egress worker is not there; it is being started anew"
    )]
    NoEgress {
        /// Where to.
        destination: Destination,
    },
}

/// A connection that is on its way.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<TcpStream, DialError>> + Send + 'a>>;

/// Makes connections.
pub trait Dial: Send + Sync {
    /// A connected stream with `TCP_NODELAY`.
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a>;
}
