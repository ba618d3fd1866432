//! What the end-to-end tests and the demo are made of: real processes, real TLS, a real etcd, and a model upstream whose
//! every answer is known.
//!
//! - Nothing waits for time: [`wait::until`] asks until a fact holds, and says what was seen last if it never does.
//! - Every test has its own folders and its own ports ([`port`]), so that tests run side by side.
//! - What a test has started ends with it, and its log is printed if the test has failed ([`process`]).

// A harness ends a test by a panic with a sentence: there is nobody to hand an error to.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

pub mod authority;
pub mod binaries;
mod black_hole;
pub mod browser;
mod builder;
pub mod caller;
pub mod client;
pub mod cloud;
pub mod collector;
pub mod command;
pub mod etcd;
pub mod exposition;
pub mod gateway;
pub mod identity;
pub mod journal;
pub mod load;
pub mod manager;
pub mod memory;
pub mod mounted;
pub mod own_network;
pub mod port;
pub mod process;
pub mod projection;
#[path = "../provider/mod.rs"]
pub mod provider;
pub mod release;
pub mod service_manager;
pub mod sse;
pub mod tls;
pub mod trouble;
pub mod wait;
pub mod worker;
mod world;

pub use black_hole::BlackHole;
pub use builder::{Builder, WORKERS};
pub use caller::Caller;
pub use client::{Answer, ClientError, Connection};
pub use cloud::Cloud;
pub use etcd::Etcd;
pub use gateway::Gateway;
pub use own_network::OwnNetwork;
pub use projection::Projection;
pub use provider::Upstream;
pub use world::{World, upstream};
