//! What an operator relies on, over the built programs, real TLS and a real etcd: a file per promise, a sentence per test.
//!
//! Outcomes are asserted, figures are printed (`cargo nextest run --no-capture`, or `cargo test -- --nocapture`).

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod anthropic;
mod bedrock;
mod broken_starts;
mod budgets;
mod budgets_outage;
mod bundle_report;
mod cache;
mod cloud_outage;
mod confinement;
mod control_socket;
mod doctor_local;
mod doctor_network;
mod edge;
mod egress;
mod egress_names;
mod endpoints;
mod guardrails;
mod guards;
mod hostile_workers;
mod jwt;
mod listener_tls;
mod log_forms;
mod log_levels;
mod logs;
mod metrics;
mod offline;
mod other_cloud;
mod passthrough;
mod poison;
mod process_kills;
mod process_one;
mod projection;
mod projection_load;
mod rate_limits;
mod replacement;
mod resources_file;
mod rotation;
mod rotation_kill;
mod rotation_trust;
mod routing;
mod secrets;
mod service_manager;
mod settings;
mod shutdown;
mod startup;
mod state_directory;
mod status;
mod status_page;
mod supervisor_killed;
mod traces;
mod traffic;
mod traffic_refused;
mod upgrade;
mod upgrade_refused;
mod upstream_failures;
mod upstream_tls;
mod usage;
mod usage_kept;
mod usage_kills;
mod usage_refused;
mod vertex;
mod worker_crash;
