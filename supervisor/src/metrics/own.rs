//! What the supervisor itself knows of the node, as families to be published beside the workers'.
//!
//! The `aisix_config_*` families and their labels are the published ones; the others are this gateway's own.

use shared::id::Role;

use crate::state::snapshot::SnapshotStatus;

/// A family of the supervisor itself.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnFamily {
    /// Published name.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: OwnKind,
    /// Its samples. A family without any is not published.
    pub samples: Vec<OwnSample>,
}

/// What kind of number a family of the supervisor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnSample {
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// The number itself.
    pub value: f64,
}

/// What is known of the node at one moment. What is `None` is not published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// State of the configuration.
    pub config: ConfigFacts,
    /// State of the worker processes.
    pub workers: Vec<WorkerFacts>,
    /// How well each worker is confined: role, number, level.
    pub sandbox: Vec<(Role, u32, u8)>,
    /// State of the snapshot on disk.
    pub snapshot: Option<SnapshotStatus>,
    /// State of the usage events.
    pub usage: UsageFacts,
    /// Heartbeats that the Cloud did not accept.
    pub heartbeat_failures: u64,
    /// Topics of which something is not as it should be.
    pub findings: Vec<&'static str>,
    /// New bundles that came into force, by where they came from.
    pub bundle_rotations: Vec<(String, u64)>,
    /// New bundles that did not, by reason.
    pub bundle_rejections: Vec<(String, u64)>,
    /// When the certificate in force expires, in seconds since 1970 UTC.
    pub certificate_expires_at_unix: Option<i64>,
    /// Seconds since the supervisor's start.
    pub uptime_seconds: u64,
}

/// State of the usage events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageFacts {
    /// Events that the Cloud has not accepted yet.
    pub waiting: u64,
    /// Events of which only totals wait.
    pub folded: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// Age of the oldest one, in seconds.
    pub oldest_age_seconds: u64,
    /// Events that the Cloud has accepted.
    pub accepted: u64,
    /// Events whose details were dropped.
    pub shed: u64,
    /// Events that the Cloud will never accept.
    pub dead_letters: u64,
}

/// State of the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFacts {
    /// Whether the last load was taken without a rejection.
    pub last_reload_successful: Option<bool>,
    /// When a load last was, in seconds since 1970 UTC.
    pub last_reload_success_at_unix: Option<i64>,
    /// Full loads and fetch failures.
    pub reloads: u64,
    /// Failures by reason: `fetch`, `parse`, `validate`.
    pub reload_failures: Vec<(String, u64)>,
    /// Rejected resources by kind.
    pub rejected: Vec<(String, u64)>,
    /// Resources with unknown fields, by kind.
    pub partially_compatible: Vec<(String, u64)>,
    /// Resources of which an older version is served, by kind.
    pub stale_served: Vec<(String, u64)>,
    /// Revision of the store that was seen last.
    pub observed_revision: Option<i64>,
    /// Revision in force in every worker.
    pub applied_revision: Option<i64>,
    /// Hash of the configuration in force.
    pub hash: Option<String>,
    /// Hashes that were in force before, as many as shall be shown.
    pub former_hashes: Vec<String>,
    /// Whether there is a connection to the store.
    pub source_connected: bool,
}

/// State of the processes of one role.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerFacts {
    /// The role.
    pub role: Role,
    /// Processes that are ready.
    pub up: u64,
    /// Processes started in place of one that had died.
    pub restarts: u64,
}

impl NodeFacts {
    /// The facts as families.
    pub fn families(&self) -> Vec<OwnFamily> {
        let by_role = |count: fn(&WorkerFacts) -> u64| {
            let workers = self.workers.iter();
            workers.map(|of| labelled("role", of.role.name(), count(of))).collect()
        };
        let mut families = Vec::from(self.config.families());
        families.extend(self.snapshot.as_ref().map(snapshot_families).into_iter().flatten());
        families.extend([
            gauge(
                "aisix_workers_up",
                "Worker processes that are ready, by role.",
                by_role(|workers| workers.up),
            ),
            counter(
                "aisix_worker_restarts_total",
                "Worker processes started in place of one that had died, by role.",
                by_role(|workers| workers.restarts),
            ),
            gauge(
                "aisix_sandbox_level",
                "How well a worker is confined: 3 fully, 2 but for lesser parts, 1 partly, 0 not.",
                self.sandbox.iter().map(sandbox_sample).collect(),
            ),
            counter(
                "aisix_heartbeat_failures_total",
                "Heartbeats that the control plane did not accept.",
                number(self.heartbeat_failures),
            ),
            gauge(
                "aisix_findings",
                "Topics of which something is not as it should be; /status/managed says what.",
                self.findings.iter().map(|topic| labelled("topic", topic, 1)).collect(),
            ),
            counter(
                "aisix_bundle_rotations_total",
                "New certificate bundles that came into force, by source.",
                each("source", &self.bundle_rotations),
            ),
            counter(
                "aisix_bundle_rejected_total",
                "New certificate bundles that did not come into force, by reason.",
                each("reason", &self.bundle_rejections),
            ),
            gauge(
                "aisix_certificate_expiry_timestamp_seconds",
                "When the certificate in force expires.",
                optional(self.certificate_expires_at_unix),
            ),
            gauge(
                "aisix_uptime_seconds",
                "Time since the start of the gateway.",
                number(self.uptime_seconds),
            ),
        ]);
        families.extend(self.usage.families());
        families
    }
}

