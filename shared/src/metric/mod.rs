//! The metrics that workers count and the supervisor publishes: which there are, and where their numbers lie.
//!
//! Each worker counts in memory of its own, in slots of 64 bits in the machine's byte order; nobody else writes there. The
//! supervisor reads it when it has to, and adds up the workers. So every number must be one that can be added, or one that says when it was found. Where a
//! series begins is announced by message (`Series`), with its labels; what its slots mean follows from its family.
//!
//! ```text
//! slot 0      how many slots are in use, this one included; those are the first ones
//! counter     1 slot
//! gauge       1 slot, an i64
//! latest      when it was found, in microseconds since 1970, and the number: that of the worker which found it last
//! histogram   the sum, then a count for each edge, then one for what is above all edges (EDGES_MAX + 2 slots)
//! summary     the sum, then for each chunk of buckets the index of its first slot, 0 = not in use (CHUNKS + 1 slots)
//! chunk       a count for each bucket (CHUNK_SLOTS slots)
//! ```
//! Sums of histograms and summaries are in microseconds, so are their values.

mod edges;
pub mod family;
pub mod log_linear;

pub use edges::{EDGES_MAX, EdgeSets, Edges};
pub use family::FAMILIES;

use log_linear::CHUNKS;

/// Slots of one worker. A caller's requests to one model take about 700, mostly for the buckets of their summaries: room for
/// some 3,000 pairs of caller and model. Only what was used takes memory.
pub const SLOTS: usize = 2 * 1024 * 1024;
/// Size of a worker's slots, in bytes.
pub const MEMORY_BYTES: u64 = SLOTS as u64 * 8;
/// Sets of labels that one worker tells apart per family. What comes later is counted with every label [`OTHER`].
pub const SERIES_MAX: usize = 2_000;
/// Longest value of a label, in bytes. A longer one is cut.
pub const LABEL_BYTES_MAX: usize = 256;
/// Bytes that the labels of all series of one worker may take together: some 20,000 series of 15 ids each.
pub const LABELS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Value of a label of which nothing is known.
pub const UNKNOWN: &str = "unknown";
/// Value of every label of a series beyond [`SERIES_MAX`].
pub const OTHER: &str = "other";

/// What the samples of one name have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Position in [`FAMILIES`], by which the two sides speak of it.
    pub number: u16,
    /// Published name.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// What kind of number a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down; the node's value is the sum over its workers.
    Gauge,
    /// Goes up and down, and is the same for all workers: the node's value is what was found last.
    Latest,
    /// Durations counted between configured edges.
    Histogram(Latency),
    /// Durations of which quantiles are published.
    Summary,
}

/// The durations whose edges are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// A request as a whole.
    EndToEnd,
    /// A stream's first token.
    FirstToken,
    /// A guardrail's look.
    Guardrail,
}

impl Kind {
    /// How many slots a series takes where it begins.
    pub const fn slots(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Latest => 2,
            Self::Histogram(_) => EDGES_MAX + 2,
            Self::Summary => CHUNKS + 1,
        }
    }
}

impl Family {
    /// The family of that number.
    pub fn from_number(number: u16) -> Option<&'static Self> {
        FAMILIES.get(usize::from(number)).copied()
    }
}
