//! Asks the gateway that runs, if one does. That its socket does not answer is a finding, too.

use std::io::ErrorKind;
use std::time::Duration;

use super::{Fault, Finding, Report, Severity};
use crate::control::client::{self, AskError, Target};
use crate::control::status::Status;
use crate::control::{Answer, Order};

/// A gateway tells how it is within this time.
const STATUS_LIMIT: Duration = Duration::from_millis(1500);
/// It examines itself within this time.
const DOCTOR_LIMIT: Duration = Duration::from_millis(8000);

/// No gateway runs.
pub static DOWN: Fault = Fault {
    code: "daemon-down",
    severity: Severity::Error,
    title: "No gateway runs that answers at its control socket",
    why: "Nothing listens at the control socket, so the gateway was not started, or has ended. What else is found here was looked at without it, through an egress worker of the doctor's own.",
    remedy: "mend what is found beside this, then start it: `systemctl start aisix` (or `aisix --config FILE`); `journalctl -u aisix` says why it ended. If it runs with other settings, name its socket with --socket",
    explains: &[],
};
/// It runs and does not answer.
pub static SILENT: Fault = Fault {
    code: "daemon-silent",
    severity: Severity::Error,
    title: "The gateway runs and does not answer at its control socket",
    why: "The socket takes the connection and nobody answers: the supervisor is stopped, hangs, or has just been killed while its socket is still there. Workers go on serving meanwhile.",
    remedy: "look at its process (`systemctl status aisix`, state T is stopped: send it SIGCONT) and its log; restart it if it does not come back: `systemctl restart aisix`",
    explains: &["daemon-down", "state-in-use", "host-port-in-use"],
};
/// We may not ask.
pub static DENIED: Fault = Fault {
    code: "daemon-denied",
    severity: Severity::Warning,
    title: "This user may not ask the gateway",
    why: "The control socket is for root and members of the group aisix. Without the gateway's own view much cannot be seen here.",
    remedy: "run aisix doctor as root or as a member of the group aisix (`usermod -aG aisix USER`)",
    explains: &["daemon-down", "state-in-use", "host-port-in-use"],
};
/// Another one answers.
pub static OTHER: Fault = Fault {
    code: "daemon-other",
    severity: Severity::Error,
    title: "Another gateway answers than the one that this configuration is for",
    why: "At the control socket answers a gateway with another state directory, and refuses the question. The one that is meant does not run, or listens elsewhere.",
    remedy: "name the configuration of the gateway that you mean with --config, or its socket with --socket; give each gateway a supervisor.control_socket of its own",
    explains: &["daemon-down"],
};
/// It could not examine itself.
pub static UNEXAMINED: Fault = Fault {
    code: "daemon-not-examined",
    severity: Severity::Warning,
    title: "The gateway tells how it is and does not examine itself",
    why: "It answered the question for its status, and not the one for what is wrong: it is busy, ends, or is of another version than this command.",
    remedy: "run aisix doctor again; if it stays, compare `aisix --version` with the version in aisix status, and restart the gateway",
    explains: &[],
};

/// Where a gateway is there.
pub static THERE: &[&Fault] = &[&SILENT, &DENIED, &OTHER];
/// Where it is gone, or of no help.
pub static GONE: &[&Fault] = &[&UNEXAMINED, &DOWN];

/// How the gateway is, or why it does not tell.
pub fn status(target: &Target) -> Result<Box<Status>, Finding> {
    let refused = |fault, evidence| Finding { fault, evidence };
    match client::ask_within(target, Order::Status, None, STATUS_LIMIT) {
        Ok(Answer { ok: true, status: Some(status), .. }) => Ok(status),
        Ok(answer) => Err(refused(&OTHER, answer.error.unwrap_or_default())),
        Err(error) => Err(refused(fault(&error), error.to_string())),
    }
}

/// What the gateway finds.
pub fn report(target: &Target) -> Result<Report, Finding> {
    match client::ask_within(target, Order::Doctor, None, DOCTOR_LIMIT) {
        Ok(Answer { ok: true, report: Some(report), .. }) => Ok(*report),
        Ok(answer) => {
            Err(Finding { fault: &UNEXAMINED, evidence: answer.error.unwrap_or_default() })
        }
        Err(error) => Err(Finding { fault: &UNEXAMINED, evidence: error.to_string() }),
    }
}

fn fault(error: &AskError) -> &'static Fault {
    let is_any = |kinds: &[ErrorKind]| error.kinds.iter().any(|kind| kinds.contains(kind));
    if is_any(&[ErrorKind::PermissionDenied]) {
        &DENIED
    } else if is_any(&[
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
    ]) {
        &SILENT
    } else {
        &DOWN
    }
}