impl UsageFacts {
    fn families(&self) -> [OwnFamily; 7] {
        [
            gauge(
                "aisix_usage_spool_events",
                "Usage events that the control plane has not accepted yet.",
                number(self.waiting),
            ),
            gauge(
                "aisix_usage_spool_folded_events",
                "Usage events of which only totals wait for the control plane.",
                number(self.folded),
            ),
            gauge(
                "aisix_usage_spool_bytes",
                "What waiting usage events take on disk, in bytes.",
                number(self.bytes),
            ),
            gauge(
                "aisix_usage_spool_oldest_age_seconds",
                "Age of the oldest usage event that waits.",
                number(self.oldest_age_seconds),
            ),
            counter(
                "aisix_usage_accepted_total",
                "Usage events that the control plane has accepted.",
                number(self.accepted),
            ),
            counter(
                "aisix_usage_shed_total",
                "Usage events whose details were dropped; their totals are kept.",
                number(self.shed),
            ),
            counter(
                "aisix_usage_dead_letters_total",
                "Usage events that the control plane will not accept, kept in a file.",
                number(self.dead_letters),
            ),
        ]
    }
}

fn snapshot_families(snapshot: &SnapshotStatus) -> [OwnFamily; 5] {
    [
        gauge(
            "aisix_snapshot_revision",
            "Revision of the configuration that is kept on disk.",
            optional(snapshot.revision),
        ),
        gauge(
            "aisix_snapshot_last_write_timestamp_seconds",
            "When the snapshot was last written.",
            optional(snapshot.last_write_at_unix),
        ),
        gauge("aisix_snapshot_bytes", "Size of the snapshot on disk.", number(snapshot.bytes)),
        counter(
            "aisix_snapshot_written_bytes_total",
            "Bytes written to the snapshot and the generation before it.",
            number(snapshot.written_bytes),
        ),
        counter(
            "aisix_snapshot_write_failures_total",
            "Writes of the snapshot that failed.",
            number(snapshot.failures),
        ),
    ]
}

impl ConfigFacts {
    fn families(&self) -> [OwnFamily; 11] {
        let hashes = self.hash.iter().map(|hash| labelled("hash", hash, 1));
        let former = self.former_hashes.iter().map(|hash| labelled("hash", hash, 0));
        [
            gauge(
                "aisix_config_last_reload_successful",
                "Whether the last load of the configuration was taken without a rejection.",
                optional(self.last_reload_successful.map(i64::from)),
            ),
            gauge(
                "aisix_config_last_reload_success_timestamp_seconds",
                "When the configuration was last loaded.",
                optional(self.last_reload_success_at_unix),
            ),
            counter(
                "aisix_config_reloads_total",
                "Full loads of the configuration and failures to fetch it.",
                number(self.reloads),
            ),
            counter(
                "aisix_config_reload_failures_total",
                "Loads of the configuration that failed, by reason.",
                each("reason", &self.reload_failures),
            ),
            gauge(
                "aisix_config_rejected_resources",
                "Resources that are not valid, by kind.",
                each("kind", &self.rejected),
            ),
            gauge(
                "aisix_config_partially_compatible_resources",
                "Resources with fields that this gateway does not know, by kind.",
                each("kind", &self.partially_compatible),
            ),
            gauge(
                "aisix_config_stale_served_resources",
                "Resources of which an older version is served, by kind.",
                each("kind", &self.stale_served),
            ),
            gauge(
                "aisix_config_observed_revision",
                "Revision of the configuration that was seen last.",
                optional(self.observed_revision),
            ),
            gauge(
                "aisix_config_applied_revision",
                "Revision of the configuration in force in every worker.",
                optional(self.applied_revision),
            ),
            gauge(
                "aisix_config_hash_info",
                "Hash of the configuration in force (1) and of former ones (0).",
                hashes.chain(former).collect(),
            ),
            gauge(
                "aisix_config_source_connected",
                "Whether there is a connection to the source of the configuration.",
                number(u64::from(self.source_connected)),
            ),
        ]
    }
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<OwnSample>) -> OwnFamily {
    OwnFamily { name, help, kind: OwnKind::Gauge, samples }
}

fn counter(name: &'static str, help: &'static str, samples: Vec<OwnSample>) -> OwnFamily {
    OwnFamily { name, help, kind: OwnKind::Counter, samples }
}

fn number(value: u64) -> Vec<OwnSample> {
    vec![OwnSample { labels: Vec::new(), value: value as f64 }]
}

fn optional(value: Option<i64>) -> Vec<OwnSample> {
    value.map(|value| OwnSample { labels: Vec::new(), value: value as f64 }).into_iter().collect()
}

fn labelled(name: &'static str, label: &str, value: u64) -> OwnSample {
    OwnSample { labels: vec![(name, label.to_owned())], value: value as f64 }
}

/// Only workers that run have a sample, so that there are never more than processes.
fn sandbox_sample((role, worker, level): &(Role, u32, u8)) -> OwnSample {
    let labels = vec![("role", role.name().to_owned()), ("worker", worker.to_string())];
    OwnSample { labels, value: f64::from(*level) }
}

fn each(name: &'static str, counts: &[(String, u64)]) -> Vec<OwnSample> {
    counts.iter().map(|(label, count)| labelled(name, label, *count)).collect()
}
