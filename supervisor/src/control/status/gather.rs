//! Gathers the status from those who know the parts of it.

use std::time::SystemTime;

use shared::version::VERSION;

use super::{
    Certificate, Channel, Cloud, Configuration, Identity, Process, Rejected, Sandbox, Status,
    Traffic, Usage, checks,
};
use crate::cloud::budget::{self, Budgets};
use crate::pages::{Sources, Workers, finding_statuses, moment};
use crate::projection::report::{ConfigStatus, rfc3339};
use crate::sandbox_report::{Level, WorkerStatus};
use crate::supervisor::About;

/// Rejected resources that are told one by one.
const REJECTED_MAX: usize = 20;

/// What the event loop knows, at the moment of the question.
pub struct Seen {
    /// What the gateway is all its life.
    pub about: About,
    /// Its state in one word.
    pub state: &'static str,
    /// The revision that every worker serves.
    pub applied: Option<i64>,
    /// The workers.
    pub workers: Workers,
}

impl Status {
    /// Everything, asked of everybody. Waits for the projection only.
    pub async fn gather(seen: Seen, sources: &Sources) -> Self {
        let Seen { about, state, applied, workers } = seen;
        let now = SystemTime::now();
        let traffic = sources.collector.borrow_mut().traffic(now);
        let uptime_secs = sources.started.elapsed().as_secs();
        let report = sources.projection.report(applied_revision(applied)).await;
        let configuration = report.map(|report| Configuration {
            last_contact_at: report.gauges.last_contact.map(rfc3339),
            ..configuration(applied, report.status)
        });
        let configuration = configuration.unwrap_or_default();
        let budgets = sources.budgets.as_ref().map(Budgets::status);
        let usage = Usage::from(sources.telemetry.report());
        let cloud = sources.identity.as_ref().map(|_| {
            let heartbeat = sources.heartbeat.get();
            let last_heartbeat_at = heartbeat.last_success.map(moment);
            Cloud {
                channels: channels(
                    (last_heartbeat_at.clone(), heartbeat.error.clone()),
                    &configuration,
                    &usage,
                    budgets.as_ref(),
                ),
                last_heartbeat_at,
                heartbeat_failures: heartbeat.failures,
                error: heartbeat.error,
            }
        });
        let mut status = Self {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_secs,
            mode: about.mode.to_owned(),
            environment: Some(about.environment.clone()).filter(|it| !it.is_empty()),
            state_dir: about.state_dir.as_ref().map(|path| path.display().to_string()),
            ready: state == "ready",
            state: state.to_owned(),
            checks: Vec::new(),
            identity: identity(&about, sources),
            configuration,
            cloud,
            certificate: certificate(sources, now),
            usage,
            budgets,
            traffic: Traffic {
                answered: traffic.answered,
                succeeded: traffic.succeeded,
                failed_since: traffic.failed_since,
                in_flight: workers.each.iter().map(|worker| u64::from(worker.in_flight)).sum(),
                last_success_at: traffic.last_success.map(moment),
            },
            sandbox: Sandbox {
                policy: about.sandbox.name().to_owned(),
                level: workers.each.iter().filter_map(|it| it.level).min().map(Level::number),
            },
            supervisor: Process {
                pid: std::process::id(),
                uid: nix::unistd::geteuid().as_raw(),
                uptime_secs,
            },
            workers: workers.each.iter().map(|it| WorkerStatus::of(it, &traffic)).collect(),
            findings: finding_statuses(&sources.findings),
        };
        status.checks = checks::all(&status, about.heartbeat_secs, unix(now));
        status
    }
}

fn applied_revision(applied: Option<i64>) -> shared::id::Revision {
    shared::id::Revision(applied.unwrap_or_default())
}

fn unix(now: SystemTime) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn configuration(applied: Option<i64>, told: ConfigStatus) -> Configuration {
    let rejected = told.rejected.iter().take(REJECTED_MAX).map(|row| Rejected {
        resource: format!("{}/{}", row.resource_kind, row.resource_id),
        reason: row.last_error.clone(),
        stale_secs: row.serving_stale_age_seconds,
    });
    let counts = told.applied.as_ref().map(|it| it.resource_counts.clone()).unwrap_or_default();
    Configuration {
        observed_revision: told.source.observed_revision,
        applied_revision: applied,
        source_connected: told.source.connected,
        source: told.source.r#type.to_owned(),
        state: told.state.name().to_owned(),
        applied_at: told.applied.as_ref().map(|it| it.applied_at.clone()),
        observed_at: told.source.observed_at.clone(),
        hash: told.applied.as_ref().map(|it| it.config_hash.clone()),
        resources: counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect(),
        rejected_count: told.rejected.len(),
        rejected: rejected.collect(),
        partially_compatible_count: told.partially_compatible.iter().map(|row| row.count).sum(),
        last_failure: told.last_failure.as_ref().map(|it| it.last_error.clone()),
        last_failure_at: told.last_failure.map(|it| it.at),
        last_contact_at: None,
    }
}

fn identity(about: &About, sources: &Sources) -> Option<Identity> {
    let in_force = sources.identity.as_ref()?.borrow();
    let bundle = in_force.bundle.as_ref()?;
    Some(Identity {
        env_id: bundle.env_id.clone(),
        dp_id: bundle.dp_id.clone(),
        instance_id: about.instance.to_string(),
        origin: bundle.origin.to_string(),
        fingerprint_sha256: bundle.fingerprint(),
    })
}

fn certificate(sources: &Sources, now: SystemTime) -> Option<Certificate> {
    let in_force = sources.identity.as_ref()?.borrow();
    let bundle = in_force.bundle.as_ref()?;
    let rotation = sources.rotation.status();
    Some(Certificate {
        not_before: Some(rfc3339(bundle.not_before_unix)),
        expires_at: rfc3339(bundle.not_after_unix),
        expires_in_secs: bundle.not_after_unix.saturating_sub(unix(now)),
        renewal: rotation.renewal.map(str::to_owned),
        next_renewal_at: rotation.next_renewal_at,
        last_rotation_at: rotation.last_rotation_at,
        rotations: rotation.rotations_from_files + rotation.rotations_from_cloud,
        last_rejection_at: rotation.last_rejection_at,
        last_rejection: rotation.last_rejection,
        candidate_waiting: rotation.candidate_waiting,
        new_bundle_needs_restart: rotation.new_bundle_needs_restart,
    })
}

/// The last contact of each channel to the Cloud.
fn channels(
    heartbeat: (Option<String>, Option<String>),
    configuration: &Configuration,
    usage: &Usage,
    budgets: Option<&budget::Status>,
) -> Vec<Channel> {
    let channel = |name: &str, last_contact_at, error| Channel {
        name: name.to_owned(),
        last_contact_at,
        error,
    };
    let lost = configuration.source_connected == Some(false);
    let reason =
        || configuration.last_failure.clone().unwrap_or_else(|| "not connected".to_owned());
    let mut channels = vec![
        channel("heartbeat", heartbeat.0, heartbeat.1),
        channel("configuration", configuration.last_contact_at.clone(), lost.then(reason)),
        channel("usage", usage.last_success_at.clone(), usage.error.clone()),
    ];
    channels.extend(
        budgets.map(|it| channel("budgets", it.last_decision_at.clone(), it.error.clone())),
    );
    channels
}
