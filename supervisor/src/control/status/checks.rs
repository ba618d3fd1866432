//! The five checks of the managed guide, in its order: started without certificate or trust errors → heartbeat → resources →
//! a live request → its usage. Pure: made from the status itself.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Status;

/// Heartbeats in a row that may be missing before the check fails.
const BEATS_MISSED_MAX: i64 = 3;
/// So many requests in a row that no upstream has served are told.
const FAILED_MAX: u64 = 3;
/// Usage that waits for longer, in seconds, should have been delivered.
const USAGE_AGE_MAX: u64 = 60;
/// Less than this until the certificate ends, in seconds, is told.
const EXPIRY_NEAR: i64 = 3 * 86_400;

/// A revision that was seen earlier than that, in seconds, is not on its way any more.
const ON_ITS_WAY_MAX: i64 = 30;

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

fn resources(status: &Status, now: i64) -> Outcome {
    let configuration = &status.configuration;
    let count: u64 = configuration.resources.values().sum();
    let Some(applied) = configuration.applied_revision else {
        return (CheckState::Waiting, "no configuration has come yet".to_owned());
    };
    if configuration.source_connected == Some(false) {
        let reason = configuration.last_failure.as_deref().unwrap_or("no connection");
        let seen = configuration.last_contact_at.as_deref();
        let since = seen.map(|at| format!(" since {at}")).unwrap_or_default();
        let told = format!("revision {applied} is served, the source is away{since}: {reason}");
        return (CheckState::Failed, told);
    }
    if configuration.rejected_count > 0 {
        let stale = configuration.rejected.iter().filter_map(|it| it.stale_secs).max();
        let stale = stale.map(|secs| format!(", older ones are served for up to {secs} s"));
        let rejected = configuration.rejected_count;
        let told = format!("revision {applied}: {rejected} resources were rejected");
        return (CheckState::Warning, told + &stale.unwrap_or_default());
    }
    let observed = configuration.observed_revision.unwrap_or(applied);
    let seen = configuration.observed_at.as_deref().and_then(|at| age(at, now)).unwrap_or_default();
    match (observed == applied, count) {
        // A revision that changes nothing of what is served never is.
        (false, _) if seen < ON_ITS_WAY_MAX => {
            (CheckState::Waiting, format!("revision {applied} is served, {observed} is on its way"))
        }
        (_, 0) => (CheckState::Warning, format!("revision {applied} holds no resource")),
        (true, _) => (CheckState::Ok, format!("revision {applied}, {count} resources")),
        (false, _) => {
            let told = "has changed nothing that is served";
            (CheckState::Ok, format!("revision {applied}, {count} resources; {observed} {told}"))
        }
    }
}

fn request(status: &Status, _: i64) -> Outcome {
    let traffic = &status.traffic;
    let failed = traffic.answered.saturating_sub(traffic.succeeded);
    match (traffic.answered, &traffic.last_success_at) {
        (0, _) => (CheckState::Waiting, "no request has come since the start".to_owned()),
        (_, None) => (CheckState::Failed, format!("all {failed} requests have failed")),
        (_, Some(at)) if traffic.failed_since >= FAILED_MAX => {
            let told = format!("the last {} could not be served", traffic.failed_since);
            (CheckState::Warning, format!("{told}; the last that succeeded was seen at {at}"))
        }
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
        None if usage.waiting > 0 => {
            let told =
                format!("{} events accepted, {} on their way", usage.accepted, usage.waiting);
            let state = if usage.accepted == 0 { CheckState::Waiting } else { CheckState::Ok };
            (state, told)
        }
        None if usage.accepted == 0 => (CheckState::Waiting, "nothing was used yet".to_owned()),
        None => (CheckState::Ok, format!("{} events accepted, none waits", usage.accepted)),
    }
}

fn no_cloud() -> Outcome {
    (CheckState::Off, "there is no Cloud in this mode".to_owned())
}

fn age(at: &str, now: i64) -> Option<i64> {
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?.unix_timestamp();
    Some(now.saturating_sub(at).max(0))
}

#[cfg(test)]
mod tests {
    use super::super::{Certificate, Cloud, Configuration, Traffic, Usage};
    use super::*;

    const NOW: i64 = 1_790_000_000;

