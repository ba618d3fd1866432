//! harness
#[path = "../provider/mod.rs"]
pub mod provider;
