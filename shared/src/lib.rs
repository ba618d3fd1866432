//! What crosses the boundary between the supervisor and its workers, and nothing else.
//!
//! No clock, no policy, no I/O beyond the one socket and sealed memory, but for `egress/client.rs`, which both programs
//! use. Everything that arrives here from a worker is
//! hostile until decoded: sizes are checked before anything is allocated, and no input can panic.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod budget;
pub mod cache;
pub mod channel;
pub mod cidr;
pub mod codec;
#[allow(
    clippy::arithmetic_side_effects,
    reason = "places are within tables of constant size, and moments are the wall clock's"
)]
pub mod counters;
mod crc32;
pub mod deployment;
pub mod descriptor;
pub mod dial;
pub mod egress;
pub mod export;
pub mod frame;
pub mod hostile;
pub mod id;
pub mod key_set;
pub mod log_event;
pub mod log_line;
pub mod memory;
pub mod message;
pub mod metric;
pub mod orphan;
pub mod resource;
pub mod ring;
pub mod secret;
pub mod signing;
pub mod simple;
mod sys;
pub mod turns;
pub mod update;
pub mod usage;
pub mod usage_total;
pub mod version;
pub mod worker_settings;
