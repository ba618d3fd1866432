//! What documents ask for and this gateway does not honour, counted by kind and field.

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;

use crate::cloud::heartbeat::PartiallyCompatible;

/// At most so many kinds and fields are reported.
pub const ROWS_MAX: usize = 1024;

/// Counts documents per field that is not honoured.
#[derive(Debug, Default)]
pub struct Partial {
    counts: BTreeMap<&'static str, BTreeMap<String, u64>>,
    told: BTreeSet<(&'static str, String)>,
}

impl Partial {
    /// A document with these fields is served.
    pub fn add(&mut self, kind: &'static str, fields: &[String]) {
        for field in fields {
            let counts = self.counts.entry(kind).or_default();
            *counts.entry(field.clone()).or_default() += 1;
            if self.told.len() < ROWS_MAX && self.told.insert((kind, field.clone())) {
                warn!("{kind}: `{field}` is not honoured by this gateway");
            }
        }
    }

    /// It is not any more.
    pub fn remove(&mut self, kind: &'static str, fields: &[String]) {
        let Some(counts) = self.counts.get_mut(kind) else { return };
        for field in fields {
            if let Some(count) = counts.get_mut(field) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(field);
                }
            }
        }
    }

    /// The counts, sorted by kind and field.
    pub fn rows(&self) -> Vec<PartiallyCompatible> {
        let rows = self.counts.iter().flat_map(|(kind, counts)| {
            counts.iter().map(|(field, count)| PartiallyCompatible {
                kind: (*kind).to_owned(),
                field: field.clone(),
                count: *count,
            })
        });
        rows.take(ROWS_MAX).collect()
    }
}
