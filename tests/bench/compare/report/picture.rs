//! The report as a picture: a panel of bars for each figure that goals are about, a bar for each subject.
//!
//! SVG with a background of its own, so that it is readable whatever it lies on; where the viewer says that it is dark, it is dark.

use std::fmt::Write;

use crate::figure::{Figure, Figures};

/// What has a panel, in this order, if it was measured.
const PANELS: &[(&str, &str)] = &[
    ("cpu_us_per_request", "CPU per request, µs"),
    ("requests_per_s", "requests/s at 64 connections"),
    ("added_p50_us", "added latency p50 at one connection, µs"),
    ("added_p99_us", "added latency p99 at one connection, µs"),
    ("cpu_us_per_event", "CPU per relayed event, µs"),
    ("added_gap_windowed_p99_ms", "added gap between events, p99 of 1/4 s, ms"),
    ("prompt_20mb_cpu_ms", "CPU for a prompt of 20 MB, ms"),
    ("prompt_20mb_peak_mib", "memory for a prompt of 20 MB, MiB"),
];

const WIDTH: usize = 880;
const PANEL: usize = WIDTH / 2;
const LEFT: usize = 96;
/// The longest bar.
const BAR: f64 = 220.0;
const ROW: usize = 22;

const STYLE: &str = "\
.back{fill:#ffffff}.text{fill:#24292f;font:13px sans-serif}.title{font-weight:bold}
.bar{fill:#8c959f}.own{fill:#0969da}.span{stroke:#24292f;stroke-width:1.5}
@media (prefers-color-scheme: dark){.back{fill:#0d1117}.text{fill:#e6edf3}.bar{fill:#6e7681}.own{fill:#58a6ff}.span{stroke:#e6edf3}}";

/// The picture.
pub fn svg(figures: &Figures) -> String {
    let measured = |(name, title): &(&str, &'static str)| {
        let of_it: Vec<_> = figures.all().iter().filter(|it| it.name == *name).collect();
        (!of_it.is_empty()).then_some((*title, of_it))
    };
    let panels: Vec<_> = PANELS.iter().filter_map(measured).collect();
    let mut body = String::new();
    let mut top = 16;
    for pair in panels.chunks(2) {
        for ((title, of_it), left) in pair.iter().zip([0, PANEL]) {
            panel(&mut body, title, of_it, left, top);
        }
        let rows = pair.iter().map(|(_, of_it)| of_it.len()).max().unwrap_or_default();
        top += 28 + rows * ROW + 20;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" viewBox=\"0 0 {WIDTH} {top}\" role=\"img\">\n<title>Gateways side by side: medians with least and greatest round</title>\n<style>{STYLE}</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{top}\" rx=\"8\"/>\n{body}</svg>\n"
    )
}

fn panel(body: &mut String, title: &str, figures: &[&Figure], left: usize, top: usize) {
    let most = figures.iter().filter_map(|it| it.max()).fold(0.0, f64::max);
    let scale = if most > 0.0 { BAR / most } else { 0.0 };
    let _ = writeln!(
        body,
        "<text class=\"text title\" x=\"{}\" y=\"{}\">{}</text>",
        left + 12,
        top + 14,
        escaped(title)
    );
    for (row, figure) in figures.iter().enumerate() {
        let y = top + 28 + row * ROW;
        let (Some(median), Some(min), Some(max)) = (figure.median(), figure.min(), figure.max())
        else {
            continue;
        };
        let start = (left + LEFT) as f64;
        let at = |value: f64| start + value.max(0.0) * scale;
        let class = if figure.subject.starts_with("aisix") { "own" } else { "bar" };
        let _ = writeln!(
            body,
            "<text class=\"text\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"{class}\" x=\"{start}\" y=\"{}\" width=\"{:.1}\" height=\"14\"/><line class=\"span\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{1}\" y2=\"{1}\"/><text class=\"text\" x=\"{:.1}\" y=\"{}\">{}</text>",
            left + LEFT - 8,
            y + 12,
            escaped(&figure.subject),
            y + 1,
            at(median) - start,
            at(min),
            at(max),
            at(max) + 8.0,
            y + 12,
            short(median),
        );
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_greatest_median_and_names_are_escaped() {
        let mut figures = Figures::default();
        figures.add("cpu_us_per_request", "nginx", "us", 10.0);
        figures.add("cpu_us_per_request", "a<b", "us", 40.0);
        figures.add("unshown", "nginx", "us", 1.0);
        let picture = svg(&figures);
        assert!(
            picture.contains("width=\"220.0\"") && picture.contains("width=\"55.0\""),
            "{picture}"
        );
        assert!(picture.contains("a&lt;b") && !picture.contains("unshown"), "{picture}");
        assert!(picture.contains("prefers-color-scheme: dark"));
    }
}
