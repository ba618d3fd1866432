//! What one look at this machine has at hand: who looks, for which gateway, and what was found so far.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::geteuid;

use super::{Fault, Finding, note};
use crate::accounts;
use crate::control::status::Status;

/// What this user may not look at.
pub static HIDDEN: Fault = note(
    "host-view-limited",
    "not everything can be looked at by this user",
    "The gateway may be well in these: nothing is concluded from what cannot be seen.",
    "run aisix doctor as root, or as the user that runs the gateway, to have these looked at too",
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[&HIDDEN];

/// Who runs the gateway under a unit without root.
const USER: &str = "aisix";

/// Where the machine tells of itself.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// `/etc`.
    pub etc: PathBuf,
    /// Where packages put units.
    pub units: PathBuf,
    /// Where a package keeps its state.
    pub state: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            cgroup: "/sys/fs/cgroup".into(),
            etc: "/etc".into(),
            units: "/usr/lib/systemd/system".into(),
            state: "/var/lib/aisix".into(),
        }
    }
}

/// The variables that the gateway has, as far as they can be known.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Name and value.
    pub variables: Vec<(OsString, OsString)>,
    /// Why they may not be the gateway's, if so.
    pub uncertain: Option<String>,
}

/// One look.
#[derive(Debug)]
pub struct Look<'a> {
    /// The configuration file.
    pub config: Option<&'a Path>,
    /// What the running gateway tells.
    pub gateway: Option<&'a Status>,
    /// The gateway's variables.
    pub environment: Environment,
    /// The time of the look.
    pub now: SystemTime,
    /// Where to look.
    pub places: Places,
    /// The user that looks.
    pub us: u32,
    /// The user that runs the gateway, or would.
    pub runs_as: u32,
    findings: Vec<Finding>,
    hidden: Vec<String>,
}

impl<'a> Look<'a> {
    /// A look that begins.
    pub fn new(
        config: Option<&'a Path>,
        gateway: Option<&'a Status>,
        environment: Environment,
        now: SystemTime,
        places: Places,
    ) -> Self {
        let us = geteuid().as_raw();
        let running = gateway.and_then(|gateway| user_of(&places.proc, gateway.pid));
        let runs_as = running.unwrap_or_else(|| if us == 0 { 0 } else { owner(&places.state, us) });
        Self {
            config,
            gateway,
            environment,
            now,
            places,
            us,
            runs_as,
            findings: Vec::new(),
            hidden: Vec::new(),
        }
    }

    /// Whoever owns the state directory runs the gateway, unless one runs already. Where root looks it is root, or the user
    /// that a unit without root has.
    pub fn settle(&mut self, state: &Path) {
        let owner = owner(state, self.us);
        let is_of_unit = || accounts::user_name(owner).as_deref() == Some(USER);
        if self.gateway.is_none() && (self.us != 0 || is_of_unit()) {
            self.runs_as = owner;
        }
    }

    /// Whether what is refused to us would be refused to the gateway, too.
    pub fn stands_for_gateway(&self) -> bool {
        self.us == self.runs_as
    }

    /// Notes a fault.
    pub fn found(&mut self, fault: &'static Fault, evidence: impl Into<String>) {
        self.findings.push(Finding { fault, evidence: evidence.into() });
    }

    /// Notes what could not be looked at.
    pub fn hidden(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.hidden.contains(&what) {
            self.hidden.push(what);
        }
    }

    /// Whether an error only says that we are not the gateway; then it is noted.
    pub fn is_hidden(&mut self, what: &Path, kind: io::ErrorKind) -> bool {
        let is = kind == io::ErrorKind::PermissionDenied && !self.stands_for_gateway();
        if is {
            self.hidden(format!("{}: permission denied", what.display()));
        }
        is
    }

    /// Everything that was found.
    pub fn into_findings(mut self) -> Vec<Finding> {
        if !self.hidden.is_empty() {
            let evidence = self.hidden.join("; ");
            self.findings.push(Finding { fault: &HIDDEN, evidence });
        }
        self.findings
    }

    /// A file below `/proc` of the gateway, where one runs, else of ourselves.
    pub fn of_gateway(&self, name: &str) -> io::Result<String> {
        let pid = self.gateway.map_or_else(|| "self".to_owned(), |gateway| gateway.pid.to_string());
        fs::read_to_string(self.places.proc.join(pid).join(name))
    }
}

fn owner(path: &Path, otherwise: u32) -> u32 {
    fs::metadata(path).map_or(otherwise, |it| it.uid())
}

/// The effective user of a process: a file's owner would not do, since the supervisor cannot be dumped.
pub fn user_of(proc: &Path, pid: u32) -> Option<u32> {
    let status = fs::read_to_string(proc.join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The name of a process, as the kernel has it.
pub fn name_of(proc: &Path, pid: u32) -> Option<String> {
    let name = fs::read_to_string(proc.join(pid.to_string()).join("comm")).ok()?;
    let clean = name.trim().chars().filter(|it| !it.is_control()).take(32).collect();
    Some(clean)
}

/// A process for people: `1234 (nginx)`.
pub fn shown(proc: &Path, pid: u32) -> String {
    name_of(proc, pid).map_or_else(|| pid.to_string(), |name| format!("{pid} ({name})"))
}
