//! What other programs tell: the doctor, which is this one again, and the journal. They run while the rest is gathered, and
//! are ended when the time is over.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::Case;
use super::report::{FILE_BYTES_MAX, Report};
use crate::doctor;

/// How long the doctor may take.
const DOCTOR_LIMIT: Duration = Duration::from_secs(7);
/// How long the journal may take.
const LOG_LIMIT: Duration = Duration::from_secs(4);
/// Lines of the journal.
const LINES: &str = "20000";
/// What is kept of what a program says, in bytes; the end of a log.
const SAID_BYTES_MAX: usize = FILE_BYTES_MAX - 64 * 1024;

/// A program that runs.
pub struct Running {
    child: Child,
    said: Receiver<Vec<u8>>,
}

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (told, said) = mpsc::channel();
        let output = child.stdout.take();
        thread::Builder::new().name("report-reader".to_owned()).spawn(move || {
            let _ = told.send(output.map(end_of).unwrap_or_default());
        })?;
        Ok(Self { child, said })
    }

    /// What it has said, if it ends in time.
    fn finish(mut self, limit: Duration) -> io::Result<String> {
        let said = self.said.recv_timeout(limit);
        // One that has closed its output has ended, or is of no more use.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let bytes = said.map_err(|_| io::Error::other("it took too long, and was ended"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The last of what is said, from the beginning of a line on.
fn end_of(mut output: impl Read) -> Vec<u8> {
    let (mut bytes, mut piece, mut cut) = (Vec::new(), [0; 64 * 1024], false);
    while let Ok(read) = output.read(&mut piece) {
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
        if bytes.len() > 2 * SAID_BYTES_MAX {
            bytes.drain(..bytes.len() - SAID_BYTES_MAX);
            cut = true;
        }
    }
    if bytes.len() > SAID_BYTES_MAX {
        bytes.drain(..bytes.len() - SAID_BYTES_MAX);
        cut = true;
    }
    // Half a secret would not be known.
    let line = if cut { bytes.iter().position(|byte| *byte == b'\n') } else { None };
    bytes.drain(..line.map_or(0, |line| line + 1));
    bytes
}

/// `aisix doctor --json`, as it was called.
pub fn doctor(case: &Case<'_>) -> io::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["doctor", "--json"]);
    for (flag, path) in [("--config", &case.options.config), ("--socket", &case.options.socket)] {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    Running::start(&mut command)
}

/// The journal of the service.
pub fn log() -> io::Result<Running> {
    let arguments = ["-u", "aisix", "-n", LINES, "--no-pager", "-q", "-o", "short-iso-precise"];
    Running::start(Command::new("journalctl").args(arguments))
}

/// Adds what they have said.
pub fn add(
    case: &Case<'_>,
    doctor: io::Result<Running>,
    log: io::Result<Running>,
    report: &mut Report,
) {
    let said = log.and_then(|running| running.finish(case.within(LOG_LIMIT)));
    match said {
        Ok(text) if text.trim().is_empty() => report.missing("log.txt", NO_LOG),
        Ok(text) => report.add("log.txt", &text),
        Err(error) => report.missing("log.txt", format!("journalctl: {error}; {NO_LOG}")),
    }
    let said = doctor.and_then(|running| running.finish(case.within(DOCTOR_LIMIT)));
    let is_report = |text: &String| serde_json::from_str::<doctor::Report>(text).is_ok();
    match said {
        Ok(text) if is_report(&text) => report.add("doctor.json", &text),
        other => {
            let why = other.map_or_else(|error| error.to_string(), |_| "no report".to_owned());
            report.missing("doctor.json", format!("{why}; only this machine was looked at"));
            let local =
                doctor::local::check(case.options.config.as_deref(), case.status.as_deref());
            let local = doctor::diagnose(local.findings);
            let text = serde_json::to_string_pretty(&local).map_err(io::Error::other);
            report.take("doctor.json", text);
        }
    }
}

const NO_LOG: &str = "the journal has nothing of a unit aisix: in a container the log is that of the container (docker logs, kubectl logs), elsewhere it is where standard error goes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_is_said_is_kept_from_the_beginning_of_a_line_on() {
        assert_eq!(end_of(&b"short"[..]), b"short");
        let line = "0123456789".repeat(100) + "\n";
        let all = line.repeat(3 * SAID_BYTES_MAX / line.len());
        let kept = end_of(all.as_bytes());
        assert!(kept.len() <= SAID_BYTES_MAX && kept.len() > SAID_BYTES_MAX - line.len());
        assert!(kept.starts_with(b"0123456789") && kept.len().is_multiple_of(line.len()));
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let running = Running::start(Command::new("sleep").arg("1000")).unwrap();
        let pid = running.child.id();
        assert!(running.finish(Duration::from_millis(10)).is_err());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
