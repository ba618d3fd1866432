//! What a run has come to: JSON for programs, a table for people, and a picture, in one folder.

mod goals;
mod machine;
mod picture;
mod table;

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::figure::{Figure, Figures};
use crate::rounds::Void;
use crate::streams::UNSURE_MAX;

use goals::Standing;
pub use machine::Machine;

/// Below this the gateways' core had time left, and something else was the limit.
const SATURATED: f64 = 95.0;
/// By so much, as a part, the accounts of processes and of their threads may differ: a tick at the end.
const ACCOUNTS_APART_MAX: f64 = 0.01;
/// The governed gateway, and the same built without a profile of its use.
const WITH_PROFILE: &str = "aisix";
const WITHOUT_PROFILE: &str = crate::peers::PLAIN;
/// The percentage of the gateways' core that the kernel and what is always there may take.
const OTHERS_MAX: f64 = 5.0;

/// Everything that is told.
#[derive(Debug)]
pub struct Report {
    machine: Machine,
    figures: Figures,
    voids: Vec<Void>,
    standings: Vec<Standing>,
    notes: Vec<String>,
}

impl Report {
    /// Of these figures.
    pub fn new(machine: Machine, figures: Figures, voids: Vec<Void>) -> Self {
        let standings = goals::standings(&figures);
        let notes = notes(&figures, &voids);
        Self { machine, figures, voids, standings, notes }
    }

