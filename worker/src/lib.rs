//! `aisix-worker`: the confined half of the gateway, one process per role.
//!
//! A library, so that its parts can be tested; the binary is `main.rs`.

pub mod metrics;
mod sys;
