//! Metrics as a scraper reads them.

use std::collections::BTreeMap;

/// A text in Prometheus' exposition format.
#[derive(Debug, Default)]
pub struct Exposition {
    /// `# HELP` by family.
    pub help: BTreeMap<String, String>,
    /// `# TYPE` by family.
    pub types: BTreeMap<String, String>,
    /// The samples in their order.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Debug)]
pub struct Sample {
    /// Its name, with the suffix of its family's type.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Exposition {
    /// Reads a text.
    ///
    /// # Panics
    /// If a line is neither a comment nor a sample.
    pub fn parse(text: &str) -> Self {
        let mut exposition = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.splitn(3, ' ');
                let (Some(word), Some(family)) = (words.next(), words.next()) else { continue };
                let value = words.next().unwrap_or_default().to_owned();
                match word {
                    "HELP" => exposition.help.insert(family.to_owned(), value),
                    "TYPE" => exposition.types.insert(family.to_owned(), value),
                    _ => None,
                };
            } else {
                let sample = Sample::parse(line);
                exposition.samples.push(sample.unwrap_or_else(|| panic!("not a sample: {line}")));
            }
        }
        exposition
    }

    /// The sum of a family's samples that carry these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels.iter().all(|(label, value)| {
                    sample.labels.get(*label).map(String::as_str) == Some(value)
                })
            })
            .map(|sample| sample.value)
            .sum()
    }

    /// The family that a sample belongs to.
    pub fn family<'a>(&self, sample: &'a Sample) -> &'a str {
        ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| sample.name.strip_suffix(suffix))
            .find(|family| {
                matches!(self.types.get(*family).map(String::as_str), Some("histogram" | "summary"))
            })
            .unwrap_or(&sample.name)
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut rest = labels.strip_suffix('}')?;
        let mut labels = BTreeMap::new();
        while let Some((label, tail)) = rest.split_once("=\"") {
            let end = end_of_value(tail)?;
            let (value, tail) = tail.split_at(end);
            labels.insert(label.trim_start_matches(',').to_owned(), value.to_owned());
            rest = &tail[1..];
        }
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// Where the closing quote is.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(index, character)| {
        let is_end = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        is_end.then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text =
            "# HELP a b c\n# TYPE a counter\na{x=\"1\",y=\"p \\\"q\\\"\"} 2\na{x=\"2\"} 3.5\nb 1\n";
        let exposition = Exposition::parse(text);
        assert_eq!(exposition.help["a"], "b c");
        assert_eq!(exposition.types["a"], "counter");
        assert_eq!(exposition.sum("a", &[]), 5.5);
        assert_eq!(exposition.sum("a", &[("x", "2")]), 3.5);
        assert_eq!(exposition.samples[0].labels["y"], "p \\\"q\\\"");
        assert_eq!(exposition.sum("b", &[]), 1.0);
    }
}
