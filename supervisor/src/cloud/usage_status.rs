//! How usage stands, for `aisix status`, the status page and the metrics.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::telemetry::Report;
use crate::metrics::UsageFacts;
use crate::pages::moment;

/// The section `usage` of `aisix status` and `/status/managed`. Times are RFC 3339, UTC; counters begin at the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageStatus {
    /// Events that the Cloud has not accepted yet.
    pub waiting: u64,
    /// Events of which only totals wait.
    pub waiting_as_totals: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// When the oldest of them occurred.
    pub oldest_at: Option<String>,
    /// The same as an age, in seconds.
    pub oldest_age_secs: Option<u64>,
    /// Events that it has accepted since the start.
    pub accepted: u64,
    /// Events that it would not accept on their own.
    pub rejected: u64,
    /// Events whose details were dropped.
    pub shed: u64,
    /// Events that it will never accept, kept in a file.
    pub dead_letters: u64,
    /// When it last accepted any.
    pub last_success_at: Option<String>,
    /// Why it does not, if so.
    pub error: Option<String>,
}

impl From<Report> for UsageStatus {
    fn from(report: Report) -> Self {
        Self {
            waiting: report.spool.waiting,
            waiting_as_totals: report.spool.folded,
            bytes: report.spool.bytes,
            oldest_at: report.spool.oldest.map(moment),
            oldest_age_secs: report.spool.oldest.map(|oldest| {
                SystemTime::now().duration_since(oldest).unwrap_or_default().as_secs()
            }),
            accepted: report.accepted,
            rejected: report.rejected,
            shed: report.spool.shed,
            dead_letters: report.spool.dead_letters,
            last_success_at: report.last_success.map(moment),
            error: report.error,
        }
    }
}

/// The same as metrics.
pub fn usage_facts(report: &Report) -> UsageFacts {
    let age = report.spool.oldest.and_then(|oldest| SystemTime::now().duration_since(oldest).ok());
    UsageFacts {
        waiting: report.spool.waiting,
        unwritten: report.spool.unwritten,
        folded: report.spool.folded,
        bytes: report.spool.bytes,
        oldest_age_seconds: age.unwrap_or_default().as_secs(),
        accepted: report.accepted,
        shed: report.spool.shed,
        dead_letters: report.spool.dead_letters,
    }
}
