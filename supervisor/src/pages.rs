//! What the status worker serves: made here, from what the supervisor knows, and handed over as sealed memory.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use serde::Serialize;
use shared::counters::Counters;
use shared::id::Revision;
use shared::memory;
use shared::message::{Page, ToWorker};

use crate::changes::QuarantineStatus;
use crate::cloud::budget::{self, Budgets};
use crate::cloud::heartbeat::OutcomeCell;
use crate::cloud::rotation_report::{CertificateStatus, ReportCell, RotationStatus};
use crate::cloud::telemetry::Telemetry;
use crate::cloud::tls::CredentialsInForce;
use crate::cloud::usage_status::UsageStatus;
use crate::control::status::FindingStatus;
use crate::findings::{Finding, Findings, Topic};
use crate::fleet::Summary;
use crate::listener_tls::{self, ListenerTls};
use crate::metrics::{self, Collector, OwnFamily, WorkerFacts};
use crate::model_status;
use crate::node_facts;
use crate::projection::Handle;
use crate::projection::report::{Report, rfc3339};
use crate::sandbox_report::WorkerStatus;
use crate::state::snapshot::{Snapshot, SnapshotStatus};

/// Where pages take their content from.
#[derive(Clone)]
pub struct Sources {
    /// Metrics of all workers.
    pub collector: Rc<RefCell<Collector>>,
    /// State of the configuration.
    pub projection: Handle,
    /// The snapshot, where there is one.
    pub snapshot: Option<Snapshot>,
    /// State of the usage events.
    pub telemetry: Telemetry,
    /// State of the heartbeat.
    pub heartbeat: OutcomeCell,
    /// State of the budgets; `None` where nobody keeps any.
    pub budgets: Option<Budgets>,
    /// What is not as it should be.
    pub findings: Findings,
    /// The identity in force; `None` without a Cloud.
    pub identity: Option<CredentialsInForce>,
    /// Certificate and key of the listener of callers, if they speak TLS.
    pub listener_tls: Option<ListenerTls>,
    /// What became of new identities.
    pub rotation: ReportCell,
    /// Start of this process.
    pub started: Instant,
}

/// The workers at the moment of the question.
pub struct Workers {
    /// How many there are, by role.
    pub facts: Vec<WorkerFacts>,
    /// Each of them.
    pub each: Vec<Summary>,
    /// What proxy workers count together.
    pub counters: Counters,
}

/// The answer to `page`: the message and the body that goes with it. `applied` is what every worker serves.
pub async fn make(
    page: Page,
    sources: &Sources,
    applied: Option<Revision>,
    workers: Workers,
) -> io::Result<(ToWorker, OwnedFd)> {
    let (status, content_type, body) = match page {
        Page::Ready if applied.is_some() => (200, "text/plain; charset=utf-8", "ok".to_owned()),
        Page::Ready => (503, "text/plain; charset=utf-8", "no configuration available".to_owned()),
        Page::Config => {
            let report = report(sources, applied).await?;
            let json = serde_json::to_string(&report.status).map_err(io::Error::other)?;
            (200, "application/json", json)
        }
        Page::Managed => {
            let json =
                serde_json::to_string(&sources.managed(&workers.each)).map_err(io::Error::other)?;
            (200, "application/json", json)
        }
        Page::Models => match sources.projection.models().await {
            Ok(models) => {
                let rows = model_status::rows(&models, workers.counters, SystemTime::now());
                (200, "application/json", serde_json::to_string(&rows).map_err(io::Error::other)?)
            }
            Err(_) => {
                (500, "application/json", r#"{"error_msg":"failed to list models"}"#.to_owned())
            }
        },
        Page::Metrics => {
            let families = families(sources, applied, &workers).await?;
            let text = sources.collector.borrow_mut().render(&families);
            (200, metrics::CONTENT_TYPE, text)
        }
    };
    let memory = memory::sealed("aisix-page", |writer| writer.write_all(body.as_bytes()))?;
    Ok((ToWorker::Page(status, content_type.to_owned()), memory))
}

/// The families of the supervisor itself. `applied` is what every worker serves.
pub async fn families(
    sources: &Sources,
    applied: Option<Revision>,
    workers: &Workers,
) -> io::Result<Vec<OwnFamily>> {
    let report = report(sources, applied).await?;
    let node = node_facts::of(sources, report.gauges, workers);
    let mut families = node.families();
    families.extend(sources.budgets.iter().flat_map(Budgets::families));
    let models = sources.projection.models().await.map_err(io::Error::other)?;
    families.extend(model_status::family(&models, workers.counters, SystemTime::now()));
    families.extend(sources.listener_tls.iter().flat_map(ListenerTls::families));
    Ok(families)
}

/// The body of `/status/managed`: the connection to the Cloud, and what is not as it should be. Times are RFC 3339, UTC.
#[derive(Serialize)]
struct ManagedStatus {
    certificate_expires_at: Option<String>,
    certificate: Option<CertificateStatus>,
    rotation: RotationStatus,
    heartbeat: HeartbeatStatus,
    usage: UsageStatus,
    budgets: Option<budget::Status>,
    snapshot: Option<SnapshotStatus>,
    quarantine: Vec<QuarantineStatus>,
    workers: Vec<WorkerStatus>,
    listener_tls: Option<listener_tls::Status>,
    findings: Vec<FindingStatus>,
}

#[derive(Serialize)]
struct HeartbeatStatus {
    last_success_at: Option<String>,
    failures: u64,
    error: Option<String>,
}

impl Sources {
    /// When the certificate in force ends; `None` without one.
    pub fn certificate_expires_at_unix(&self) -> Option<i64> {
        let in_force = self.identity.as_ref()?.borrow();
        Some(in_force.bundle.as_ref()?.not_after_unix)
    }

    fn managed(&self, workers: &[Summary]) -> ManagedStatus {
        let traffic = self.collector.borrow_mut().traffic(SystemTime::now());
        let (heartbeat, usage) = (self.heartbeat.get(), self.telemetry.report());
        ManagedStatus {
            certificate_expires_at: self.certificate_expires_at_unix().map(rfc3339),
            certificate: self
                .identity
                .as_ref()
                .and_then(|now| CertificateStatus::of(&now.borrow())),
            rotation: self.rotation.status(),
            heartbeat: HeartbeatStatus {
                last_success_at: heartbeat.last_success.map(moment),
                failures: heartbeat.failures,
                error: heartbeat.error,
            },
            usage: UsageStatus::from(usage),
            budgets: self.budgets.as_ref().map(Budgets::status),
            snapshot: self.snapshot.as_ref().map(Snapshot::status),
            quarantine: self.projection.quarantine().status(),
            workers: workers.iter().map(|it| WorkerStatus::of(it, &traffic)).collect(),
            listener_tls: self.listener_tls.as_ref().map(ListenerTls::status),
            findings: finding_statuses(&self.findings),
        }
    }
}

/// Every finding, as it is shown.
pub(crate) fn finding_statuses(findings: &Findings) -> Vec<FindingStatus> {
    let status = |(topic, finding): (Topic, Finding)| FindingStatus {
        topic: topic.name().to_owned(),
        since: moment(finding.since),
        text: finding.text,
    };
    findings.list().into_iter().map(status).collect()
}

pub(crate) fn moment(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rfc3339(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

async fn report(sources: &Sources, applied: Option<Revision>) -> io::Result<Report> {
    sources.projection.report(applied.unwrap_or_default()).await.map_err(io::Error::other)
}