    /// What these changes to a gateway that is well in every respect make of a check.
    fn after(change: impl FnOnce(&mut Status), check: usize) -> (CheckState, String) {
        let at = |ago: i64| Some(crate::projection::report::rfc3339(NOW - ago));
        let mut status = Status {
            state: "ready".to_owned(),
            certificate: Some(Certificate {
                expires_in_secs: 30 * 86_400,
                ..Certificate::default()
            }),
            cloud: Some(Cloud { last_heartbeat_at: at(2), ..Cloud::default() }),
            configuration: Configuration {
                observed_revision: Some(4),
                applied_revision: Some(4),
                source_connected: Some(true),
                observed_at: at(1),
                resources: [("models".to_owned(), 3)].into(),
                ..Configuration::default()
            },
            traffic: Traffic {
                answered: 5,
                succeeded: 4,
                last_success_at: at(3),
                ..Traffic::default()
            },
            usage: Usage { accepted: 4, ..Usage::default() },
            ..Status::default()
        };
        change(&mut status);
        let check = all(&status, 15, NOW).swap_remove(check);
        (check.state, check.evidence)
    }

    #[test]
    fn a_gateway_that_is_well_passes_all_five() {
        for check in 0..5 {
            let (state, evidence) = after(|_| {}, check);
            assert_eq!(state, CheckState::Ok, "{evidence}");
        }
    }

    #[test]
    fn each_check_fails_for_its_own_reasons_and_says_which() {
        type Case = (usize, fn(&mut Status), CheckState, &'static str);
        let cases: [Case; 14] = [
            (0, |it| it.state = "starting".to_owned(), CheckState::Waiting, "do not serve"),
            (0, |it| it.state = "degraded".to_owned(), CheckState::Failed, "do not serve"),
            (0, |it| certificate(it, 0), CheckState::Failed, "has expired"),
            (0, |it| certificate(it, 60), CheckState::Warning, "expires at"),
            (1, |it| cloud(it).error = Some("refused".into()), CheckState::Failed, "refused"),
            (1, |it| cloud(it).last_heartbeat_at = None, CheckState::Waiting, "none"),
            (2, |it| it.configuration.applied_revision = None, CheckState::Waiting, "no conf"),
            (2, |it| it.configuration.observed_revision = Some(5), CheckState::Waiting, "5 is on"),
            (2, |it| it.configuration.source_connected = Some(false), CheckState::Failed, "away"),
            (2, |it| it.configuration.rejected_count = 2, CheckState::Warning, "2 resources"),
            (3, |it| it.traffic.last_success_at = None, CheckState::Failed, "have failed"),
            (3, |it| it.traffic.failed_since = 3, CheckState::Warning, "the last 3"),
            (4, |it| it.usage.oldest_age_secs = Some(61), CheckState::Failed, "oldest"),
            (4, |it| it.usage = waiting(2), CheckState::Waiting, "2 on their way"),
        ];
        for (check, change, expected, words) in cases {
            let (state, evidence) = after(change, check);
            assert_eq!(state, expected, "{evidence}");
            assert!(evidence.contains(words), "{words} in {evidence}");
        }
    }

    #[test]
    fn a_heartbeat_is_missed_after_three_intervals_and_not_before() {
        let beat = |ago: i64| {
            let at = crate::projection::report::rfc3339(NOW - ago);
            after(|it| cloud(it).last_heartbeat_at = Some(at), 1).0
        };
        assert_eq!((beat(45), beat(46)), (CheckState::Ok, CheckState::Failed));
    }

    #[test]
    fn a_revision_that_changes_nothing_that_is_served_is_not_awaited_for_ever() {
        let old = crate::projection::report::rfc3339(NOW - ON_ITS_WAY_MAX);
        let (state, evidence) = after(
            |it| {
                it.configuration.observed_revision = Some(5);
                it.configuration.observed_at = Some(old);
            },
            2,
        );
        assert_eq!(state, CheckState::Ok, "{evidence}");
    }

    fn waiting(waiting: u64) -> Usage {
        Usage { waiting, ..Usage::default() }
    }

    fn certificate(status: &mut Status, left: i64) {
        status.certificate.as_mut().unwrap().expires_in_secs = left;
    }

    fn cloud(status: &mut Status) -> &mut Cloud {
        status.cloud.as_mut().unwrap()
    }
}
