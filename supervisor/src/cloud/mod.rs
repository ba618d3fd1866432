//! The Cloud: mutual TLS to the manager, and what is told to it.
//!
//! - `tls`: the identity in force, and whom it trusts: the bundle's issuers and the configured extra ones, nobody else;
//! - `manager`: requests to the manager over one kept connection, with errors that say what to do;
//! - `heartbeat`: that this gateway lives, and which configuration it serves;
//! - `telemetry`: usage events from the spool, each until the manager has accepted it; `batch` decides, without I/O.

pub mod batch;
pub mod decision_store;
pub mod heartbeat;
pub mod manager;
pub mod telemetry;
pub mod tls;
