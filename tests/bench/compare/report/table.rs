//! The report as Markdown: goals first, then a table for each part, a column for each subject.

use std::fmt::Write;

use super::Report;
use crate::figure::{Figure, Figures};

/// Figures by the part that they are shown in, and what they are called there.
const PARTS: &[(&str, &[(&str, &str)])] = &[
    (
        "Requests",
        &[
            ("cpu_us_per_request", "CPU per request, at 64 connections, µs"),
            ("cpu_us_per_request_by_threads", "the same as the threads' schedstat tell, µs"),
            ("cpu_us_per_request_at_1", "CPU per request, at one connection, µs"),
            ("requests_per_s", "requests/s at 64 connections"),
            ("latency_p99_us_at_64", "latency p99 at 64 connections, µs"),
            ("added_p50_us", "added latency p50 at one connection, µs"),
            ("added_p99_us", "added latency p99 at one connection, µs"),
            ("latency_p50_us", "latency p50 at one connection, µs"),
            ("latency_p99_us", "latency p99 at one connection, µs"),
            ("core_0_busy", "core 0 (gateway) busy at 64, %"),
            ("core_0_others", "core 0 used by other programs at 64, %"),
            ("core_1_busy", "core 1 (load, upstream, Cloud) busy at 64, %"),
            ("usage_events_behind", "usage events not yet delivered when the load ends, %"),
        ],
    ),
    (
        "Streams",
        &[
            ("cpu_us_per_event", "CPU per relayed event, µs"),
            ("first_event_p50_us", "first event p50, µs"),
            ("first_event_p99_us", "first event p99, µs"),
            ("added_first_event_p50_us", "added to the first event p50, µs"),
            ("added_first_event_p99_us", "added to the first event p99, µs"),
            (
                "gap_windowed_p99_ms",
                "gap between events beyond the sent one, p99 of a quarter of a second, ms",
            ),
            (
                "added_gap_windowed_p99_ms",
                "added gap between events, p99 of a quarter of a second, ms",
            ),
            ("gap_p99_ms", "gap between events beyond the sent one, p99 of all, ms"),
            ("added_gap_p99_ms", "added gap between events, p99 of all, ms"),
            ("event_delay_p50_us", "event from sent to come p50, µs"),
            ("event_delay_p99_us", "event from sent to come p99, µs"),
            ("events_sent_late", "events that took the upstream 0.1 ms to send, %"),
            ("events_late", "events that it sent 0.1 ms after their time, %"),
            ("events_left_out", "events that the load came too late to time, %"),
            ("core_0_busy_streams", "core 0 busy, %"),
            ("cores_awake", "whether cores were kept awake for the times"),
        ],
    ),
    (
        "A prompt of 20 MB",
        &[
            ("prompt_20mb_ms", "time, ms"),
            ("added_prompt_20mb_ms", "added time, ms"),
            ("prompt_20mb_mb_per_s", "MB/s"),
            ("prompt_20mb_cpu_ms", "CPU, ms"),
            ("prompt_20mb_peak_mib", "memory meanwhile, MiB"),
        ],
    ),
    (
        "Memory, all processes together",
        &[
            ("memory_idle", "idle, MiB"),
            ("memory_per_new_connection", "per connection that has asked nothing yet, KiB"),
            ("memory_per_kept_connection", "per idle connection, KiB"),
            ("memory_per_stream", "per open stream, KiB"),
        ],
    ),
    (
        "Times",
        &[
            ("ready_from_file, root", "exec to ready, from a file, ms"),
            ("ready_from_file, a plain user", "the same as a plain user, ms"),
            ("ready_from_snapshot, root", "exec to ready, managed, ms"),
            ("ready_from_snapshot, a plain user", "the same as a plain user, ms"),
            ("put_to_served_p50_1000", "etcd put to served p50 at 1,000 resources, ms"),
            ("put_to_served_p99_1000", "etcd put to served p99 at 1,000 resources, ms"),
            ("put_to_served_p50_10000", "etcd put to served p50 at 10,000 resources, ms"),
            ("put_to_served_p99_10000", "etcd put to served p99 at 10,000 resources, ms"),
            ("put_to_served_p50_100000", "etcd put to served p50 at 100,000 resources, ms"),
            ("put_to_served_p99_100000", "etcd put to served p99 at 100,000 resources, ms"),
        ],
    ),
    (
        "Scale",
        &[
            ("two_workers_over_one", "two workers on two cores, of one on one"),
            ("cpu_us_per_request_1_worker", "CPU per request with one worker, µs"),
            ("cpu_us_per_request_2_workers", "CPU per request with two, µs"),
            ("busier_worker_share", "the busier worker's part of the connections, %"),
            ("crowd_idle_connections", "idle connections at once"),
            ("crowd_streams_at_once", "streams at once beside them"),
            ("served_before_overload", "requests/s before overload"),
            ("overload_closed_kept", "kept at four times the connections, %"),
            ("overload_closed_refused", "refused then, 1/s"),
            ("overload_closed_p99_ms", "latency p99 of the others, ms"),
            ("served_between_overloads", "requests/s between the two"),
            ("overload_open_kept", "kept at four times the requests, %"),
            ("overload_open_refused", "refused then, 1/s"),
            ("overload_open_p99_ms", "latency p99 of the others, ms"),
            ("served_after_overload", "requests/s after them"),
            ("served_at_connections", "connections at which that is"),
        ],
    ),
];

