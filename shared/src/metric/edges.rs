//! The edges between which a histogram counts.

use super::Latency;

/// Most edges of a histogram.
pub const EDGES_MAX: usize = 64;

/// Published edges of whole requests, in seconds.
const END_TO_END_SECONDS: [f64; 17] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 420.0,
    600.0,
];
/// Published edges of first tokens, in seconds.
const FIRST_TOKEN_SECONDS: [f64; 12] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Published edges of guardrails, in seconds.
const GUARDRAIL_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper edges of a histogram's buckets, ascending, in microseconds: at most [`EDGES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges(Vec<u64>);

impl Edges {
    /// Edges given in seconds, in any order. What is no positive number is left out, and so is what is beyond
    /// [`EDGES_MAX`]. Both sides of the boundary come to the same edges from the same settings.
    pub fn from_seconds(seconds: &[f64]) -> Self {
        let positive = seconds.iter().filter(|edge| edge.is_finite() && **edge > 0.0);
        // A cast from a float saturates.
        let mut edges: Vec<_> = positive.map(|edge| (edge * 1e6).round() as u64).collect();
        edges.sort_unstable();
        edges.dedup();
        edges.truncate(EDGES_MAX);
        Self(edges)
    }

    /// The bucket of a duration: the first whose edge it does not pass, or the one behind the last edge.
    pub fn bucket_of(&self, micros: u64) -> usize {
        self.0.partition_point(|edge| *edge < micros)
    }

    /// The edges in microseconds.
    pub fn micros(&self) -> &[u64] {
        &self.0
    }
}

/// The edges of every histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSets {
    /// Of whole requests.
    pub end_to_end: Edges,
    /// Of first tokens.
    pub first_token: Edges,
    /// Of guardrails.
    pub guardrail: Edges,
}

impl EdgeSets {
    /// Edges as the settings give them, in seconds.
    pub fn from_seconds(end_to_end: &[f64], first_token: &[f64], guardrail: &[f64]) -> Self {
        Self {
            end_to_end: Edges::from_seconds(end_to_end),
            first_token: Edges::from_seconds(first_token),
            guardrail: Edges::from_seconds(guardrail),
        }
    }

    /// The edges of one histogram.
    pub fn of(&self, latency: Latency) -> &Edges {
        match latency {
            Latency::EndToEnd => &self.end_to_end,
            Latency::FirstToken => &self.first_token,
            Latency::Guardrail => &self.guardrail,
        }
    }
}

impl Default for EdgeSets {
    fn default() -> Self {
        Self::from_seconds(&END_TO_END_SECONDS, &FIRST_TOKEN_SECONDS, &GUARDRAIL_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_an_edge_is_below_it() {
        let edges = Edges::from_seconds(&[0.1, 0.5]);
        assert_eq!(edges.bucket_of(0), 0);
        assert_eq!(edges.bucket_of(100_000), 0);
        assert_eq!(edges.bucket_of(100_001), 1);
        assert_eq!(edges.bucket_of(500_001), 2);
    }

    #[test]
    fn any_settings_make_ascending_edges_that_fit() {
        let edges = Edges::from_seconds(&[2.0, f64::NAN, 1.0, -1.0, 2.0, f64::INFINITY]);
        assert_eq!(edges.micros(), [1_000_000, 2_000_000]);
        let many: Vec<_> = (1..100).map(f64::from).collect();
        assert_eq!(Edges::from_seconds(&many).micros().len(), EDGES_MAX);
    }
}
