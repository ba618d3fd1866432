//! What is known of the node at one moment, and the families that it comes to.

use shared::id::Role;
use shared::version::{PROTOCOLS, VERSION};

use super::table::{self as of, OWN};
use super::{Counts, Own, OwnFamily};
use crate::process::usage::Usage;
use crate::state::snapshot::SnapshotStatus;

/// What is known of the node at one moment. What is `None` is not published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// State of the configuration.
    pub config: ConfigFacts,
    /// State of the worker processes, by role.
    pub workers: Vec<WorkerFacts>,
    /// Every process of the gateway.
    pub processes: Vec<ProcessFacts>,
    /// State of the snapshot on disk.
    pub snapshot: Option<SnapshotStatus>,
    /// State of the usage events.
    pub usage: UsageFacts,
    /// How the Cloud is reached, by channel.
    pub channels: Vec<ChannelFacts>,
    /// Heartbeats that the Cloud did not accept.
    pub heartbeat_failures: u64,
    /// Every topic, and whether something about it is not as it should be.
    pub findings: Vec<(&'static str, bool)>,
    /// What became of new certificate bundles.
    pub rotation: RotationFacts,
    /// From when to when the certificate in force is valid, in seconds since 1970 UTC.
    pub certificate: Option<(i64, i64)>,
    /// Log lines that were dropped, by role.
    pub log_lines_dropped: Vec<(&'static str, u64)>,
    /// Seconds since the supervisor's start.
    pub uptime_seconds: u64,
}

/// State of the usage events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageFacts {
    /// Events that the Cloud has not accepted yet.
    pub waiting: u64,
    /// Those that are in memory alone.
    pub unwritten: u64,
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
    /// How long revisions took to be served.
    pub propagation: Counts,
    /// Revisions that are not served yet, and for how long the oldest was seen, in seconds.
    pub under_way: (u64, f64),
}

/// State of the processes of one role.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerFacts {
    /// The role.
    pub role: Role,
    /// Processes that are ready.
    pub up: u64,
    /// Processes started in place of one that had ended, by why it had.
    pub restarts: Vec<(&'static str, u64)>,
}

/// One process: a worker, or the supervisor itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessFacts {
    /// What it is for.
    pub role: &'static str,
    /// Its number; `None` of the supervisor.
    pub worker: Option<u32>,
    /// What it uses, as far as the kernel tells.
    pub usage: Usage,
    /// When it was started, in seconds since 1970 UTC.
    pub started_at_unix: i64,
    /// How well it is confined, and by which version of Landlock, once that is known.
    pub sandbox: Option<(u8, u16)>,
    /// Requests in flight, and the revision that it serves: of proxy workers.
    pub serving: Option<(u32, Option<i64>)>,
}

/// How the Cloud is reached on one channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelFacts {
    /// Its name.
    pub name: &'static str,
    /// Whether the latest contact was good; `None` before the first.
    pub is_up: Option<bool>,
    /// When one last was, in seconds since 1970 UTC.
    pub last_success_at_unix: Option<i64>,
    /// Contacts that were not.
    pub failures: u64,
}

/// What became of new certificate bundles. Times are in seconds since 1970 UTC.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RotationFacts {
    /// Those that came into force, by where they came from.
    pub rotations: Vec<(String, u64)>,
    /// Those that did not, by reason.
    pub rejections: Vec<(String, u64)>,
    /// When one last came into force.
    pub last_rotation: Option<i64>,
    /// When one last did not.
    pub last_rejection: Option<i64>,
    /// When the Cloud is asked for the next.
    pub planned: Option<i64>,
    /// Whether one waits for its proof; `None` without a certificate.
    pub is_candidate_waiting: Option<bool>,
}

impl NodeFacts {
    /// The facts as families.
    pub fn families(&self) -> Vec<OwnFamily> {
        let number = |value: u64| value as f64;
        let certificate = self.certificate.unzip();
        let mut families = vec![
            of::BUILD_INFO.each([(vec![VERSION.to_owned(), PROTOCOLS.newest.to_string()], 1.0)]),
            of::UPTIME.number(number(self.uptime_seconds)),
            of::FINDINGS.by(self.findings.iter().map(|(topic, is)| (*topic, f64::from(*is)))),
            counts(&of::LOG_LINES_DROPPED, &self.log_lines_dropped),
            of::WORKERS_UP.by(self.workers.iter().map(|of| (of.role.name(), number(of.up)))),
            of::WORKER_RESTARTS.each(self.workers.iter().flat_map(|of| {
                let row = |(reason, count): &(&str, u64)| {
                    (vec![of.role.name().to_owned(), (*reason).to_owned()], *count as f64)
                };
                of.restarts.iter().map(row)
            })),
            of::CERTIFICATE_START.known(certificate.0.map(moment)),
            of::CERTIFICATE_EXPIRY.known(certificate.1.map(moment)),
            of::HEARTBEAT_FAILURES.number(number(self.heartbeat_failures)),
        ];
        families.extend(process_families(&self.processes));
        families.extend(self.rotation.families());
        families.extend(channel_families(&self.channels));
        families.extend(self.config.families());
        families.extend(self.snapshot.iter().flat_map(snapshot_families));
        families.extend(self.usage.families());
        debug_assert!(families.iter().all(|it| OWN.iter().any(|own| own.name == it.name)));
        families
    }
}

impl UsageFacts {
    fn families(&self) -> [OwnFamily; 8] {
        [
            of::SPOOL_EVENTS.number(self.waiting as f64),
            of::SPOOL_UNWRITTEN.number(self.unwritten as f64),
            of::SPOOL_FOLDED.number(self.folded as f64),
            of::SPOOL_BYTES.number(self.bytes as f64),
            of::SPOOL_AGE.number(self.oldest_age_seconds as f64),
            of::USAGE_ACCEPTED.number(self.accepted as f64),
            of::USAGE_SHED.number(self.shed as f64),
            of::DEAD_LETTERS.number(self.dead_letters as f64),
        ]
    }
}

