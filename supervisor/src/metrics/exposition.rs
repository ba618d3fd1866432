//! The text that is published: Prometheus exposition format 0.0.4, families in the order of their names.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use shared::metric::{EDGES_MAX, EdgeSets, Edges, Family, Kind};

use super::carried::{self, CounterRecord};
use super::own::OwnFamily;
use super::values::{Chunks, Values};

/// Quantiles of a summary, as they are written and as a number.
const QUANTILES: [(&str, f64); 7] = [
    ("0", 0.0),
    ("0.5", 0.5),
    ("0.9", 0.9),
    ("0.95", 0.95),
    ("0.99", 0.99),
    ("0.999", 0.999),
    ("1", 1.0),
];

/// Text in the making: a block per family.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    blocks: BTreeMap<&'static str, String>,
}

impl Exposition {
    /// Writes a series that workers count.
    pub(super) fn series(
        &mut self,
        family: &Family,
        labels: &[String],
        values: &Values,
        edges: &EdgeSets,
    ) {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Latest => "gauge",
            Kind::Histogram(_) => "histogram",
            Kind::Summary => "summary",
        };
        let labels: Vec<_> =
            family.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
        let mut series =
            Lines { name: family.name, labels, block: self.block(family.name, family.help, kind) };
        match (values, family.kind) {
            (Values::Histogram { sum, counts }, Kind::Histogram(latency)) => {
                series.histogram(*sum, counts, edges.of(latency));
            }
            (Values::Summary { sum, chunks }, _) => series.summary(*sum, chunks),
            (Values::Gauge(value), _) => series.line("", None, value),
            (Values::Latest { number, .. }, _) => series.line("", None, number),
            (Values::Counter(total), _) => series.line("", None, total),
            // Values are made for the kind of their family.
            (Values::Histogram { .. }, _) => {}
        }
    }

    /// Writes a family of the supervisor itself, on top of what was counted `before`.
    pub(super) fn own(&mut self, family: &OwnFamily, before: &[CounterRecord]) {
        let samples = carried::sum(family, before);
        if samples.is_empty() {
            return;
        }
        let block = self.block(family.name, family.help, family.kind.word());
        for (labels, value) in samples {
            Lines { name: family.name, labels, block }.line(family.kind.suffix(), None, value);
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.blocks.into_values().collect()
    }

    fn block(&mut self, name: &'static str, help: &str, kind: &str) -> &mut String {
        self.blocks.entry(name).or_insert_with(|| {
            let help = help.replace('\\', r"\\").replace('\n', r"\n");
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
        })
    }
}

/// Writes the lines of one series.
struct Lines<'a> {
    name: &'static str,
    labels: Vec<(&'a str, &'a str)>,
    block: &'a mut String,
}

impl Lines<'_> {
    fn histogram(&mut self, sum: u64, counts: &[u64; EDGES_MAX + 1], edges: &Edges) {
        let mut passed = 0u64;
        for (edge, count) in edges.micros().iter().zip(counts) {
            passed = passed.saturating_add(*count);
            self.line("_bucket", Some(("le", &seconds(*edge).to_string())), passed);
        }
        let all = counts.iter().fold(0u64, |all, count| all.saturating_add(*count));
        self.line("_bucket", Some(("le", "+Inf")), all);
        self.line("_sum", None, seconds(sum));
        self.line("_count", None, all);
    }

    fn summary(&mut self, sum: u64, chunks: &Chunks) {
        for (text, quantile) in QUANTILES {
            let value = chunks.quantile(quantile).map_or(f64::NAN, seconds);
            self.line("", Some(("quantile", text)), value);
        }
        self.line("_sum", None, seconds(sum));
        self.line("_count", None, chunks.count());
    }

    fn line(
        &mut self,
        suffix: &'static str,
        last: Option<(&'static str, &str)>,
        value: impl Display,
    ) {
        self.block.push_str(self.name);
        self.block.push_str(suffix);
        let mut before = '{';
        for (name, value) in self.labels.iter().copied().chain(last) {
            self.block.push(before);
            before = ',';
            self.block.push_str(name);
            self.block.push_str("=\"");
            push_escaped(self.block, value);
            self.block.push('"');
        }
        let end = if before == ',' { "}" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(self.block, "{end} {value}");
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str(r"\\"),
            '"' => text.push_str(r#"\""#),
            '\n' => text.push_str(r"\n"),
            other => text.push(other),
        }
    }
}
