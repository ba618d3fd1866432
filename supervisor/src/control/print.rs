//! `aisix status` for people.

use std::fmt::Write;

use super::status::Status;
use crate::sandbox_report::WorkerStatus;

/// Whether what matters is shown in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal.
    On,
    /// Into a file or a pipe, or where `NO_COLOR` is set.
    Off,
}

impl Colour {
    fn red(self, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[1;31m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }

    fn green(self, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[32m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }
}

/// A line with a name in front.
fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a text cannot fail.
    let _ = writeln!(text, "{name:<14} {value}");
}

fn revision(revision: Option<i64>) -> String {
    revision.map_or_else(|| "none".to_owned(), |revision| revision.to_string())
}

/// The whole status as text.
pub fn text(status: &Status, colour: Colour) -> String {
    let mut text = String::new();
    let state = if status.ready { colour.green("ready") } else { colour.red(&status.state) };
    let uptime = duration(status.uptime_secs);
    line(
        &mut text,
        "aisix",
        &format!("{} (pid {}, up {uptime}): {state}", status.version, status.pid),
    );
    let environment = status.environment.as_deref().filter(|environment| !environment.is_empty());
    let environment = environment.map_or_else(String::new, |it| format!(", environment {it}"));
    line(&mut text, "mode", &format!("{}{environment}", status.mode));
    let configuration = &status.configuration;
    let connected = match configuration.source_connected {
        Some(true) => ", source connected",
        Some(false) => ", source not connected",
        None => "",
    };
    line(
        &mut text,
        "configuration",
        &format!(
            "revision {} applied, {} observed{connected}",
            revision(configuration.applied_revision),
            revision(configuration.observed_revision)
        ),
    );
    if let Some(cloud) = &status.cloud {
        let last = cloud.last_heartbeat_at.as_deref().unwrap_or("never");
        let error = cloud.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        line(
            &mut text,
            "cloud",
            &format!("last heartbeat {last}, {} failed{}", cloud.heartbeat_failures, plain(&error)),
        );
    }
    if let Some(certificate) = &status.certificate {
        let renewal = certificate.renewal.as_deref().unwrap_or("unknown");
        let next = certificate.next_renewal_at.as_deref();
        let next = next.map(|at| format!(", next at {at}")).unwrap_or_default();
        line(
            &mut text,
            "certificate",
            &format!("expires at {}, renewal {renewal}{next}", certificate.expires_at),
        );
    }
    let usage = &status.usage;
    let error = usage.error.as_deref().map(|error| format!(": {}", plain(error)));
    line(
        &mut text,
        "usage",
        &format!(
            "{} events wait ({} bytes), {} accepted{}",
            usage.waiting,
            usage.bytes,
            usage.accepted,
            error.unwrap_or_default()
        ),
    );
    let policy = match status.sandbox.policy.as_str() {
        "off" => colour.red("off: WORKERS ARE NOT CONFINED"),
        policy => policy.to_owned(),
    };
    line(&mut text, "sandbox", &policy);
    if status.findings.is_empty() {
        line(&mut text, "findings", "none");
    }
    for finding in &status.findings {
        let told = format!("{} since {}: {}", finding.topic, finding.since, plain(&finding.text));
        line(&mut text, "finding", &told);
    }
    text.push('\n');
    text.push_str(&table(&status.workers, colour));
    text
}

const HEAD: [&str; 10] = [
    "WORKER",
    "ROLE",
    "PID",
    "UID",
    "STATE",
    "SINCE",
    "REVISION",
    "IN FLIGHT",
    "SANDBOX",
    "MISSING",
];

/// The workers, a line each. Colours come after the columns are measured.
fn table(workers: &[WorkerStatus], colour: Colour) -> String {
    let rows: Vec<_> = workers.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or_default();
        longest.max(HEAD.get(column).map_or(0, |head| head.len()))
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    let head = HEAD.map(str::to_owned);
    for (at, cells) in std::iter::once(&head).chain(&rows).enumerate() {
        let level = at.checked_sub(1).and_then(|at| workers.get(at)?.sandbox_level);
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let cell = format!("{cell:<width$}");
            // What is not as confined as it could be must be seen.
            if column >= 8 && level.is_some_and(|level| level < 2) {
                colour.red(&cell)
            } else {
                cell
            }
        });
        let row: Vec<_> = padded.collect();
        text.push_str(row.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(worker: &WorkerStatus) -> [String; 10] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let sandbox = worker
        .sandbox_level
        .map(|level| format!("{level} {}", worker.sandbox.as_deref().unwrap_or_default()));
    [
        worker.id.to_string(),
        worker.role.clone(),
        worker.pid.to_string(),
        or_dash(worker.uid.map(|uid| uid.to_string())),
        worker.state.clone(),
        worker.since.clone(),
        or_dash(worker.revision.map(|revision| revision.to_string())),
        worker.in_flight.to_string(),
        or_dash(sandbox),
        plain(&worker.missing.join("; ")),
    ]
}

/// Words of a worker or a peer: no control character reaches the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

/// `3d 4h`, `5m 6s`: the two largest units.
fn duration(secs: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut left = secs;
    let mut parts = Vec::new();
    for (unit, name) in units {
        let count = left / unit;
        left %= unit;
        if count > 0 || !parts.is_empty() || name == 's' {
            parts.push(format!("{count}{name}"));
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::status::{FindingStatus, Sandbox};
    use super::*;

    fn worker(level: u8, name: &str, missing: &[&str]) -> WorkerStatus {
        WorkerStatus {
            id: 1,
            role: "proxy".to_owned(),
            pid: 7,
            uid: Some(61_000),
            state: "serving".to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            revision: Some(3),
            in_flight: 2,
            sandbox_level: Some(level),
            sandbox: Some(name.to_owned()),
            missing: missing.iter().map(|&reason| reason.to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_not_confined_is_red_on_a_terminal_and_nowhere_else() {
        let status = Status {
            sandbox: Sandbox { policy: "off".to_owned(), level: Some(0) },
            workers: vec![worker(0, "off", &["supervisor.sandbox is off"])],
            ready: true,
            ..Status::default()
        };
        let coloured = text(&status, Colour::On);
        assert!(coloured.contains("\x1b[1;31moff: WORKERS ARE NOT CONFINED"), "{coloured}");
        assert!(coloured.contains("\x1b[1;31m0 off"), "{coloured}");
        let plain = text(&status, Colour::Off);
        assert!(!plain.contains('\x1b') && plain.contains("NOT CONFINED"), "{plain}");
        let confined = Status { workers: vec![worker(3, "full", &[])], ready: true, ..status };
        let confined = Status {
            sandbox: Sandbox { policy: "required".to_owned(), level: Some(3) },
            ..confined
        };
        assert!(!text(&confined, Colour::On).contains("\x1b[1;31m"));
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let told = table(&[worker(3, "full", &[]), worker(2, "most", &["no scopes"])], Colour::Off);
        let lines: Vec<_> = told.lines().collect();
        let at = lines[0].find("MISSING").unwrap();
        assert_eq!(lines[2].find("no scopes"), Some(at), "{told}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        let finding = FindingStatus { text: "a\x1b[2Jb".to_owned(), ..FindingStatus::default() };
        let status = Status { findings: vec![finding], ..Status::default() };
        assert!(!text(&status, Colour::Off).contains('\x1b'));
    }

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (secs, told) in [(0, "0s"), (61, "1m 1s"), (3600, "1h 0m"), (90_061, "1d 1h")] {
            assert_eq!(duration(secs), told);
        }
    }
}
