//! The exporters of traces: whom the export role is told to send to, and how that goes, for the heartbeat and a finding.
//!
//! An exporter has a number, and another one whenever anything about it changes: what the role tells of a number that nobody
//! has any more is nothing, so that counters begin anew with a changed exporter. What a role tells is its own count; those
//! of the role's former processes are added to it. Pure, but for the text of a reason, which is made harmless here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use serde::Serialize;
use shared::export::{CONFIGURED, EXPORTERS_MAX, Exporting, Health, Numbered, REASON_CHARS_MAX};
use shared::id::WorkerId;
use shared::resource::{Exporter, Kind, Resource};
use shared::update::Change;

/// Tries that fail in a row before somebody should look at it.
const PERSISTENT: u32 = 3;

/// How an exporter of the projection is doing, as a heartbeat tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExporterHealth {
    /// Its name.
    pub name: String,
    /// Batches that were accepted.
    pub delivered_batches: u64,
    /// Tries that failed.
    pub failed_batches: u64,
    /// Why the last one failed.
    pub last_error: Option<String>,
    /// When that was.
    pub last_failure_unix: Option<i64>,
    /// When a batch was accepted last.
    pub last_success_unix: Option<i64>,
}

/// All exporters of the node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Exporters(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    instance_id: String,
    env_id: String,
    /// That of the configuration file, whose number is 0.
    configured: Option<Row>,
    projected: BTreeMap<String, (Numbered, Row)>,
    last_number: u32,
}

/// What is known of an exporter.
#[derive(Debug, Default)]
struct Row {
    /// Delivered and failed, of processes that are gone.
    gone: (u64, u64),
    /// Of those that there are: what each told last.
    told: BTreeMap<WorkerId, Health>,
    /// The latest.
    error: Option<String>,
    failure: Option<i64>,
    success: Option<i64>,
    failed_in_a_row: u32,
}

impl Exporters {
    /// Those of this node; `is_configured`: the configuration file has one.
    pub fn new(instance_id: &str, env_id: &str, is_configured: bool) -> Self {
        Self(Rc::new(RefCell::new(Table {
            instance_id: instance_id.to_owned(),
            env_id: env_id.to_owned(),
            configured: is_configured.then(Row::default),
            ..Table::default()
        })))
    }

    /// Takes in a change of the projection. Whether it changes anything here.
    pub fn apply(&self, whole: bool, changes: &[Change]) -> bool {
        let mut table = self.0.borrow_mut();
        let mut before = if whole { std::mem::take(&mut table.projected) } else { BTreeMap::new() };
        let mut changed = false;
        for change in changes {
            match change {
                Change::Put(resource) => {
                    let Resource::Exporter(exporter) = &**resource else { continue };
                    let known = before.remove(&exporter.id);
                    let known = known.or_else(|| table.projected.remove(&exporter.id));
                    let row = known.filter(|(known, _)| known.exporter == *exporter);
                    changed |= row.is_none();
                    let row = row.unwrap_or_else(|| table.numbered(exporter));
                    table.projected.insert(exporter.id.clone(), row);
                }
                Change::Delete(Kind::Exporter, id) => {
                    changed |= table.projected.remove(id).is_some();
                }
                Change::Delete(..) => {}
            }
        }
        changed || !before.is_empty()
    }

    /// How many export workers are needed.
    pub fn workers(&self) -> usize {
        let table = self.0.borrow();
        usize::from(table.configured.is_some() || !table.projected.is_empty())
    }

