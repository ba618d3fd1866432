//! The five checks of the managed guide, in its order: started without certificate or trust errors → heartbeat → resources →
//! a live request → its usage. Pure: made from the status itself.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Status;

/// Heartbeats in a row that may be missing before the check fails.
const BEATS_MISSED_MAX: i64 = 3;
/// Usage that waits for longer, in seconds, should have been delivered.
const USAGE_AGE_MAX: u64 = 60;
/// Less than this until the certificate ends, in seconds, is told.
const EXPIRY_NEAR: i64 = 3 * 86_400;

/// One of the five checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// `started`, `heartbeat`, `resources`, `request` or `usage`.
    pub name: String,
    /// What is checked, in words.
    pub title: String,
    /// How it stands.
    pub state: CheckState,
    /// The evidence, in words.
    pub evidence: String,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// It holds.
    Ok,
    /// Nothing has happened yet that would tell.
    #[default]
    Waiting,
    /// It holds, but look at it.
    Warning,
    /// It does not hold.
    Failed,
    /// It does not apply: there is no Cloud.
    Off,
}

impl CheckState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Waiting => "waiting",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Off => "off",
        }
    }
}

type Outcome = (CheckState, String);

/// The checks of a gateway that beats every `heartbeat_secs`; `now` in seconds since 1970.
pub(super) fn all(status: &Status, heartbeat_secs: u64, now: i64) -> Vec<Check> {
    let check = |name: &str, title: &str, (state, evidence): Outcome| Check {
        name: name.to_owned(),
        title: title.to_owned(),
        state,
        evidence,
    };
    let of = |outcome: fn(&Status, i64) -> Outcome| outcome(status, now);
    let beats = heartbeat(status, i64::try_from(heartbeat_secs).unwrap_or(i64::MAX), now);
    vec![
        check("started", "started without certificate or trust errors", of(started)),
        check("heartbeat", "the Cloud accepts the heartbeat", beats),
        check("resources", "the projected resources are served by every worker", of(resources)),
        check("request", "a live request has succeeded", of(request)),
        check("usage", "its usage has arrived at the Cloud", of(usage)),
    ]
}

fn started(status: &Status, _: i64) -> Outcome {
    let trust = |topic: &str| status.findings.iter().find(|finding| finding.topic == topic);
    let down = || status.workers.iter().filter(|worker| worker.state != "serving").count();
    match &status.certificate {
        _ if matches!(status.state.as_str(), "starting" | "degraded") => {
            let state =
                if status.state == "starting" { CheckState::Waiting } else { CheckState::Failed };
            (state, format!("{} of {} workers do not serve", down(), status.workers.len()))
        }
        Some(certificate) if certificate.expires_in_secs <= 0 => (
            CheckState::Failed,
            format!("the certificate has expired at {}", certificate.expires_at),
        ),
        _ if trust("certificate").is_some() || trust("rotation").is_some() => {
            let finding = trust("certificate").or_else(|| trust("rotation"));
            (CheckState::Warning, finding.map(|it| it.text.clone()).unwrap_or_default())
        }
        Some(certificate) if certificate.expires_in_secs < EXPIRY_NEAR => {
            (CheckState::Warning, format!("the certificate expires at {}", certificate.expires_at))
        }
        Some(certificate) => {
            let workers = status.workers.len();
            (
                CheckState::Ok,
                format!(
                    "{workers} workers serve, certificate valid until {}",
                    certificate.expires_at
                ),
            )
        }
        None => (CheckState::Ok, format!("{} workers serve", status.workers.len())),
    }
}

fn heartbeat(status: &Status, every: i64, now: i64) -> Outcome {
    let Some(cloud) = &status.cloud else { return no_cloud() };
    let age = cloud.last_heartbeat_at.as_deref().and_then(|at| age(at, now));
    let environment = status.environment.as_deref().unwrap_or("unknown");
    match (age, &cloud.error) {
        (_, Some(error)) => (CheckState::Failed, error.clone()),
        (None, None) => (CheckState::Waiting, "none was answered yet".to_owned()),
        (Some(age), None) if age > every.saturating_mul(BEATS_MISSED_MAX).max(10) => {
            (CheckState::Failed, format!("the last one was accepted {age} s ago"))
        }
        (Some(age), None) => {
            (CheckState::Ok, format!("accepted {age} s ago, environment {environment}"))
        }
    }
}

fn resources(status: &Status, _: i64) -> Outcome {
    let configuration = &status.configuration;
    let count: u64 = configuration.resources.values().sum();
    let Some(applied) = configuration.applied_revision else {
        return (CheckState::Waiting, "no configuration has come yet".to_owned());
    };
    if configuration.source_connected == Some(false) {
        let reason = configuration.last_failure.as_deref().unwrap_or("no connection");
        let seen = configuration.observed_at.as_deref().unwrap_or("an earlier run");
        let told = format!("revision {applied} of {seen} is served, the source is away: {reason}");
        return (CheckState::Failed, told);
    }
    match configuration.observed_revision {
        Some(observed) if observed != applied => {
            (CheckState::Waiting, format!("revision {applied} is served, {observed} is on its way"))
        }
        _ if configuration.rejected_count > 0 => {
            let stale = configuration.rejected.iter().filter_map(|it| it.stale_secs).max();
            let stale = stale.map(|secs| format!(", older ones are served for up to {secs} s"));
            let rejected = configuration.rejected_count;
            let told = format!("revision {applied}: {rejected} resources were rejected");
            (CheckState::Warning, told + &stale.unwrap_or_default())
        }
        _ if count == 0 => (CheckState::Warning, format!("revision {applied} holds no resource")),
        _ => (CheckState::Ok, format!("revision {applied}, {count} resources")),
    }
}

fn request(status: &Status, _: i64) -> Outcome {
    let traffic = &status.traffic;
    let failed = traffic.answered.saturating_sub(traffic.succeeded);
    match (traffic.answered, &traffic.last_success_at) {
        (0, _) => (CheckState::Waiting, "no request has come since the start".to_owned()),
        (_, None) => (CheckState::Failed, format!("all {failed} requests have failed")),
        (_, Some(at)) => (
            CheckState::Ok,
            format!("{} succeeded, {failed} failed, the last at {at}", traffic.succeeded),
        ),
    }
}

fn usage(status: &Status, _: i64) -> Outcome {
    if status.cloud.is_none() {
        return no_cloud();
    }
    let usage = &status.usage;
    let old = usage.oldest_age_secs.is_some_and(|age| age > USAGE_AGE_MAX);
    match &usage.error {
        Some(error) => (CheckState::Failed, format!("{} events wait: {error}", usage.waiting)),
        None if old => {
            let age = usage.oldest_age_secs.unwrap_or_default();
            (CheckState::Failed, format!("{} events wait, the oldest for {age} s", usage.waiting))
        }
        None if usage.shed > 0 || usage.dead_letters > 0 => {
            let told = format!(
                "{} events accepted, {} only as totals, {} refused for good",
                usage.accepted, usage.shed, usage.dead_letters
            );
            (CheckState::Warning, told)
        }
        None if usage.accepted == 0 => (CheckState::Waiting, "nothing was used yet".to_owned()),
        None => {
            (CheckState::Ok, format!("{} events accepted, {} wait", usage.accepted, usage.waiting))
        }
    }
}

fn no_cloud() -> Outcome {
    (CheckState::Off, "there is no Cloud in this mode".to_owned())
}

fn age(at: &str, now: i64) -> Option<i64> {
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?.unix_timestamp();
    Some(now.saturating_sub(at).max(0))
}
