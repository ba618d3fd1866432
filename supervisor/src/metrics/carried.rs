//! What was counted before this program took the place of another one in the same process: no counter falls by an upgrade.

use std::os::fd::BorrowedFd;

use bincode::{Decode, Encode};
use shared::id::WorkerId;
use shared::message::Series;
use shared::metric::Family;

use super::own::OwnFamily;
use super::values::Values;
use super::{Collector, refresh};

pub use crate::handover::record::CounterRecord;

/// What workers that are gone have counted in one series.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct KeptSeries {
    family: u16,
    labels: Vec<String>,
    values: Values,
}

impl Collector {
    /// What a worker counts in, and the series it has announced.
    pub fn of_worker(&self, worker: WorkerId) -> Option<(BorrowedFd<'_>, Vec<Series>)> {
        let source = self.live.get(&worker)?;
        Some((source.memory(), source.announced()))
    }

    /// What is to be carried over: the totals of the dead, and the supervisor's `own` counters.
    pub fn carry(&mut self, own: &[OwnFamily]) -> (Vec<KeptSeries>, Vec<CounterRecord>) {
        for (worker, source) in &mut self.live {
            refresh(*worker, source);
        }
        let totals = self.dead.totals().into_iter();
        let series = totals.map(|((family, labels), (_, values))| KeptSeries {
            family,
            labels: labels.to_vec(),
            values,
        });
        let series = series.collect();
        let counters = own.iter().filter(|family| family.kind.is_kept());
        let counters = counters.flat_map(|family| {
            let samples = sum(family, &self.before).into_iter();
            samples.map(|(labels, value)| {
                let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
                (family.sample_name(), labels.into_iter().map(owned).collect(), value)
            })
        });
        (series, counters.collect())
    }

    /// Goes on from there. What this build does not know is left out.
    pub fn carried(&mut self, series: &[KeptSeries], counters: Vec<CounterRecord>) {
        for kept in series {
            let family = Family::from_number(kept.family);
            let fits =
                |it: &&Family| it.labels.len() == kept.labels.len() && kept.values.is_of(it.kind);
            if let Some(family) = family.filter(fits) {
                self.dead.add(family, &kept.labels, &kept.values);
            }
        }
        self.before = counters;
    }
}

/// The samples of a family of the supervisor itself, counters on top of what was counted before.
pub(super) fn sum<'a>(
    family: &'a OwnFamily,
    before: &'a [CounterRecord],
) -> Vec<(Vec<(&'a str, &'a str)>, f64)> {
    let own = family.samples.iter().map(|sample| {
        let labels = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
        (labels.collect::<Vec<_>>(), sample.value)
    });
    let mut sums: Vec<(Vec<(&str, &str)>, f64)> = own.collect();
    let (is_kept, name) = (family.kind.is_kept(), family.sample_name());
    for (_, labels, value) in before.iter().filter(|(of, ..)| is_kept && *of == name) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match sums.iter_mut().find(|(other, _)| *other == labels) {
            Some((_, sum)) => *sum += value,
            None => sums.push((labels, *value)),
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Counts, OwnKind, OwnSample, table};

    fn family(kind: OwnKind, value: f64) -> OwnFamily {
        let samples = vec![OwnSample { labels: vec![("role", "proxy".to_owned())], value }];
        OwnFamily { name: "n", help: "h", kind, samples }
    }

    #[test]
    fn a_counter_goes_on_where_it_was_and_a_gauge_does_not() {
        let mut collector = Collector::new(&[], &[], &[]);
        let (_, counters) = collector.carry(&[family(OwnKind::Counter, 3.0)]);
        collector.carried(&[], counters);
        let now = [family(OwnKind::Counter, 1.0)];
        assert!(collector.render(&now).contains("n{role=\"proxy\"} 4\n"));
        let (_, counters) = collector.carry(&now);
        assert_eq!(counters[0].2, 4.0);
        assert!(collector.render(&[family(OwnKind::Gauge, 1.0)]).contains("n{role=\"proxy\"} 1\n"));
        let none = [OwnFamily { samples: Vec::new(), ..family(OwnKind::Counter, 0.0) }];
        assert!(collector.render(&none).contains("n{role=\"proxy\"} 3\n"), "no label is lost");
    }

    #[test]
    fn a_histogram_goes_on_where_it_was_in_every_bucket() {
        let counted = |sum| Counts { buckets: vec![(0.5, 2), (1.0, 1)], above: 4, sum };
        let mut collector = Collector::new(&[], &[], &[]);
        let (_, counters) = collector.carry(&table::PROPAGATION.histogram(&counted(9.5)));
        collector.carried(&[], counters);
        let text = collector.render(&table::PROPAGATION.histogram(&counted(1.0)));
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "_bucket{le=\"0.5\"} 4",
            "_bucket{le=\"1\"} 6",
            "_bucket{le=\"+Inf\"} 14",
            "_sum 10.5",
            "_count 14",
        ];
        assert_eq!(lines, expected.map(|it| format!("aisix_config_propagation_seconds{it}")));
    }

    #[test]
    fn what_a_process_has_used_is_not_carried_over_since_the_kernel_goes_on_counting_it() {
        let mut collector = Collector::new(&[], &[], &[]);
        let (_, counters) = collector.carry(&[family(OwnKind::OfProcess, 3.0)]);
        assert_eq!(counters, []);
    }
}