    /// What an export worker is told.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let table = self.0.borrow();
        let exporters = table.projected.values().take(EXPORTERS_MAX);
        let exporting = Exporting {
            instance_id: table.instance_id.clone(),
            env_id: table.env_id.clone(),
            exporters: exporters.map(|(numbered, _)| numbered.clone()).collect(),
        };
        exporting.seal()
    }

    /// What an export worker tells.
    pub fn heard(&self, worker: WorkerId, told: Vec<Health>) {
        let mut table = self.0.borrow_mut();
        for health in told.into_iter().take(EXPORTERS_MAX.saturating_add(1)) {
            if let Some(row) = table.row(health.number) {
                row.heard(worker, health);
            }
        }
    }

    /// A worker is gone; most are no export workers.
    pub fn gone(&self, worker: WorkerId) {
        let mut table = self.0.borrow_mut();
        let table = &mut *table;
        let projected = table.projected.values_mut().map(|(_, row)| row);
        for row in projected.chain(&mut table.configured) {
            if let Some(last) = row.told.remove(&worker) {
                let (delivered, failed) = row.gone;
                row.gone =
                    (delivered.saturating_add(last.delivered), failed.saturating_add(last.failed));
            }
        }
    }

    /// For the heartbeat: those of the projection, sorted by name.
    pub fn health(&self) -> Vec<ExporterHealth> {
        let table = self.0.borrow();
        let told = |(numbered, row): &(Numbered, Row)| row.health(&numbered.exporter.name);
        let mut health: Vec<_> = table.projected.values().map(told).collect();
        health.sort_by(|one, other| one.name.cmp(&other.name));
        health
    }

    /// What is wrong, and what to do.
    pub fn finding(&self) -> Option<String> {
        let table = self.0.borrow();
        let configured = table.configured.iter().map(|row| (CONFIGURED, row));
        let projected = table.projected.values();
        let projected = projected.map(|(it, row)| (it.exporter.name.as_str(), row));
        let failing = |(name, row): (&str, &Row)| {
            let reason = row.error.as_deref().unwrap_or("no reason was told");
            (row.failed_in_a_row >= PERSISTENT).then(|| format!("{name}: {reason}"))
        };
        let mut failing: Vec<_> = configured.chain(projected).filter_map(failing).collect();
        if let Some(left_out) = table.projected.len().checked_sub(EXPORTERS_MAX).filter(|n| *n > 0)
        {
            failing.push(format!("{left_out} more than {EXPORTERS_MAX}: they are not served"));
        }
        (!failing.is_empty()).then(|| {
            format!(
                "traces do not reach every exporter, while requests are served as ever ({}); spans wait for a collector \
                 that cannot be reached, up to 4 MiB, and are lost if it refuses them; look at the collector, and at the \
                 exporter's endpoint and headers",
                failing.join("; ")
            )
        })
    }
}

impl Table {
    fn numbered(&mut self, exporter: &Exporter) -> (Numbered, Row) {
        // 0 is that of the configuration file.
        self.last_number = self.last_number.checked_add(1).unwrap_or(1);
        let numbered = Numbered { number: self.last_number, exporter: exporter.clone() };
        (numbered, Row::default())
    }

    fn row(&mut self, number: u32) -> Option<&mut Row> {
        if number == 0 {
            return self.configured.as_mut();
        }
        let mut projected = self.projected.values_mut();
        projected.find(|(numbered, _)| numbered.number == number).map(|(_, row)| row)
    }
}

impl Row {
    fn heard(&mut self, worker: WorkerId, health: Health) {
        self.failed_in_a_row = health.failed_in_a_row;
        self.failure = health.last_failure_unix.or(self.failure);
        self.success = health.last_success_unix.or(self.success);
        if let Some(error) = &health.last_error {
            let plain = error.chars().map(|c| if c.is_control() { ' ' } else { c });
            self.error = Some(plain.take(REASON_CHARS_MAX).collect());
        }
        self.told.insert(worker, Health { last_error: None, ..health });
    }

