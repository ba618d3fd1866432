//! How much is let through: requests, tokens, and how many at a time.

use bincode::{Decode, Encode};

/// Limits of one bucket. `None` = not limited; windows are fixed and aligned to the wall clock, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RateLimits {
    /// Requests in a second.
    pub rps: Option<u64>,
    /// Requests in a minute.
    pub rpm: Option<u64>,
    /// Requests in an hour.
    pub rph: Option<u64>,
    /// Requests in a day.
    pub rpd: Option<u64>,
    /// Tokens in a minute.
    pub tpm: Option<u64>,
    /// Tokens in a day.
    pub tpd: Option<u64>,
    /// Requests at a time.
    pub concurrency: Option<u32>,
}

impl RateLimits {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
