//! `aisix-worker`: the confined half of the gateway, one process per role.
//!
//! A library, so that its parts can be tested; the binary is `main.rs`.

pub mod metrics;
pub mod inherit;
pub mod link;
pub mod log;
pub mod role;
pub mod sandbox;
pub mod status;
mod sys;
