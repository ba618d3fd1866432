//! What every role has in common: how it can fail, and how its listener comes into the runtime.

use std::io;
use std::net;

use tokio::net::TcpListener;

use crate::link::LinkError;

/// Why a role ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The supervisor is gone, or does not speak our protocol.
    #[error("control socket: {0}")]
    Link(#[from] LinkError),
    /// The listener cannot be used.
    #[error("cannot use the inherited listener: {0}")]
    Listener(io::Error),
    /// The metric slots cannot be used.
    #[error("cannot use the metric slots: {0}")]
    Metrics(io::Error),
    /// What all workers count together cannot be mapped.
    #[error("cannot use the memory that all workers count in: {0}")]
    Counters(io::Error),
    /// The channel to the signer cannot be used.
    #[error("cannot use the channel to the signer: {0}")]
    Signer(io::Error),
    /// Names of upstreams cannot be resolved.
    #[error("cannot set up the resolver: {0}")]
    Resolver(String),
}

/// The inherited listener within the runtime. It is non-blocking already: the flag is shared with every other process.
pub fn listen(listener: Option<net::TcpListener>) -> Result<TcpListener, RoleError> {
    let listener = listener.ok_or_else(|| RoleError::Listener(io::ErrorKind::NotFound.into()))?;
    TcpListener::from_std(listener).map_err(RoleError::Listener)
}
