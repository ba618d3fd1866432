//! What there is to tell about the certificate that callers are shown: findings, metrics, the status page.

use std::time::SystemTime;

use serde::Serialize;

use super::ListenerTls;
use super::pair::{Pair, unix};
use crate::bundle::check::date;
use crate::metrics::{OwnFamily, table};
use crate::projection::report::rfc3339;

/// Nobody needs to hear earlier, however long a certificate lives: 14 days, in seconds.
const SOON_MAX: i64 = 14 * 24 * 60 * 60;
/// Of a shorter life, the last sixth is soon: whoever renews does so after two thirds.
const SOON_SHARE: i64 = 6;

/// The section of `/status/managed`.
#[derive(Serialize)]
pub struct Status {
    certificate_expires_at: String,
    /// SHA-256 of the public key.
    key_id: String,
    min_version: &'static str,
    /// Certificates and keys that came into force since the start.
    replaced: u64,
    /// Why the files are not what is in force.
    refused: Option<String>,
}

impl ListenerTls {
    /// What is not as it should be, in words.
    pub(super) fn finding(&self, now: SystemTime) -> Option<String> {
        let state = self.state.borrow();
        let refused = state.refused.as_ref().map(|reason| {
            format!("the listener's certificate and key are not replaced, those before stay in force: {reason}")
        });
        let told: Vec<_> = refused.into_iter().chain(expiry(&state.in_force.pair, now)).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// What `/status/managed` shows.
    pub fn status(&self) -> Status {
        let state = self.state.borrow();
        let pair = &state.in_force.pair;
        Status {
            certificate_expires_at: rfc3339(pair.not_after_unix),
            key_id: pair.id.iter().map(|byte| format!("{byte:02x}")).collect(),
            min_version: if self.settings.tls12 { "1.2" } else { "1.3" },
            replaced: state.reloads.get("taken").copied().unwrap_or_default(),
            refused: state.refused.clone(),
        }
    }

    /// What is published.
    pub fn families(&self) -> Vec<OwnFamily> {
        let state = self.state.borrow();
        let expires = state.in_force.pair.not_after_unix as f64;
        let reloads = state.reloads.iter().map(|(result, count)| (*result, *count as f64));
        vec![table::LISTENER_EXPIRY.number(expires), table::LISTENER_RELOADS.by(reloads)]
    }
}

fn expiry(pair: &Pair, now: SystemTime) -> Option<String> {
    let (now, end) = (unix(now), pair.not_after_unix);
    let soon = (end.saturating_sub(pair.not_before_unix) / SOON_SHARE).min(SOON_MAX);
    let remedy = "replace the files of proxy.tls; no restart is needed";
    if now > end {
        Some(format!("the listener's certificate expired on {}; {remedy}", date(end)))
    } else if now > end.saturating_sub(soon) {
        Some(format!("the listener's certificate expires on {}; {remedy}", date(end)))
    } else {
        None
    }
}
