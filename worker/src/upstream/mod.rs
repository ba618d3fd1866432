//! The way to providers: pooled HTTP/1.1 connections, each to one endpoint with its own trust.

mod connect;
mod connection;
mod head;
mod pool;
mod timers;
mod trust;

pub use connect::{ConnectError, Connector};
pub use connection::TransportError;
pub use head::{AnswerHead, Common, Outgoing};
pub use pool::{Answer, AnswerBody, Place, SendError, Upstreams};
pub(crate) use trust::TlsOptions;
pub use trust::{TrustError, TrustRoots};
