//! What the fleet is asked to run: how many workers of which role, with what, and how strictly confined.

use std::net::TcpListener;

use shared::id::Role;
use shared::worker_settings::WorkerSettings;

/// How the workers of one role are started.
#[derive(Debug)]
pub struct Post {
    /// The role.
    pub role: Role,
    /// How many of them.
    pub workers: usize,
    /// The listening socket that they share, if the role has one.
    pub listener: Option<TcpListener>,
    /// What they are told.
    pub settings: WorkerSettings,
}

/// How strictly workers are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Everything, or the worker is not used.
    Required,
    /// What the host has; the rest is reported.
    BestEffort,
    /// Nothing.
    Off,
}

impl Sandbox {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }
}

/// A confinement that `supervisor.sandbox: required` does not accept.
#[derive(Debug, thiserror::Error)]
#[error(
    "supervisor.sandbox is required, but a {role} worker is not fully confined: {missing}; fix the host, or set best-effort"
)]
pub struct Unconfined {
    pub(super) role: Role,
    pub(super) missing: String,
}
