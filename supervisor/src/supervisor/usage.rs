//! The rings of workers and the spool, brought together.

use shared::id::WorkerId;
use shared::message::ToWorker;
use tracing::warn;

use super::Supervisor;
use crate::findings::Topic;
use crate::spool::Report;
use crate::spool::ring_file::RingFile;

impl Supervisor {
    pub(super) fn open_ring(&self, id: WorkerId, ring: RingFile, reason: Option<String>) {
        if let Some(reason) = reason {
            self.parts.sources.findings.found(
                Topic::Spool,
                format!("the usage ring of a worker is memory, and lost if this process is killed: no file could be made: {reason}; make room, and the folder ours"),
            );
        }
        self.parts.sources.telemetry.spool().open(id, ring);
    }

    pub(super) fn spooled(&mut self, report: Report) {
        match report {
            Report::Taken(id, sequence) => {
                self.parts.fleet.tell(id, ToWorker::UsageTaken(sequence));
            }
            Report::Misbehaved(id, reason) => {
                warn!(worker = %id, "a worker's usage cannot be taken: {reason}");
                let now = self.now();
                self.parts.fleet.misbehaved(id, now);
            }
            Report::Spent(sums) => {
                for (key, cost_usd) in &sums {
                    self.parts.spend.iter().for_each(|sink| sink.spent(key, *cost_usd));
                }
            }
        }
    }
}
