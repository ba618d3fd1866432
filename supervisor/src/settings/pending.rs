//! Keys that this build accepts without acting on them. They are checked all the same: a mistake shows now, rather than on
//! the day when they come into effect.

use regex::{Regex, RegexBuilder};

use super::error::Problem;
use super::observability::edges;
use super::raw::Raw;

/// Limits of the rules that name client programs. As published.
const CLIENT_RULES_MAX: usize = 64;
const PATTERN_BYTES_MAX: usize = 512;
const CLIENT_BYTES_MAX: usize = 64;

/// Whether every pending key can be used one day.
pub fn check(raw: &Raw) -> Result<(), Problem> {
    for key in ["guardrail_latency", "a2a_ttfb"] {
        let key = match key {
            "guardrail_latency" => "observability.metrics.buckets.guardrail_latency",
            _ => "observability.metrics.buckets.a2a_ttfb",
        };
        edges(raw, key)?;
    }
    Ok(())
}
