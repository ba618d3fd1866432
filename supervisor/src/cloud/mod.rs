//! The Cloud: mutual TLS to the manager, and what is told to it.
//!
//! - `tls`: the identity in force, and whom it trusts: the bundle's issuers and the configured extra ones, nobody else;
//! - `manager`: requests to the manager over one kept connection, with errors that say what to do;
//! - `heartbeat`: that this gateway lives, and which configuration it serves;
//! - `budget`: whether caller keys may spend more, asked ahead of time; `spend` and `decision_store` are what it needs of
//!   others;
//! - `renewal`: when the Cloud is asked for a new certificate, and what is made of its answer; `rotate` replaces the identity;
//! - `telemetry`: usage events from the spool, each until the manager has accepted it; `batch` decides, without I/O.

pub mod batch;
pub mod budget;
pub mod decision_store;
pub mod heartbeat;
pub mod manager;
pub mod renewal;
pub mod rotate;
pub mod rotation_report;
pub mod spend;
pub mod telemetry;
pub mod tls;
pub mod usage_status;