    fn health(&self, name: &str) -> ExporterHealth {
        let sum = |gone: u64, of: fn(&Health) -> u64| {
            self.told.values().map(of).fold(gone, u64::saturating_add)
        };
        ExporterHealth {
            name: name.to_owned(),
            delivered_batches: sum(self.gone.0, |health| health.delivered),
            failed_batches: sum(self.gone.1, |health| health.failed),
            last_error: self.error.clone(),
            last_failure_unix: self.failure,
            last_success_unix: self.success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(id: &str, name: &str, rate: f64) -> Change {
        Change::Put(Box::new(Resource::Exporter(Exporter {
            id: id.to_owned(),
            name: name.to_owned(),
            endpoint: "https://otel.example/v1/traces".parse().unwrap(),
            headers: Vec::new(),
            sample_rate: rate,
        })))
    }

    fn delete(id: &str) -> Change {
        Change::Delete(Kind::Exporter, id.to_owned())
    }

    fn told(number: u32, delivered: u64, failed: u64, in_a_row: u32) -> Vec<Health> {
        vec![Health {
            number,
            delivered,
            failed,
            failed_in_a_row: in_a_row,
            last_error: (failed > 0).then(|| "refused\n".repeat(100)),
            last_failure_unix: (failed > 0).then_some(5),
            last_success_unix: (delivered > 0).then_some(9),
        }]
    }

    #[test]
    fn the_role_is_needed_from_the_first_exporter_to_the_last_and_always_if_the_file_has_one() {
        let exporters = Exporters::new("i", "e", false);
        assert_eq!(exporters.workers(), 0);
        assert!(exporters.apply(false, &[put("a", "one", 1.0)]));
        assert_eq!(exporters.workers(), 1);
        assert!(!exporters.apply(true, &[put("a", "one", 1.0)]), "it is the same");
        assert!(!exporters.apply(false, &[delete("b")]));
        assert!(exporters.apply(true, &[]));
        assert_eq!(exporters.workers(), 0);
        assert_eq!(Exporters::new("i", "e", true).workers(), 1);
    }

    #[test]
    fn counters_of_all_processes_are_added_and_begin_anew_with_a_changed_exporter() {
        let exporters = Exporters::new("i", "e", false);
        exporters.apply(true, &[put("a", "one", 1.0), put("b", "another", 1.0)]);
        exporters.heard(WorkerId(1), told(1, 5, 2, 0));
        exporters.heard(WorkerId(1), told(1, 6, 2, 0));
        exporters.heard(WorkerId(2), told(1, 1, 0, 0));
        exporters.gone(WorkerId(1));
        exporters.gone(WorkerId(1));
        let health = exporters.health();
        let names: Vec<_> = health.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["another", "one"]);
        assert_eq!((health[1].delivered_batches, health[1].failed_batches), (7, 2));
        assert_eq!((health[1].last_failure_unix, health[1].last_success_unix), (Some(5), Some(9)));
        let error = health[1].last_error.clone().unwrap();
        assert_eq!((error.chars().count(), error.contains('\n')), (REASON_CHARS_MAX, false));

        exporters.apply(false, &[put("a", "one", 0.5)]);
        exporters.heard(WorkerId(2), told(1, 9, 9, 9));
        let changed = exporters.health().remove(1);
        assert_eq!((changed.delivered_batches, changed.last_error), (0, None));
        exporters.heard(WorkerId(2), told(3, 1, 0, 0));
        assert_eq!(exporters.health()[1].delivered_batches, 1);
        exporters.heard(WorkerId(2), told(77, 1, 0, 0));
    }

    #[test]
    fn a_failure_that_lasts_is_a_finding_until_a_batch_gets_through() {
        let exporters = Exporters::new("i", "e", true);
        exporters.apply(true, &[put("a", "one", 1.0)]);
        exporters.heard(WorkerId(1), told(1, 0, 1, 1));
        assert_eq!(exporters.finding(), None);
        exporters.heard(WorkerId(1), told(1, 0, 3, 3));
        exporters.heard(WorkerId(1), told(0, 0, 3, 3));
        let text = exporters.finding().unwrap();
        assert!(text.contains("one: refused") && text.contains(CONFIGURED), "{text}");
        exporters.heard(WorkerId(1), told(1, 1, 3, 0));
        exporters.heard(WorkerId(1), told(0, 1, 3, 0));
        assert_eq!(exporters.finding(), None);
    }

    #[test]
    fn no_more_exporters_are_served_than_there_may_be_and_that_is_told() {
        let exporters = Exporters::new("i", "e", false);
        let many: Vec<_> = (0..40).map(|n| put(&format!("{n:02}"), "x", 1.0)).collect();
        exporters.apply(true, &many);
        let sealed = Exporting::read(exporters.seal().unwrap()).unwrap();
        assert_eq!(sealed.exporters.len(), EXPORTERS_MAX);
        assert!(exporters.finding().unwrap().contains("8 more than 32"));
    }
}
