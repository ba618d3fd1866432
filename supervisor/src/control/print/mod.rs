//! `aisix status` for people: within 80 columns, what matters first.

pub(crate) mod layout;

use shared::id::Role;

pub use self::layout::{Colour, Tone};
use self::layout::{Sheet, bytes, duration};
use super::status::{CheckState, Configuration, Status};
use crate::bundle::source::AS_CREDENTIAL;
use crate::cloud::budget;
use crate::sandbox_report::WorkerStatus;

/// The whole status as text.
pub fn text(status: &Status, colour: Colour) -> String {
    let mut sheet = Sheet::new(colour);
    let tone = if status.ready { Tone::Good } else { Tone::Bad };
    let state = colour.paint(tone, &status.state);
    let uptime = duration(status.uptime_secs);
    sheet.line(&format!("aisix {}: {state}, {}, up {uptime}", status.version, status.mode));
    checks(&mut sheet, status);
    findings(&mut sheet, status);
    identity(&mut sheet, status);
    configuration(&mut sheet, &status.configuration);
    processes(&mut sheet, status);
    usage(&mut sheet, status);
    budgets(&mut sheet, status.budgets.as_ref());
    cloud(&mut sheet, status);
    sheet.finish()
}

fn checks(sheet: &mut Sheet, status: &Status) {
    sheet.head("CHECKS");
    for check in &status.checks {
        let (mark, tone) = match check.state {
            CheckState::Ok => ("✓ ", Tone::Good),
            CheckState::Waiting => ("… ", Tone::Plain),
            CheckState::Warning => ("! ", Tone::Odd),
            CheckState::Failed => ("✗ ", Tone::Bad),
            CheckState::Off => ("- ", Tone::Plain),
        };
        sheet.marked(mark, tone, &check.name, &check.evidence);
    }
}

fn findings(sheet: &mut Sheet, status: &Status) {
    if status.findings.is_empty() {
        return;
    }
    sheet.head("FINDINGS");
    for finding in &status.findings {
        let told = format!("since {}: {}", finding.since, finding.text);
        sheet.marked("! ", Tone::Odd, &finding.topic.replace('_', " "), &told);
    }
}

fn identity(sheet: &mut Sheet, status: &Status) {
    if let Some(identity) = &status.identity {
        sheet.head("IDENTITY");
        sheet.entry("environment", &identity.env_id);
        sheet.entry("data plane", identity.dp_id.as_deref().unwrap_or("not named"));
        sheet.entry("instance", &identity.instance_id);
    }
    let Some(certificate) = &status.certificate else { return };
    let origin = status.identity.as_ref().map(|it| it.origin.as_str()).unwrap_or_default();
    let left = match u64::try_from(certificate.expires_in_secs) {
        Ok(secs @ 1..) => format!("expires in {}", duration(secs)),
        _ => "HAS EXPIRED".to_owned(),
    };
    sheet.entry("certificate", &format!("{left}, at {}, {origin}", certificate.expires_at));
    let renewal = certificate.renewal.as_deref().unwrap_or("not known yet");
    let planned = certificate.next_renewal_at.as_deref();
    let planned = planned.map(|at| format!(", planned for {at}")).unwrap_or_default();
    sheet.entry("renewal", &format!("{renewal}{planned}"));
    if certificate.new_bundle_needs_restart {
        sheet.entry("source", AS_CREDENTIAL);
    }
    let rotated = match &certificate.last_rotation_at {
        Some(at) => format!("in force since {at}, {} since the start", certificate.rotations),
        None => "none since the start".to_owned(),
    };
    let waiting =
        if certificate.candidate_waiting { "; a new one waits for its proof" } else { "" };
    sheet.entry("last rotation", &format!("{rotated}{waiting}"));
    if let (Some(at), Some(why)) = (&certificate.last_rejection_at, &certificate.last_rejection) {
        sheet.entry("last refused", &format!("{at}: {why}"));
    }
}

fn revision(revision: Option<i64>) -> String {
    revision.map_or_else(|| "none".to_owned(), |revision| revision.to_string())
}

