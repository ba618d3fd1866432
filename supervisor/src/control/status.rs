//! What `aisix status` tells, as one document. Its JSON is stable: fields are added, never renamed or removed; what is not
//! known is null; times are RFC 3339, UTC.

use serde::{Deserialize, Serialize};

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
    /// The configuration.
    pub configuration: Configuration,
    /// The connection to the Cloud; null without one.
    pub cloud: Option<Cloud>,
    /// The certificate in force; null without one.
    pub certificate: Option<Certificate>,
    /// Usage events.
    pub usage: Usage,
    /// Confinement as it was asked for.
    pub sandbox: Sandbox,
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
}

/// The certificate in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// When it ends.
    pub expires_at: String,
    /// `auto`, `manual` or `off`.
    pub renewal: Option<String>,
    /// When the Cloud is asked for a new one.
    pub next_renewal_at: Option<String>,
}

/// Usage events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Events that the Cloud has not accepted yet.
    pub waiting: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// Events that it has accepted since the start.
    pub accepted: u64,
    /// Why none is accepted, if so.
    pub error: Option<String>,
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