/// The report.
pub fn markdown(report: &Report) -> String {
    let mut text = String::from("# Side by side\n\n");
    for line in report.machine.lines() {
        let _ = writeln!(text, "- {line}");
    }
    text.push_str("- median of the rounds (least to greatest); N: as a multiple of nginx\n\n");
    text.push_str("| goal | stands at | |\n|---|---|---|\n");
    for standing in &report.standings {
        let value = standing.value.map_or("not measured".into(), number);
        let is_met = standing.is_met.map_or("", |is_met| if is_met { "met" } else { "not met" });
        let _ = writeln!(text, "| {} | {value} | {is_met} |", standing.goal);
    }
    let mut shown = Vec::new();
    for (part, labels) in PARTS {
        shown.extend(labels.iter().map(|(name, _)| *name));
        table(&mut text, part, labels, &report.figures);
    }
    let mut others: Vec<(&str, &str)> = Vec::new();
    for figure in report.figures.all() {
        let name = figure.name.as_str();
        if !shown.contains(&name) && !others.iter().any(|(it, _)| *it == name) {
            others.push((name, name));
        }
    }
    table(&mut text, "More", &others, &report.figures);
    text.push_str("\n## Notes\n\n");
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

fn table(text: &mut String, part: &str, labels: &[(&str, &str)], figures: &Figures) {
    let is_here = |figure: &&Figure| labels.iter().any(|(name, _)| *name == figure.name);
    let mut subjects: Vec<&str> = Vec::new();
    for figure in figures.all().iter().filter(is_here) {
        if !subjects.contains(&figure.subject.as_str()) {
            subjects.push(&figure.subject);
        }
    }
    if subjects.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {part}\n\n| | {} |", subjects.join(" | "));
    let _ = writeln!(text, "|---{}|", "|---".repeat(subjects.len()));
    for (name, label) in labels {
        let cells = subjects.iter().map(|subject| figures.find(name, subject));
        let cells: Vec<_> = cells.map(|figure| figure.map(|it| cell(it, figures))).collect();
        if cells.iter().any(Option::is_some) {
            let cells: Vec<_> = cells.into_iter().map(Option::unwrap_or_default).collect();
            let _ = writeln!(text, "| {label} | {} |", cells.join(" | "));
        }
    }
}

/// `25.0 (20.0 to 30.0; 1.25 N)`.
fn cell(figure: &Figure, figures: &Figures) -> String {
    let (Some(median), Some(min), Some(max)) = (figure.median(), figure.min(), figure.max()) else {
        return String::new();
    };
    let mut more = Vec::new();
    if figure.rounds.len() > 1 {
        more.push(format!("{} to {}", number(min), number(max)));
    }
    if let Some(ratio) =
        figures.of_nginx(figure).filter(|_| figure.subject != "nginx" && figure.unit != "%")
    {
        more.push(format!("{ratio:.2} N"));
    }
    let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join("; ")) };
    format!("{}{more}", number(median))
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