    /// Writes `bench.json`, `bench.md` and `bench.svg`.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("bench.json"), format!("{:#}\n", self.to_json()))?;
        fs::write(folder.join("bench.md"), self.to_table())?;
        fs::write(folder.join("bench.svg"), picture::svg(&self.figures))
    }

    /// For people.
    pub fn to_table(&self) -> String {
        table::markdown(self)
    }

    fn to_json(&self) -> Value {
        let figure = |figure: &Figure| {
            json!({
                "name": figure.name,
                "subject": figure.subject,
                "unit": figure.unit,
                "median": figure.median(),
                "min": figure.min(),
                "max": figure.max(),
                "of_nginx": self.figures.of_nginx(figure),
                "rounds": figure.rounds,
            })
        };
        let void = |void: &Void| json!({"part": void.part, "subject": void.subject, "reason": void.reason});
        json!({
            "machine": self.machine,
            "goals": self.standings,
            "figures": self.figures.all().iter().map(figure).collect::<Vec<_>>(),
            "void": self.voids.iter().map(void).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl Figures {
    /// As a multiple of that of nginx.
    fn of_nginx(&self, figure: &Figure) -> Option<f64> {
        figure.of(self.find(&figure.name, "nginx")?)
    }
}

/// What a reader has to know about the figures.
fn notes(figures: &Figures, voids: &[Void]) -> Vec<String> {
    let mut notes = vec![format!("Void turns: {}.", voids.len())];
    for void in voids {
        notes.push(format!("Void: {} of {}: {}", void.part, void.subject, void.reason));
    }
    let both = |name| figures.median(name, WITH_PROFILE).zip(figures.median(name, WITHOUT_PROFILE));
    if let (Some(cpu), Some(rate)) = (both("cpu_us_per_request"), both("requests_per_s")) {
        notes.push(format!(
            "With the profile of its use {WITH_PROFILE} takes {:.2} of the CPU per request that it takes without ({WITHOUT_PROFILE}), and serves {:.2} of the requests/s.",
            cpu.0 / cpu.1,
            rate.0 / rate.1
        ));
    }
    for figure in figures.all() {
        let Some(median) = figure.median() else { continue };
        let subject = &figure.subject;
        if figure.name == "cpu_us_per_request" {
            let by_threads = figures.median("cpu_us_per_request_by_threads", subject);
            let apart = by_threads.map_or(0.0, |it| (it / median - 1.0).abs());
            if apart > ACCOUNTS_APART_MAX {
                notes.push(format!(
                    "CPU of {subject}: the schedstat of its threads tells a sum that is {:.1} % off that of its processes, which count threads that have ended.",
                    apart * 100.0
                ));
            }
        }
        if figure.name == "core_0_busy" && subject != "direct" && median < SATURATED {
            let other = figures.median("core_1_busy", subject).unwrap_or_default();
            notes.push(format!(
                "Requests/s of {subject} are not its limit: core 0 was busy {median:.0} %, core 1 (load and upstream) {other:.0} %."
            ));
        }
        if figure.name == "core_0_others" && median > OTHERS_MAX {
            notes.push(format!(
                "The machine was not idle: while {subject} was measured, other programs had {median:.0} % of core 0. Times and requests/s mean little."
            ));
        }
        if figure.name == "events_left_out" && median > UNSURE_MAX {
            notes.push(format!(
                "The load had no time on core 1: it came too late to know when {median:.1} % of the events of {subject} came, which are left out."
            ));
        }
        if figure.name == "cores_awake" && median < 1.0 {
            notes.push(format!(
                "The cores could not be kept awake for the gaps of {subject}: what they took to come back from sleep is in them. It takes root and /dev/cpu_dma_latency."
            ));
        }
        if figure.name == "events_sent_late" && median > UNSURE_MAX {
            notes.push(format!(
                "In the sending of {median:.1} % of the events of {subject} the upstream was interrupted, which counts as a delay."
            ));
        }
        if figure.name == "usage_events_behind" && median > 5.0 {
            notes.push(format!(
                "When the load of {subject} ended, {median:.0} % of its usage events were still to be delivered: that is in the CPU per request, not in requests/s."
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (subject, value) in [("nginx", 20.0), ("nginx", 30.0), ("aisix", 50.0)] {
            figures.add("cpu_us_per_request", subject, "us", value);
        }
        figures.add("core_0_busy", "aisix", "%", 60.0);
        figures.add("core_1_busy", "aisix", "%", 100.0);
        figures.add("core_0_busy", "nginx", "%", 99.0);
        figures
    }

    #[test]
    fn the_report_has_medians_spans_ratios_goals_and_what_was_void() {
        let void =
            Void { part: "requests", subject: "nginx".into(), reason: "HTTP/1.1 502".into() };
        let report = Report::new(Machine::default(), figures(), vec![void]);
        let told = report.to_json();
        assert_eq!(told["figures"][1]["of_nginx"], 2.0);
        assert_eq!(
            (&told["figures"][0]["min"], &told["figures"][0]["max"]),
            (&json!(20.0), &json!(30.0))
        );
        assert_eq!(told["void"][0]["reason"], "HTTP/1.1 502");
        assert_eq!(told["goals"][0]["is_met"], false);
        let table = report.to_table();
        for text in
            ["| CPU per request", "25.0 (20.0 to 30.0)", "50.0 (2.00 N)", "not met", "HTTP/1.1 502"]
        {
            assert!(table.contains(text), "{text}: {table}");
        }
    }

    #[test]
    fn what_the_profile_of_use_has_brought_is_told_and_accounts_that_differ() {
        let mut figures = figures();
        figures.add("requests_per_s", "aisix", "1/s", 1200.0);
        figures.add("cpu_us_per_request", "aisix-plain", "us", 62.5);
        figures.add("requests_per_s", "aisix-plain", "1/s", 1000.0);
        figures.add("cpu_us_per_request_by_threads", "aisix", "us", 49.6);
        figures.add("cpu_us_per_request_by_threads", "nginx", "us", 24.0);
        let notes = notes(&figures, &[]).join("\n");
        assert!(notes.contains("takes 0.80 of the CPU"), "{notes}");
        assert!(notes.contains("serves 1.20 of the requests/s"), "{notes}");
        assert!(
            notes.contains("CPU of nginx: the schedstat") && !notes.contains("CPU of aisix:"),
            "{notes}"
        );
    }

    #[test]
    fn requests_per_second_that_the_load_has_limited_are_told() {
        let notes = notes(&figures(), &[]).join("\n");
        assert!(notes.contains("Requests/s of aisix are not its limit"), "{notes}");
        assert!(!notes.contains("of nginx are not"), "{notes}");
    }
}
