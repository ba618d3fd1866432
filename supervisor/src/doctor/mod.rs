//! `aisix doctor`: finds what is wrong, the root cause first, and says what to do about it.
//!
//! Checks (a file per group) look at one thing each and say what they found as [`Finding`]s of known [`Fault`]s: what is wrong
//! (the fault's title), the evidence, the remedy. [`diagnose`] puts the cause in front and sets aside what follows from it.
//! While a gateway runs, it examines itself, with its own identity and connections (`Order::Doctor`); otherwise `aisix doctor`
//! does the same, with an egress worker of its own. Both add what only the command can see.

pub mod local;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// What to examine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The report is printed as JSON.
    pub json: bool,
    /// The control socket, if it was named.
    pub socket: Option<PathBuf>,
    /// The configuration file of the gateway, if one is known; not known to exist.
    pub config: Option<PathBuf>,
}

/// How bad something is; the worst decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, and is worth knowing. Exit status 0.
    Note,
    /// Works, but not as it should, or not for long. Exit status 3.
    Warning,
    /// Does not work. Exit status 4.
    Error,
}

/// Something that can be wrong: an entry of the catalogue, from which the page of remedies is made, too.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name, for programs and for the page of remedies: `cloud-name-unknown`. Never given to another fault.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in a sentence without a full stop.
    pub title: &'static str,
    /// Why it happens, and what it does: a paragraph of the page of remedies.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// Codes of faults that this one brings about, or `group-` and everything that begins with it, if it ends with a dash:
    /// they are set aside where it is found.
    pub explains: &'static [&'static str],
}

/// A fault that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub fault: &'static Fault,
    /// What was seen that says so: which file, which address, which answer. Without secrets.
    pub evidence: String,
}

/// What was found. Its JSON is stable: fields are added, never renamed or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What is wrong, the first cause first.
    pub findings: Vec<Found>,
    /// What follows from the findings before, and goes with them.
    pub set_aside: Vec<Found>,
}

/// A finding, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The name of the fault.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub title: String,
    /// What was seen that says so.
    pub evidence: String,
    /// What to do about it.
    pub remedy: String,
}

/// Every fault that there is, in layers: what comes first may bring about what comes later.
pub fn catalogue() -> Vec<&'static Fault> {
    local::catalogue()
}

/// Puts causes in front, and sets aside what they explain. Pure.
pub fn diagnose(findings: Vec<Finding>) -> Report {
    let findings = findings.into_iter().map(|finding| Found {
        code: finding.fault.code.to_owned(),
        severity: finding.fault.severity,
        title: finding.fault.title.to_owned(),
        evidence: finding.evidence,
        remedy: finding.fault.remedy.to_owned(),
    });
    Report { findings: findings.collect(), set_aside: Vec::new() }
}

/// Examines, and tells what was found.
pub fn run(_options: &Options) -> ExitCode {
    ExitCode::FAILURE
}
