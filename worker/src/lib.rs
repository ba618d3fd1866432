//! `aisix-worker`: the confined half of the gateway, one process per role.
//!
//! A library, so that its parts can be tested; the binary is `main.rs`.

pub mod budgets;
pub mod cache;
pub mod call;
pub mod chat;
pub mod dialect;
pub mod egress;
pub mod endpoint;
pub mod export;
pub mod guardrail;
pub mod guards;
pub mod helper;
pub mod hooks;
pub mod hostile;
mod http1;
pub mod identity;
pub mod inherit;
pub mod json;
pub mod limits;
pub mod link;
pub mod log;
pub mod metrics;
pub mod multipart;
pub mod orphan;
pub mod provider;
pub mod proxy;
mod random;
pub mod redis;
pub mod request;
pub mod role;
pub mod routes;
mod routing;
pub mod run;
pub mod sandbox;
pub mod server;
pub mod signer;
pub mod sse;
pub mod status;
mod sys;
pub mod tables;
pub mod tls;
mod turn;
pub mod upstream;
pub mod usage_ring;

/// A table whose names are configured: strangers choose none that is entered.
pub(crate) type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// One allocator for every role: a request allocates some hundred small pieces, all on one thread.
#[global_allocator]
static ALLOCATOR: sys::Allocator = sys::Allocator;
