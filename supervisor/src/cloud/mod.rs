//! The Cloud: mutual TLS to the manager, and what is told to it.
//!
//! - `tls`: the identity in force, and whom it trusts: the bundle's issuers and the configured extra ones, nobody else;
//! - `manager`: requests to the manager over one kept connection, with errors that say what to do;
//! - `heartbeat`: that this gateway lives, and which configuration it serves;
//! - `renewal`: when the Cloud is asked for a new certificate, and what is made of its answer; `rotate` replaces the identity;
//! - `telemetry`: usage events from the spool, each until the manager has accepted it; `batch` decides, without I/O;
//! - `spend`: who is told of local spend.

pub mod batch;
pub mod heartbeat;
pub mod manager;
pub mod renewal;
pub mod rotate;
pub mod rotation_report;
pub mod spend;
pub mod telemetry;
pub mod tls;
pub mod usage_status;
