//! The metrics of the node: what every worker counts, added up, and what the supervisor knows itself.
//!
//! 1. Nothing in a worker's memory is believed: it is read as numbers, within bounds, and what one worker can make us keep
//!    is bounded ([`Refusal`] says by what).
//! 2. What only grows never falls while the supervisor lives, neither by what a worker writes nor by its death: the totals
//!    of the dead are kept. What goes up and down dies with its worker.

mod base;
mod by_model;
mod carried;
mod exposition;
mod own;
#[cfg(test)]
mod reference;
mod source;
#[cfg(test)]
mod tests;
mod traffic;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use shared::id::WorkerId;
use shared::memory;
use shared::message::Series;
use shared::metric::{EdgeSets, MEMORY_BYTES};

use base::Base;
use carried::CounterRecord;
use exposition::Exposition;
use source::Source;

pub use by_model::{Durations, ModelTotals};
pub use carried::KeptSeries;
pub use own::{
    ChannelFacts, ConfigFacts, Counts, NodeFacts, Own, OwnFamily, OwnKind, OwnSample, Part,
    ProcessFacts, RotationFacts, UsageFacts, WorkerFacts, table,
};
pub use traffic::Traffic;

/// Content type of what [`Collector::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Why an announced series was not taken. The worker broke the protocol, since it knows the same limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such worker has been started, or it is gone.
    #[error("worker {0} has no metrics")]
    Worker(WorkerId),
    /// A family that is not in the table.
    #[error("unknown metric family {0}")]
    Family(u16),
    /// Not as many labels as the family has.
    #[error("{family} has {expected} labels, {found} were announced")]
    LabelCount {
        /// Name of the family.
        family: &'static str,
        /// How many labels it has.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// A label longer than any may be.
    #[error("{family} was announced with a label that is too long")]
    LabelLength {
        /// Name of the family.
        family: &'static str,
    },
    /// All labels of the worker together are longer than they may be.
    #[error("the labels of all series of the worker are too long together")]
    LabelsBytes,
    /// More sets of labels than a worker may tell apart.
    #[error("{family} was announced with too many sets of labels")]
    TooMany {
        /// Name of the family.
        family: &'static str,
    },
    /// Slots outside of the memory.
    #[error("{family} was announced at slot {first_slot}, outside of the memory")]
    Range {
        /// Name of the family.
        family: &'static str,
        /// Where the series should begin.
        first_slot: u32,
    },
    /// Slots of another series.
    #[error("{family} was announced at slot {first_slot}, which another series has")]
    Overlap {
        /// Name of the family.
        family: &'static str,
        /// Where the series should begin.
        first_slot: u32,
    },
}

/// Memory for a new worker to count in.
pub fn new_memory() -> io::Result<OwnedFd> {
    memory::fixed_size("aisix-metrics", MEMORY_BYTES)
}

/// Adds up what all workers count.
#[derive(Debug)]
pub struct Collector {
    edges: EdgeSets,
    live: BTreeMap<WorkerId, Source>,
    dead: Base,
    /// What the program before this one had counted itself.
    before: Vec<CounterRecord>,
    /// Requests that had succeeded when they were last looked at, and when they last had become more.
    succeeded: u64,
    /// Requests that upstreams had failed by then.
    failed_before: u64,
    last_success: Option<SystemTime>,
}

impl Collector {
    /// A collector of no workers yet. The edges are those that the workers are told, in seconds.
    pub fn new(e2e_buckets: &[f64], ttft_buckets: &[f64], guardrail_buckets: &[f64]) -> Self {
        let edges = EdgeSets::from_seconds(e2e_buckets, ttft_buckets, guardrail_buckets);
        Self {
            edges,
            live: BTreeMap::new(),
            dead: Base::default(),
            before: Vec::new(),
            succeeded: 0,
            failed_before: 0,
            last_success: None,
        }
    }

    /// A worker was born with `memory`, of [`new_memory`], to count in.
    pub fn worker_started(&mut self, worker: WorkerId, memory: OwnedFd) {
        self.live.insert(worker, Source::new(memory));
    }

    /// A worker has taken a series into use.
    pub fn announce(&mut self, worker: WorkerId, series: Series) -> Result<(), Refusal> {
        self.live.get_mut(&worker).ok_or(Refusal::Worker(worker))?.announce(series)
    }

    /// A worker is dead, and every message of it has been handled.
    pub fn worker_gone(&mut self, worker: WorkerId) {
        let Some(mut source) = self.live.remove(&worker) else { return };
        refresh(worker, &mut source);
        for series in source.series() {
            self.dead.keep(series);
        }
    }

    /// The metrics as text: what every worker counts, and the supervisor's `own`.
    pub fn render(&mut self, own: &[OwnFamily]) -> String {
        let by_worker = self.requests_by_worker(SystemTime::now());
        for (worker, source) in &mut self.live {
            refresh(*worker, source);
        }
        let mut merged = self.dead.totals();
        for series in self.live.values().flat_map(Source::series) {
            let key = (series.family.number, series.labels.as_slice());
            let (_, values) = merged
                .entry(key)
                .or_insert_with(|| (series.family, values::Values::zero(series.family.kind)));
            values.add(&series.values);
        }
        let mut exposition = Exposition::default();
        for ((_, labels), (family, values)) in merged {
            exposition.series(family, labels, &values, &self.edges);
        }
        own.iter().for_each(|family| exposition.own(family, &self.before));
        exposition.own(&by_worker, &[]);
        exposition.finish()
    }
}

fn refresh(worker: WorkerId, source: &mut Source) {
    if let Err(error) = source.refresh() {
        tracing::warn!(%worker, %error, "cannot read a worker's metrics, its last numbers stay");
    }
}
