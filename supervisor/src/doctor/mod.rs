//! `aisix doctor`: finds what is wrong, the root cause first, and says what to do about it.
//!
//! Checks (a file per group) look at one thing each and say what they found as [`Finding`]s of known [`Fault`]s: what is wrong
//! (the fault's title), the evidence, the remedy. [`diagnose`] puts the cause in front and sets aside what follows from it.
//! While a gateway runs, it examines itself, with its own identity and connections (`Order::Doctor`); otherwise `aisix doctor`
//! does the same, with an egress worker of its own. Both add what only the command can see.

mod asked;
mod causes;
mod egress;
mod examine;
pub mod local;
pub mod network;
mod print;
#[cfg(test)]
mod troubleshooting;

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

pub use self::causes::diagnose;
pub use self::examine::examine;
use crate::cli::ask;
use crate::process;

/// Exit status, if the worst is a warning.
const WARNINGS: u8 = 3;
/// Exit status, if something does not work.
const ERRORS: u8 = 4;

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
    // What the gateway reports of itself follows from what is found here, and not the other way round.
    let (told, seen): (Vec<_>, Vec<_>) =
        local::catalogue().into_iter().partition(|fault| fault.code.starts_with("gateway-"));
    // A gateway that is there holds its ports and its state directory, whether it may be asked or not.
    let first = std::iter::once(&network::CLOCK).chain(asked::THERE.iter().copied());
    let others = network::catalogue().chain(asked::GONE.iter().copied());
    first.chain(seen).chain(others).chain(told).collect()
}

/// Examines, and tells what was found. Exit status 0: nothing, or notes only; 3: warnings; 4: errors; 1: could not examine.
pub fn run(options: &Options) -> ExitCode {
    // Before anything else opens a descriptor: an egress worker of ours knows its own by number.
    let reserved = process::reserve_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, _reserved) = match (runtime, reserved) {
        (Ok(runtime), Ok(reserved)) => (runtime, reserved),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("Error: cannot examine: {error}");
            return ExitCode::FAILURE;
        }
    };
    let report = LocalSet::new().block_on(&runtime, examine(options));
    // A file system that hangs is not waited for.
    runtime.shutdown_background();
    let text = if options.json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        print::text(&report, ask::colour())
    };
    // Not `println!`: a reader that has seen enough is no reason to panic.
    let _ = stdout().write_all(text.as_bytes());
    match report.findings.iter().map(|found| found.severity).max() {
        None | Some(Severity::Note) => ExitCode::SUCCESS,
        Some(Severity::Warning) => ExitCode::from(WARNINGS),
        Some(Severity::Error) => ExitCode::from(ERRORS),
    }
}
