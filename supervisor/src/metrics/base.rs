//! What workers that are gone have counted.

use std::collections::BTreeMap;

use shared::metric::{FAMILIES, Family, Kind, LABELS_BYTES_MAX, OTHER, SERIES_MAX};

use super::source::Counted;
use super::values::Values;

/// Series by family number and labels.
pub(super) type Merged<'a> = BTreeMap<(u16, &'a [String]), (&'static Family, Values)>;

/// The totals of the dead. Bounded like a live worker's series, since workers that have been taken over may die again and
/// again with ever new labels: what is beyond is added to the series whose labels are all [`OTHER`].
#[derive(Debug)]
pub(super) struct Base {
    totals: [BTreeMap<Vec<String>, Values>; FAMILIES.len()],
    labels_bytes: usize,
}

impl Default for Base {
    fn default() -> Self {
        Self { totals: std::array::from_fn(|_| BTreeMap::new()), labels_bytes: 0 }
    }
}

impl Base {
    /// Keeps what a dead worker has counted in a series, if it is a number that only grows.
    pub(super) fn keep(&mut self, series: &Counted) {
        self.add(series.family, &series.labels, &series.values);
    }

    /// Adds what was kept before the program was replaced.
    pub(super) fn add(&mut self, family: &'static Family, labels: &[String], values: &Values) {
        let totals = self.totals.get_mut(usize::from(family.number));
        let Some(totals) = totals.filter(|_| !matches!(family.kind, Kind::Gauge | Kind::Latest))
        else {
            return;
        };
        if let Some(total) = totals.get_mut(labels) {
            return total.add(values);
        }
        let bytes = labels.iter().map(String::len).sum::<usize>();
        let labels_bytes = self.labels_bytes.saturating_add(bytes);
        if totals.len() < SERIES_MAX && labels_bytes <= LABELS_BYTES_MAX {
            self.labels_bytes = labels_bytes;
            totals.insert(labels.to_vec(), values.clone());
        } else {
            let other = vec![OTHER.to_owned(); family.labels.len()];
            totals.entry(other).or_insert_with(|| Values::zero(family.kind)).add(values);
        }
    }

    /// The totals of one family.
    pub(super) fn of(&self, family: &Family) -> impl Iterator<Item = (&Vec<String>, &Values)> {
        self.totals.get(usize::from(family.number)).into_iter().flatten()
    }

    /// All totals.
    pub(super) fn totals(&self) -> Merged<'_> {
        let totals = FAMILIES.iter().zip(&self.totals);
        totals
            .flat_map(|(family, totals)| {
                totals.iter().map(|(labels, values)| {
                    ((family.number, labels.as_slice()), (*family, values.clone()))
                })
            })
            .collect()
    }
}
