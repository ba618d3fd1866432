//! `aisix-worker`: the confined half of the gateway, one process per role.
//!
//! A library, so that its parts can be tested; the binary is `main.rs`.

pub mod dial;
pub mod dialect;
pub mod provider;
pub mod request;
pub mod server;
pub mod sse;
pub mod tables;
pub mod upstream;
pub mod metrics;
pub mod inherit;
pub mod link;
pub mod log;
pub mod proxy;
pub mod role;
pub mod sandbox;
pub mod status;
mod sys;
