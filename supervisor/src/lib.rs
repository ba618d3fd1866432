//! `aisix`: the privileged half of the gateway. It owns the bundle, the state directory, the Cloud session, the listeners
//! and the worker processes, and parses nothing that an unauthenticated peer sent.
//!
//! A library, so that its parts can be tested; the binary is `main.rs`.

mod accounts;
pub mod awake;
pub mod backoff;
pub mod broker;
pub mod bundle;
pub mod bundle_report;
pub mod changes;
pub mod cli;
pub mod cloud;
pub mod configuration;
pub mod control;
mod denied;
pub mod destinations;
pub mod dial;
pub mod dial_proxy;
pub mod doctor;
pub mod egress_watch;
pub mod export;
pub mod exporters;
pub mod file_watch;
pub mod findings;
pub mod fleet;
pub mod handover;
pub mod history;
pub mod key_sets;
pub mod listener;
pub mod listener_tls;
pub mod log;
pub mod metrics;
mod model_status;
mod node_facts;
pub mod origin;
pub mod pages;
pub mod pem;
pub mod process;
pub mod projection;
pub mod propagation;
pub mod reload;
pub mod resolver_files;
pub mod resources;
pub mod sandbox_report;
pub mod settings;
pub mod shutdown;
pub mod spool;
pub mod start;
pub mod state;
pub mod supervisor;
pub mod systemd;
mod validate;
pub mod worker_log;
pub mod worker_settings;