fn configuration(sheet: &mut Sheet, configuration: &Configuration) {
    sheet.head("CONFIGURATION");
    let connected = match configuration.source_connected {
        Some(true) => ", connected",
        Some(false) => ", NOT CONNECTED",
        None => "",
    };
    let told = format!(
        "{} applied, {} observed, source {}{connected}",
        revision(configuration.applied_revision),
        revision(configuration.observed_revision),
        configuration.source
    );
    sheet.entry("revision", &told);
    let counts = configuration.resources.iter().filter(|(_, count)| **count > 0);
    let counts: Vec<_> = counts.map(|(kind, count)| format!("{kind} {count}")).collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    sheet.entry("resources", &counts);
    for rejected in &configuration.rejected {
        let stale = rejected.stale_secs.and_then(|secs| u64::try_from(secs).ok());
        let stale = stale.map_or_else(String::new, |secs| {
            format!(" (the one before is served for {})", duration(secs))
        });
        sheet.entry("rejected", &format!("{}: {}{stale}", rejected.resource, rejected.reason));
    }
    let more = configuration.rejected_count.saturating_sub(configuration.rejected.len());
    if more > 0 {
        sheet.entry("", &format!("and {more} more, see /status/config"));
    }
    if configuration.source_connected == Some(false)
        && let Some(failure) = &configuration.last_failure
    {
        sheet.entry("source", failure);
    }
}

fn processes(sheet: &mut Sheet, status: &Status) {
    sheet.head("PROCESSES");
    let user = |worker: &WorkerStatus| match (&worker.user, worker.uid) {
        (Some(name), _) => name.clone(),
        (None, Some(uid)) => uid.to_string(),
        (None, None) => "-".to_owned(),
    };
    let own = &status.supervisor;
    let supervisor = [
        "supervisor".to_owned(),
        "-".to_owned(),
        own.pid.to_string(),
        if own.uid == 0 { "root".to_owned() } else { own.uid.to_string() },
        status.state.clone(),
        "-".to_owned(),
        duration(own.uptime_secs),
        "-".to_owned(),
    ];
    let row = |worker: &WorkerStatus| {
        let level = worker
            .sandbox_level
            .map(|level| format!("{level} {}", worker.sandbox.as_deref().unwrap_or_default()));
        [
            worker.role.clone(),
            worker.id.to_string(),
            worker.pid.to_string(),
            user(worker),
            worker.state.clone(),
            level.unwrap_or_else(|| "-".to_owned()),
            duration(worker.uptime_secs),
            String::new(),
        ]
    };
    let mut workers: Vec<&WorkerStatus> = status.workers.iter().collect();
    let rank = |worker: &WorkerStatus| Role::from_name(&worker.role);
    workers.sort_by_key(|worker| (rank(worker), worker.id));
    let mut rows: Vec<_> =
        std::iter::once(supervisor).chain(workers.iter().copied().map(row)).collect();
    // What is counted by role stands in its first line.
    let mut before = "";
    for (worker, row) in workers.iter().zip(rows.iter_mut().skip(1)) {
        if worker.role != before
            && let Some(cell) = row.last_mut()
        {
            *cell = worker.restarts.to_string();
        }
        before = &worker.role;
    }
    let worker = |row: usize| row.checked_sub(1).and_then(|at| workers.get(at));
    let heads = ["ROLE", "ID", "PID", "USER", "STATE", "SANDBOX", "UP", "RESTARTS"];
    sheet.table(heads, &rows, |row, column| match (worker(row), column) {
        // What is not as confined as it could be must be seen.
        (Some(worker), 5) if worker.sandbox_level.is_some_and(|level| level < 2) => Tone::Bad,
        (Some(worker), 4) if worker.state != "serving" => Tone::Odd,
        _ => Tone::Plain,
    });
    let proxies: Vec<_> = workers.iter().filter(|it| it.requests.is_some()).collect();
    let served = |worker: &&&WorkerStatus| {
        [
            worker.id.to_string(),
            revision(worker.revision),
            worker.requests.unwrap_or_default().to_string(),
            worker.in_flight.to_string(),
        ]
    };
    let rows: Vec<_> = proxies.iter().map(served).collect();
    let applied = status.configuration.applied_revision;
    sheet.line("");
    sheet.table(["PROXY", "REVISION", "REQUESTS", "IN FLIGHT"], &rows, |row, column| {
        let behind = proxies.get(row).is_some_and(|worker| worker.revision < applied);
        if column == 1 && behind { Tone::Odd } else { Tone::Plain }
    });
    if status.sandbox.policy == "off" {
        let told =
            sheet.colour.paint(Tone::Bad, "  supervisor.sandbox is off: WORKERS ARE NOT CONFINED");
        sheet.line(&told);
    }
    let mut told: Vec<&str> = Vec::new();
    for reason in status.workers.iter().flat_map(|worker| &worker.missing) {
        if !told.contains(&reason.as_str()) {
            told.push(reason);
            sheet.entry("not confined", reason);
        }
    }
}

