//! What `aisix status` and the status page tell, as one document. Its JSON is stable: fields are added, never renamed or removed;
//! what is not known is null; times are RFC 3339, UTC.

mod checks;
mod gather;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::checks::{Check, CheckState};
pub use self::gather::Seen;
use crate::cloud::budget;
pub use crate::cloud::usage_status::UsageStatus as Usage;
use crate::sandbox_report::WorkerStatus;

/// How the gateway is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version and build.
    pub version: String,
    /// Process of the supervisor.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// `managed`, `etcd` or `file`.
    pub mode: String,
    /// The environment, where there is one.
    pub environment: Option<String>,
    /// The state directory, where there is one.
    pub state_dir: Option<String>,
    /// Every worker serves, and there is configuration: what `/readyz` answers 200 for.
    pub ready: bool,
    /// `starting`, `waiting` for a first configuration, `ready`, `degraded` (a worker that should serve does not) or
    /// `ending`.
    pub state: String,
    /// The five checks of the managed guide, in its order.
    pub checks: Vec<Check>,
    /// Who the gateway is to the Cloud; null without one.
    pub identity: Option<Identity>,
    /// The configuration.
    pub configuration: Configuration,
    /// The connection to the Cloud; null without one.
    pub cloud: Option<Cloud>,
    /// The certificate in force; null without one.
    pub certificate: Option<Certificate>,
    /// Usage events.
    pub usage: Usage,
    /// Budgets of caller keys; null where nobody keeps any.
    pub budgets: Option<budget::Status>,
    /// Requests.
    pub traffic: Traffic,
    /// Confinement as it was asked for.
    pub sandbox: Sandbox,
    /// The supervisor's own process.
    pub supervisor: Process,
    /// Every worker process.
    pub workers: Vec<WorkerStatus>,
    /// What is not as it should be.
    pub findings: Vec<FindingStatus>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// The latest revision that was seen.
    pub observed_revision: Option<i64>,
    /// The revision that every serving worker has.
    pub applied_revision: Option<i64>,
    /// Whether its source is followed right now; null for a file.
    pub source_connected: Option<bool>,
    /// `etcd` or `file`.
    pub source: String,
    /// `never_loaded`, `out_of_sync`, `degraded`, `empty` or `synced`, as `/status/config` has it.
    pub state: String,
    /// When the applied revision was handed to the workers.
    pub applied_at: Option<String>,
    /// When that revision was seen.
    pub observed_at: Option<String>,
    /// When the source was last there: now, while it is followed.
    pub last_contact_at: Option<String>,
    /// The hash over what is served.
    pub hash: Option<String>,
    /// How many resources are served, by kind.
    pub resources: BTreeMap<String, u64>,
    /// How many resources were rejected; the list below may have fewer.
    pub rejected_count: usize,
    /// Resources that were rejected, at most 20.
    pub rejected: Vec<Rejected>,
    /// Resources with fields that are not honoured.
    pub partially_compatible_count: u64,
    /// The latest failure to load, kept after it is over.
    pub last_failure: Option<String>,
    /// When that was.
    pub last_failure_at: Option<String>,
}

/// A resource that could not be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejected {
    /// Its kind and id.
    pub resource: String,
    /// Why.
    pub reason: String,
    /// For how long an older version is served in its place, in seconds; null where none is.
    pub stale_secs: Option<i64>,
}

/// Who the gateway is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The environment that the certificate names.
    pub env_id: String,
    /// The data plane that it names.
    pub dp_id: Option<String>,
    /// This process, as heartbeats name it.
    pub instance_id: String,
    /// Where the bundle comes from: `supplied`, `persisted` or `renewed`.
    pub origin: String,
    /// SHA-256 of the certificate.
    pub fingerprint_sha256: String,
}

/// Requests since the start of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Answered.
    pub answered: u64,
    /// Answered with a status below 400.
    pub succeeded: u64,
    /// Answered with an error for their upstream's sake, since a request was last seen to have succeeded.
    pub failed_since: u64,
    /// Being answered, as the workers last told.
    pub in_flight: u64,
    /// When a request was last seen to have succeeded.
    pub last_success_at: Option<String>,
}

/// The supervisor's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// How long it has run, in seconds.
    pub uptime_secs: u64,
}

/// The connection to the Cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cloud {
    /// When it last accepted a heartbeat.
    pub last_heartbeat_at: Option<String>,
    /// Heartbeats that it did not accept since the start.
    pub heartbeat_failures: u64,
    /// Why not the latest one, if it failed.
    pub error: Option<String>,
    /// The last contact of each channel to it: `heartbeat`, `configuration`, `usage`, `budgets`.
    pub channels: Vec<Channel>,
}

/// A channel to the Cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Channel {
    /// What it is for.
    pub name: String,
    /// When the Cloud last answered well; null if it has not since the start.
    pub last_contact_at: Option<String>,
    /// Why it does not now; null while it does, and while nothing is to be said.
    pub error: Option<String>,
}

/// The certificate in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// When it begins.
    pub not_before: Option<String>,
    /// When it ends.
    pub expires_at: String,
    /// The same as a time from now, in seconds; negative once it is over.
    pub expires_in_secs: i64,
    /// `auto`, `manual` or `off`.
    pub renewal: Option<String>,
    /// When the Cloud is asked for a new one.
    pub next_renewal_at: Option<String>,
    /// When a new one last came into force, since the start.
    pub last_rotation_at: Option<String>,
    /// How often, since the start.
    pub rotations: u64,
    /// When a new one was last refused, since the start.
    pub last_rejection_at: Option<String>,
    /// Why.
    pub last_rejection: Option<String>,
    /// A new one waits for its proof.
    pub candidate_waiting: bool,
    /// The bundle is supplied as a credential of the service manager: a new one that is supplied needs a restart.
    pub new_bundle_needs_restart: bool,
}

/// Confinement as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// `supervisor.sandbox`.
    pub policy: String,
    /// The level of the least confined worker, see `aisix_sandbox_level`.
    pub level: Option<u8>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FindingStatus {
    /// What it is about.
    pub topic: String,
    /// Since when.
    pub since: String,
    /// What is wrong, and what to do about it.
    pub text: String,
}
