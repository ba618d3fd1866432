//! How well each worker is confined, in a number and in words: for `aisix status`, `/status/managed`, the metric
//! `aisix_sandbox_level` and the finding `sandbox`.
//!
//! ```text
//! 3  full      nothing is missing
//! 2  most      system call filter, own user and no capability; part of Landlock is missing, or something of the kind
//! 1  partial   a system call filter, but the supervisor's user, or more privileges than it should have
//! 0  off       no system call filter: supervisor.sandbox is off, or the kernel has none
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::id::Role;

use crate::findings::{Findings, Topic};
use crate::fleet::Sandbox;
use crate::fleet::Summary;
use crate::metrics::Traffic;
use crate::process::inspect::shares_user;

/// How well a worker is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not at all, or without a system call filter, which is as good as that.
    Off,
    /// With privileges or a user that it should not have.
    Partial,
    /// The essential parts.
    Most,
    /// Everything.
    Full,
}

/// What of a worker's confinement there is, as the kernel and the worker tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The system call filter.
    pub filter: bool,
    /// A user of its own, no capability in any set, `no_new_privs`.
    pub unprivileged: bool,
    /// Nothing is missing.
    pub complete: bool,
}

impl Level {
    /// The level of a worker with these parts.
    pub fn of(parts: Parts) -> Self {
        match parts {
            Parts { filter: false, .. } => Self::Off,
            Parts { unprivileged: false, .. } => Self::Partial,
            Parts { complete: false, .. } => Self::Most,
            Parts { complete: true, .. } => Self::Full,
        }
    }

    /// As the metric has it.
    pub fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Partial => 1,
            Self::Most => 2,
            Self::Full => 3,
        }
    }

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Partial => "partial",
            Self::Most => "most",
            Self::Full => "full",
        }
    }
}

/// A running worker, as the status page and `aisix status` show it. What is `None` is not known before its hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub id: u32,
    /// What it is for.
    pub role: String,
    /// Its process.
    pub pid: i32,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// The name of that user, where it is the role's own.
    #[serde(default)]
    pub user: Option<String>,
    /// How long the process has run, in seconds.
    #[serde(default)]
    pub uptime_secs: u64,
    /// How often a worker of its role was started in place of one that ended by itself.
    #[serde(default)]
    pub restarts: u64,
    /// Requests that it has answered; null for roles that answer none.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Where in its life it is.
    pub state: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// The revision it serves.
    pub revision: Option<i64>,
    /// Requests in flight, as it last told.
    pub in_flight: u32,
    /// How well it is confined, as a number.
    pub sandbox_level: Option<u8>,
    /// The same in a word.
    pub sandbox: Option<String>,
    /// What its confinement lacks, in words.
    pub missing: Vec<String>,
}

impl WorkerStatus {
    /// What there is to show of a worker.
    pub fn of(summary: &Summary, traffic: &Traffic) -> Self {
        let answers = summary.role == Role::Proxy;
        Self {
            id: summary.id.0,
            role: summary.role.name().to_owned(),
            pid: summary.pid,
            uid: summary.uid,
            user: summary.user.map(str::to_owned),
            uptime_secs: summary.uptime.as_secs(),
            restarts: summary.restarts,
            requests: answers.then(|| traffic.of(summary.id)),
            state: summary.state.to_owned(),
            since: crate::pages::moment(summary.since),
            revision: summary.revision.map(|revision| revision.0),
            in_flight: summary.in_flight,
            sandbox_level: summary.level.map(Level::number),
            sandbox: summary.level.map(|level| level.name().to_owned()),
            missing: summary.missing.clone(),
        }
    }
}

/// What is said about the confinement of the workers as a whole. A role of which no worker is known at the moment keeps what
/// was said of the last one.
#[derive(Debug)]
pub struct Report {
    policy: Sandbox,
    missing: BTreeMap<Role, Vec<String>>,
}

impl Report {
    /// Of a gateway with that policy: `off` is told at once.
    pub fn new(policy: Sandbox, findings: &Findings) -> Self {
        let report = Self { policy, missing: BTreeMap::new() };
        report.tell(findings);
        report
    }

    /// Takes in what is known now.
    pub fn note(&mut self, workers: &[Summary], findings: &Findings) {
        let mut now: BTreeMap<Role, Vec<String>> = BTreeMap::new();
        for worker in workers.iter().filter(|worker| worker.level.is_some()) {
            let missing = now.entry(worker.role).or_default();
            // Told by the status as what it is: how a container without capabilities runs. Of root it is a fault.
            let shared = worker.uid.filter(|uid| *uid != 0).map(shares_user);
            for reason in worker.missing.iter().filter(|it| shared.as_ref() != Some(it)) {
                if !missing.contains(reason) {
                    missing.push(reason.clone());
                }
            }
        }
        let before = self.missing.clone();
        self.missing.extend(now);
        if self.missing != before {
            self.tell(findings);
        }
    }

    fn tell(&self, findings: &Findings) {
        match text(self.policy, &self.missing) {
            Some(text) => findings.found(Topic::Sandbox, text),
            None => findings.settled(Topic::Sandbox),
        }
    }
}

/// What is told; roles that lack the same are told together.
fn text(policy: Sandbox, missing: &BTreeMap<Role, Vec<String>>) -> Option<String> {
    if policy == Sandbox::Off {
        return Some("WORKERS ARE NOT CONFINED: supervisor.sandbox is off, so whoever takes over a worker has what its user has; set it to best-effort or required".to_owned());
    }
    let mut by_text: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (role, missing) in missing.iter().filter(|(_, missing)| !missing.is_empty()) {
        by_text.entry(missing.join(", ")).or_default().push(role.name());
    }
    if by_text.is_empty() {
        return None;
    }
    let told: Vec<_> =
        by_text.iter().map(|(text, roles)| format!("{}: {text}", roles.join(", "))).collect();
    Some(format!("workers are not fully confined ({}); what is there is in force", told.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_that_of_the_weakest_part() {
        let level = |filter, unprivileged, complete| {
            Level::of(Parts { filter, unprivileged, complete }).number()
        };
        assert_eq!(level(true, true, true), 3);
        assert_eq!(level(true, true, false), 2);
        assert_eq!(level(true, false, true), 1, "a shared user is never full");
        assert_eq!(level(true, false, false), 1);
        assert_eq!(level(false, true, true), 0, "without a filter the rest is of little worth");
        assert_eq!(level(false, false, false), 0);
    }

    #[test]
    fn off_is_a_finding_before_any_worker_is_there() {
        let findings = Findings::default();
        let _report = Report::new(Sandbox::Off, &findings);
        assert!(findings.list()[0].1.text.contains("NOT CONFINED"));
        let findings = Findings::default();
        let _report = Report::new(Sandbox::BestEffort, &findings);
        assert!(findings.list().is_empty());
    }

    #[test]
    fn roles_that_lack_the_same_are_told_together_and_those_that_lack_nothing_are_not_told() {
        let lacks = |reason: &str| vec![reason.to_owned()];
        let missing = BTreeMap::from([
            (Role::Proxy, lacks("no Landlock")),
            (Role::Status, lacks("no Landlock")),
            (Role::Egress, Vec::new()),
        ]);
        let told = text(Sandbox::BestEffort, &missing).unwrap();
        assert!(told.contains("(proxy, status: no Landlock)"), "{told}");
        let nothing = BTreeMap::from([(Role::Egress, Vec::new())]);
        assert_eq!(text(Sandbox::Required, &nothing), None);
    }
}
