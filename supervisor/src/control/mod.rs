//! The control socket: how `aisix status`, `doctor`, `log`, `reload`, `rotate` and `upgrade` reach a running gateway.
//!
//! A Unix stream socket that only its owner and the group `aisix` may connect to (mode 0660, or 0600 where there is no such
//! group), so that no stranger's byte reaches the supervisor through it. One connection is one question:
//!
//! ```text
//! client ─► {"command": "status", "state_dir": "/var/lib/aisix"}⏎          at most 4 KiB, within 5 s
//! client ◄─ {"ok": true, "status": {…}}⏎   or   {"ok": true, "report": {…}}⏎   or   {"ok": true, "message": "…"}⏎
//!           or   {"ok": false, "error": "…"}⏎
//! ```
//!
//! `log` carries an `argument`, the filter directives, unless it only asks for those in force. `state_dir` is optional: a gateway of another state directory refuses, so that an order never reaches the wrong one. Bounds,
//! and what happens there: [`CONNECTIONS_MAX`] connections, further ones wait in the kernel's backlog; a request that is longer or
//! slower is answered with an error and closed; orders wait for the supervisor's loop in a queue of as many; an answer that is
//! not taken within the limit is dropped. Every order that changes something is logged with the process, user and group that
//! gave it (`SO_PEERCRED`).
//!
//! `place` decides where the socket stands, `serve` answers, `client` asks, `print` shows `status` to people.

pub mod client;
pub mod place;
pub mod print;
pub mod serve;
pub mod status;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::status::Status;
use crate::doctor;

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 8;
/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// What a running gateway can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Tell how it is.
    Status,
    /// Look for what is wrong, with the gateway's own identity and connections.
    Doctor,
    /// Put other filter directives of the log in force, until the next reload; without any, tell those that are.
    Log,
    /// Do what SIGHUP does.
    Reload,
    /// Ask the Cloud for a new certificate now.
    Rotate,
    /// Hand over to the binaries that are installed now.
    Upgrade,
}

impl Order {
    /// Its word on the command line and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Doctor => "doctor",
            Self::Log => "log",
            Self::Reload => "reload",
            Self::Rotate => "rotate",
            Self::Upgrade => "upgrade",
        }
    }

    /// Whether it changes anything.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Status | Self::Doctor)
    }
}

/// An order on its way to the supervisor's loop, and where the answer is awaited.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub order: Order,
    /// What goes with it: the directives of `log`.
    pub argument: Option<String>,
    /// Takes the answer; nobody may be there any more.
    pub reply: oneshot::Sender<Answer>,
}

/// One request, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is asked.
    pub command: Order,
    /// What goes with it: the directives of `log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
    /// The state directory of the gateway that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
}

/// One answer, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether what was asked was done.
    pub ok: bool,
    /// What was done, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How the gateway is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<doctor::Report>>,
}

impl Answer {
    /// It was done.
    pub fn done(message: impl Into<String>) -> Self {
        Self { ok: true, message: Some(message.into()), ..Self::empty() }
    }

    /// It was not done.
    pub fn refused(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::empty() }
    }

    /// How the gateway is.
    pub fn status(status: Status) -> Self {
        Self { ok: true, status: Some(Box::new(status)), ..Self::empty() }
    }

    /// What is wrong with it.
    pub fn report(report: doctor::Report) -> Self {
        Self { ok: true, report: Some(Box::new(report)), ..Self::empty() }
    }

    fn empty() -> Self {
        Self { ok: false, message: None, error: None, status: None, report: None }
    }
}

impl From<Result<String, String>> for Answer {
    fn from(result: Result<String, String>) -> Self {
        result.map_or_else(Self::refused, Self::done)
    }
}
