//! The way to providers: pooled HTTP/1.1 connections, each to one endpoint with its own trust.

mod connect;
mod pool;
mod trust;
mod work;

pub use connect::{ConnectError, Connector};
pub use pool::{Answer, AnswerBody, Place, SendError, Upstreams};
pub(crate) use trust::TlsOptions;
pub use trust::{TrustError, TrustRoots};
