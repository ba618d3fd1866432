//! `aisix bundle-report`: what a support case needs, in one archive, without secrets. Also while the gateway is down.
//!
//! ```text
//! sources (a file per kind) ─► Report: redacted, bounded, named ─► .tar.gz of mode 0600, with a manifest
//! ```
//! Promises:
//! 1. no secret: sources leave them out, and whatever is written passes the [`redact::Redactor`] as well;
//! 2. a source that fails is a line of the manifest, and never the end of the report;
//! 3. at most [`report::ARCHIVE_BYTES_MAX`], within [`TIME_MAX`]: each source has a limit, and what remains of the time.

mod certificates;
mod commands;
mod configuration;
mod machine;
mod pages;
mod redact;
mod report;
mod state;

use std::fs::OpenOptions;
use std::io::{self, Write, stderr, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use self::report::{Archive, Report};
use crate::control::client::{self, Target};
use crate::control::status::Status;
use crate::control::{Answer, Order};
use crate::doctor::local::environment;
use crate::doctor::local::look::{Environment, Places};
use crate::settings::control;

/// What to gather, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file to write, `-` = standard output; `None` = one with the time in its name, in the current folder.
    pub output: Option<PathBuf>,
    /// The control socket, if it was named.
    pub socket: Option<PathBuf>,
    /// The configuration file of the gateway, if one is known; not known to exist.
    pub config: Option<PathBuf>,
}

/// Everything is gathered within this time; packing takes what is left to ten seconds.
const TIME_MAX: Duration = Duration::from_secs(8);
/// How long the gateway may take to tell how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// What one report has at hand.
struct Case<'a> {
    options: &'a Options,
    status: Option<Box<Status>>,
    environment: Environment,
    until: Instant,
}

impl Case<'_> {
    /// What is left of the time, at most `limit`.
    fn within(&self, limit: Duration) -> Duration {
        self.until.saturating_duration_since(Instant::now()).min(limit)
    }
}

/// Writes the archive, and says what is in it.
pub fn run(options: &Options) -> io::Result<()> {
    let now = OffsetDateTime::now_utc();
    let archive = gather(options, now)?;
    match options.output.as_deref() {
        Some(path) if path == Path::new("-") => {
            stdout().write_all(&archive.bytes)?;
            let _ = stderr().write_all(archive.summary("standard output").as_bytes());
        }
        path => {
            let path = path.map_or_else(|| PathBuf::from(name(now)), Path::to_owned);
            write(&path, &archive.bytes)?;
            let _ = stdout().write_all(archive.summary(&path.display().to_string()).as_bytes());
        }
    }
    Ok(())
}

fn gather(options: &Options, now: OffsetDateTime) -> io::Result<Archive> {
    let until = Instant::now() + TIME_MAX;
    let (target, note) = target(options);
    let answer = client::ask_within(&target, Order::Status, None, STATUS_LIMIT);
    let (status, why) = match answer {
        Ok(Answer { status: Some(status), .. }) => (Some(status), None),
        Ok(answer) => (None, Some(answer.error.unwrap_or_else(|| "no status".to_owned()))),
        Err(error) => (None, Some(error.to_string())),
    };
    let environment =
        environment::of_gateway(status.as_deref(), options.config.as_deref(), &Places::default());
    let case = Case { options, status, environment, until };
    // These take longest: begun first, taken in last.
    let (doctor, log) = (commands::doctor(&case), commands::log());
    let mut report = Report::new(redact::of_case(&case));
    report.missing_if("status.json", why);
    report.missing_if("the place of the control socket", note);
    if let Some(status) = &case.status {
        let text = serde_json::to_string_pretty(status).map_err(io::Error::other);
        report.take("status.json", text);
    }
    configuration::add(&case, &mut report);
    certificates::add(&case, &mut report);
    state::add(&case, &mut report);
    machine::add(&case, &mut report);
    pages::add(&case, &mut report);
    commands::add(&case, doctor, log, &mut report);
    report.pack(now)
}

/// Where to ask; and a remark, if the configuration did not help to find it.
fn target(options: &Options) -> (Target, Option<String>) {
    match (&options.socket, &options.config) {
        (Some(socket), _) => (Target::at(socket), None),
        (None, None) => (Target::unknown(), None),
        (None, Some(config)) => match control::target(config, std::env::vars_os()) {
            Ok(target) => (target, None),
            Err(error) => (Target::unknown(), Some(format!("the usual place was tried: {error}"))),
        },
    }
}

fn name(now: OffsetDateTime) -> String {
    let (date, time) = (now.date(), now.time());
    format!(
        "aisix-report-{:04}{:02}{:02}T{:02}{:02}{:02}Z.tar.gz",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// A new file for its owner only: what is there already is not replaced, and no link is followed.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let failed = |error: io::Error| {
        let kind = error.kind();
        let told =
            format!("cannot write {}: {error}; name another file with --output", path.display());
        io::Error::new(kind, told)
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests;
