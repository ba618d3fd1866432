//! What caller keys spend, told by whoever keeps usage events to whoever watches budgets.

use std::time::Instant;

/// Takes note of what caller keys spend. Called from any thread, and never waits.
pub trait SpendSink: Send + Sync {
    /// A usage event of that cost was taken in, and waits for the Cloud.
    fn spent(&self, api_key_id: &str, cost_usd: f64);

    /// The Cloud has accepted it at `at`, or will never be told of it.
    fn delivered(&self, api_key_id: &str, cost_usd: f64, at: Instant);
}
