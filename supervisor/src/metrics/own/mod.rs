//! What the supervisor itself knows of the node, as families to be published beside the workers'.
//!
//! `table` says which there are; nothing is published under a name or a label that is not in it. `node` fills them.

mod node;
pub mod table;

pub use node::{
    ChannelFacts, ConfigFacts, NodeFacts, ProcessFacts, RotationFacts, UsageFacts, WorkerFacts,
};

/// What the samples of one name of the supervisor have in common: an entry of [`table`].
#[derive(Debug)]
pub struct Own {
    /// Published name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: OwnKind,
    /// Names of its labels, in the order in which values are given; of a histogram without `le`.
    pub labels: &'static [&'static str],
    /// What it counts, in a sentence.
    pub help: &'static str,
}

/// A family of the supervisor itself, with its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnFamily {
    /// Published name.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: OwnKind,
    /// Its samples. A family without any is not published.
    pub samples: Vec<OwnSample>,
}

/// What kind of number a family of the supervisor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKind {
    /// Only grows, and goes on after an upgrade.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Only grows, and is gone with the process that one of its labels names: nothing to go on with after an upgrade.
    OfProcess,
    /// One part of a histogram, which is three families of the same name.
    Histogram(Part),
}

/// A part of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is not above each edge, and everything.
    Buckets,
    /// The sum of all values.
    Sum,
    /// How many there were.
    Count,
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnSample {
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// The number itself.
    pub value: f64,
}

/// What a histogram of the supervisor has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Each edge, ascending, with how many values it is the first for that is not passed.
    pub buckets: Vec<(f64, u64)>,
    /// Values above every edge.
    pub above: u64,
    /// The sum of all values.
    pub sum: f64,
}

impl OwnKind {
    /// As the exposition has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter | Self::OfProcess => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    /// What follows the family's name in a sample.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Counter | Self::OfProcess | Self::Gauge => "",
            Self::Histogram(Part::Buckets) => "_bucket",
            Self::Histogram(Part::Sum) => "_sum",
            Self::Histogram(Part::Count) => "_count",
        }
    }

    /// Whether it goes on after an upgrade.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Counter | Self::Histogram(_))
    }
}

impl OwnFamily {
    /// The name of its samples.
    pub fn sample_name(&self) -> String {
        format!("{}{}", self.name, self.kind.suffix())
    }
}

impl Own {
    /// With these numbers; each has as many values of labels as the family has labels.
    pub fn each(&self, samples: impl IntoIterator<Item = (Vec<String>, f64)>) -> OwnFamily {
        let sample = |(values, value): (Vec<String>, f64)| {
            debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
            let values = values.into_iter().map(|it| if it.is_empty() { unknown() } else { it });
            OwnSample { labels: self.labels.iter().copied().zip(values).collect(), value }
        };
        let samples = samples.into_iter().map(sample).collect();
        OwnFamily { name: self.name, help: self.help, kind: self.kind, samples }
    }

    /// With a number for each value of the only label.
    pub fn by<T: Into<String>>(&self, samples: impl IntoIterator<Item = (T, f64)>) -> OwnFamily {
        self.each(samples.into_iter().map(|(label, value)| (vec![label.into()], value)))
    }

    /// With the only number.
    pub fn number(&self, value: f64) -> OwnFamily {
        self.known(Some(value))
    }

    /// With the only number, if it is known.
    pub fn known(&self, value: Option<f64>) -> OwnFamily {
        self.each(value.map(|value| (Vec::new(), value)))
    }

    /// As a histogram without labels of its own.
    pub fn histogram(&self, counts: &Counts) -> [OwnFamily; 3] {
        let family = |part, samples| OwnFamily {
            name: self.name,
            help: self.help,
            kind: OwnKind::Histogram(part),
            samples,
        };
        let one = |value| vec![OwnSample { labels: Vec::new(), value }];
        let mut passed = 0;
        let mut buckets: Vec<_> =
            counts.buckets.iter().map(|(edge, count)| (edge.to_string(), *count)).collect();
        buckets.push(("+Inf".to_owned(), counts.above));
        let buckets = buckets.into_iter().map(|(edge, count)| {
            passed += count;
            OwnSample { labels: vec![("le", edge)], value: passed as f64 }
        });
        let buckets = buckets.collect();
        [
            family(Part::Buckets, buckets),
            family(Part::Sum, one(counts.sum)),
            family(Part::Count, one(passed as f64)),
        ]
    }
}

fn unknown() -> String {
    shared::metric::UNKNOWN.to_owned()
}
