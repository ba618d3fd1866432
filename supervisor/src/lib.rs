//! `aisix`: the privileged half of the gateway. It owns the bundle, the state directory, the Cloud session, the listeners
//! and the worker processes, and parses nothing that an unauthenticated peer sent.
//!
//! A library, so that its parts can be tested; the binary is `main.rs`.
pub mod broker;
pub mod configuration;
pub mod fleet;
pub mod listener;
pub mod metrics;
pub mod process;
pub mod worker_log;
pub mod backoff;
pub mod cloud;
pub mod dial;
pub mod projection;
pub mod spool;
pub mod shutdown;
pub mod state;
pub mod log;
pub mod pages;
pub mod supervisor;
pub mod start;
pub mod worker_settings;
pub mod cli;
pub mod settings;
pub mod bundle;
