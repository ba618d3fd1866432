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

use goals::Standing;
pub use machine::Machine;

/// Below this the gateways' core had time left, and something else was the limit.
const SATURATED: f64 = 95.0;
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
    /// The median as a multiple of that of nginx.
    fn of_nginx(&self, figure: &Figure) -> Option<f64> {
        let nginx = self.median(&figure.name, "nginx").filter(|median| *median > 0.0)?;
        Some(figure.median()? / nginx)
    }
}

/// What a reader has to know about the figures.
fn notes(figures: &Figures, voids: &[Void]) -> Vec<String> {
    let mut notes = vec![format!("Void turns: {}.", voids.len())];
    for void in voids {
        notes.push(format!("Void: {} of {}: {}", void.part, void.subject, void.reason));
    }
    for figure in figures.all() {
        let Some(median) = figure.median() else { continue };
        let subject = &figure.subject;
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
    fn requests_per_second_that_the_load_has_limited_are_told() {
        let notes = notes(&figures(), &[]).join("\n");
        assert!(notes.contains("Requests/s of aisix are not its limit"), "{notes}");
        assert!(!notes.contains("of nginx are not"), "{notes}");
    }
}
