//! How usage stands, for the status page and the metrics.

use std::time::SystemTime;

use serde::Serialize;

use super::telemetry::Report;
use crate::metrics::UsageFacts;
use crate::pages::moment;

/// The section `usage` of `/status/managed`. Times are RFC 3339, UTC; counters begin at the start of the process.
#[derive(Serialize)]
pub struct UsageStatus {
    waiting: u64,
    waiting_as_totals: u64,
    bytes: u64,
    oldest_at: Option<String>,
    accepted: u64,
    rejected: u64,
    shed: u64,
    dead_letters: u64,
    last_success_at: Option<String>,
    error: Option<String>,
}

impl From<Report> for UsageStatus {
    fn from(report: Report) -> Self {
        Self {
            waiting: report.spool.waiting,
            waiting_as_totals: report.spool.folded,
            bytes: report.spool.bytes,
            oldest_at: report.spool.oldest.map(moment),
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