impl ConfigFacts {
    fn families(&self) -> Vec<OwnFamily> {
        let hashes = self.hash.iter().map(|hash| (hash.clone(), 1.0));
        let former = self.former_hashes.iter().map(|hash| (hash.clone(), 0.0));
        let mut families = vec![
            of::RELOAD_SUCCESSFUL.known(self.last_reload_successful.map(f64::from)),
            of::RELOAD_SUCCESS_TIME.known(self.last_reload_success_at_unix.map(moment)),
            of::RELOADS.number(self.reloads as f64),
            counts(&of::RELOAD_FAILURES, &self.reload_failures),
            counts(&of::REJECTED_RESOURCES, &self.rejected),
            counts(&of::PARTIAL_RESOURCES, &self.partially_compatible),
            counts(&of::STALE_RESOURCES, &self.stale_served),
            of::OBSERVED_REVISION.known(self.observed_revision.map(moment)),
            of::APPLIED_REVISION.known(self.applied_revision.map(moment)),
            of::CONFIG_HASH.by(hashes.chain(former)),
            of::SOURCE_CONNECTED.number(f64::from(self.source_connected)),
            of::UNDER_WAY.number(self.under_way.0 as f64),
            of::UNDER_WAY_AGE.number(self.under_way.1),
        ];
        families.extend(of::PROPAGATION.histogram(&self.propagation));
        families
    }
}

impl RotationFacts {
    fn families(&self) -> [OwnFamily; 7] {
        // In the same second the rejection came later: what is in force is proven first.
        let outcome = self
            .last_rotation
            .max(self.last_rejection)
            .map(|latest| f64::from(self.last_rejection != Some(latest)));
        [
            counts(&of::ROTATIONS, &self.rotations),
            counts(&of::REJECTIONS, &self.rejections),
            of::LAST_ROTATION.known(self.last_rotation.map(moment)),
            of::LAST_REJECTION.known(self.last_rejection.map(moment)),
            of::LAST_OUTCOME.known(outcome),
            of::RENEWAL_PLANNED.known(self.planned.map(moment)),
            of::CANDIDATE_WAITING.known(self.is_candidate_waiting.map(f64::from)),
        ]
    }
}

fn channel_families(channels: &[ChannelFacts]) -> [OwnFamily; 3] {
    let known = |value: fn(&ChannelFacts) -> Option<f64>| {
        channels.iter().filter_map(move |channel| Some((channel.name, value(channel)?)))
    };
    [
        of::CLOUD_UP.by(known(|channel| channel.is_up.map(f64::from))),
        of::CLOUD_SUCCESS.by(known(|channel| channel.last_success_at_unix.map(moment))),
        of::CLOUD_FAILURES.by(known(|channel| Some(channel.failures as f64))),
    ]
}

/// Only processes that run have samples, so that there are never more than processes.
fn process_families(processes: &[ProcessFacts]) -> [OwnFamily; 10] {
    let name =
        |process: &ProcessFacts| process.worker.map_or("none".to_owned(), |it| it.to_string());
    let each = |own: &Own, value: fn(&ProcessFacts) -> Option<f64>| {
        own.each(processes.iter().filter_map(|process| {
            Some((vec![process.role.to_owned(), name(process)], value(process)?))
        }))
    };
    let serving = |own: &Own, value: fn((u32, Option<i64>)) -> Option<f64>| {
        own.by(processes.iter().filter_map(|it| Some((name(it), value(it.serving?)?))))
    };
    [
        each(&of::PROCESS_CPU, |it| it.usage.cpu_seconds),
        each(&of::PROCESS_MEMORY, |it| it.usage.resident_bytes.map(|it| it as f64)),
        each(&of::PROCESS_OPEN_FDS, |it| it.usage.open_descriptors.map(|it| it as f64)),
        each(&of::PROCESS_MAX_FDS, |it| it.usage.descriptors_max.map(|it| it as f64)),
        each(&of::PROCESS_THREADS, |it| it.usage.threads.map(|it| it as f64)),
        each(&of::PROCESS_START, |it| Some(moment(it.started_at_unix))),
        each(&of::SANDBOX_LEVEL, |it| it.sandbox.map(|(level, _)| level.into())),
        each(&of::SANDBOX_LANDLOCK, |it| it.sandbox.map(|(_, abi)| abi.into())),
        serving(&of::WORKER_IN_FLIGHT, |(in_flight, _)| Some(in_flight.into())),
        serving(&of::WORKER_REVISION, |(_, revision)| revision.map(moment)),
    ]
}

fn snapshot_families(snapshot: &SnapshotStatus) -> [OwnFamily; 5] {
    [
        of::SNAPSHOT_REVISION.known(snapshot.revision.map(moment)),
        of::SNAPSHOT_WRITTEN_AT.known(snapshot.last_write_at_unix.map(moment)),
        of::SNAPSHOT_BYTES.number(snapshot.bytes as f64),
        of::SNAPSHOT_WRITTEN.number(snapshot.written_bytes as f64),
        of::SNAPSHOT_FAILURES.number(snapshot.failures as f64),
    ]
}

/// Seconds since 1970, and revisions, are far below what a float holds exactly.
fn moment(value: i64) -> f64 {
    value as f64
}

fn counts<T: AsRef<str>>(own: &Own, counts: &[(T, u64)]) -> OwnFamily {
    own.by(counts.iter().map(|(label, count)| (label.as_ref(), *count as f64)))
}