fn usage(sheet: &mut Sheet, status: &Status) {
    sheet.head("USAGE");
    let traffic = &status.traffic;
    let failed = traffic.answered.saturating_sub(traffic.succeeded);
    let told = format!(
        "{} answered, {failed} of them failed, {} in flight",
        traffic.answered, traffic.in_flight
    );
    sheet.entry("requests", &told);
    if status.cloud.is_none() {
        return;
    }
    let usage = &status.usage;
    let oldest = usage.oldest_age_secs.map(|age| format!(", the oldest for {}", duration(age)));
    let told =
        format!("{} events, {}{}", usage.waiting, bytes(usage.bytes), oldest.unwrap_or_default());
    sheet.entry("spool", &told);
    let last = usage.last_success_at.as_deref().unwrap_or("none yet");
    sheet.entry("accepted", &format!("{} events, the last at {last}", usage.accepted));
    if usage.shed > 0 || usage.waiting_as_totals > 0 || usage.dead_letters > 0 {
        let told = format!(
            "details of {} events, of which {} wait as totals; {} refused for good",
            usage.shed, usage.waiting_as_totals, usage.dead_letters
        );
        sheet.entry("shed", &told);
    }
    if let Some(error) = &usage.error {
        sheet.entry("error", error);
    }
}

fn budgets(sheet: &mut Sheet, budgets: Option<&budget::Status>) {
    let Some(budgets) = budgets else { return };
    sheet.head("BUDGETS");
    let oldest =
        budgets.oldest_in_use_seconds.map(|age| format!(", the oldest in use {age:.0} s old"));
    let told = format!(
        "{} of {} keys, {} in use, {} may not spend{}",
        budgets.decided,
        budgets.keys,
        budgets.in_use,
        budgets.denied,
        oldest.unwrap_or_default()
    );
    sheet.entry("decisions", &told);
    let modes = format!(
        "open {}, closed {}, sticky {}; keys without a decision: {}",
        budgets.fail_open, budgets.fail_closed, budgets.fail_sticky, budgets.unknown_keys
    );
    let told = match budgets.cloud.as_str() {
        "away" => format!(
            "in force for decisions older than {}: {modes}",
            duration(budgets.stale_after_secs)
        ),
        _ => format!("not in force, the Cloud decides ({modes})"),
    };
    sheet.entry("fail mode", &told);
    if let Some(error) = &budgets.error {
        sheet.entry("error", error);
    }
}

fn cloud(sheet: &mut Sheet, status: &Status) {
    let Some(cloud) = &status.cloud else { return };
    sheet.head("CLOUD");
    for channel in &cloud.channels {
        let last = channel.last_contact_at.as_deref();
        let last =
            last.map_or_else(|| "no contact yet".to_owned(), |at| format!("last contact {at}"));
        match &channel.error {
            None => sheet.entry(&channel.name, &last),
            Some(error) => {
                sheet.marked("✗ ", Tone::Bad, &channel.name, &format!("{last}: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Check, FindingStatus, Sandbox};
    use super::layout::WIDTH;
    use super::*;

    fn worker(level: u8, name: &str, missing: &[&str]) -> WorkerStatus {
        WorkerStatus {
            id: 1,
            role: "proxy".to_owned(),
            pid: 4_194_304,
            uid: Some(61_000),
            user: Some("aisix-worker".to_owned()),
            uptime_secs: 90_061,
            restarts: 3,
            requests: Some(5),
            state: "draining".to_owned(),
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
    fn no_line_is_wider_than_a_terminal_of_80_columns() {
        let long = "word ".repeat(60) + &"x".repeat(200);
        let status = Status {
            workers: vec![worker(2, "partial", &[&long])],
            findings: vec![FindingStatus { text: long.clone(), ..FindingStatus::default() }],
            checks: vec![Check { evidence: long, ..Check::default() }],
            ..Status::default()
        };
        let told = text(&status, Colour::Off);
        for line in told.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
    }

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        let finding = FindingStatus { text: "a\x1b[2Jb".to_owned(), ..FindingStatus::default() };
        let status = Status { findings: vec![finding], ..Status::default() };
        assert!(!text(&status, Colour::Off).contains('\x1b'));
    }
}
