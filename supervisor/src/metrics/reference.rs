//! The page of all metrics, `METRICS.md`: made from the tables, so that it names what there is.

use std::fmt::Write;

use shared::metric::family::{
    CACHE_REDIS_FAILURES, PROXY_OVERLOAD_REJECTIONS, SAMPLES_DROPPED, TLS_HANDSHAKES,
};
use shared::metric::{EdgeSets, Edges, FAMILIES, Family, Kind, SERIES_MAX};

use super::own::table::OWN;
use super::{Own, OwnKind};

const HEAD: &str = "# Metrics reference

What `GET /metrics` at `observability.metrics.prometheus.addr` tells, from the tables that the programs use
(`shared/src/metric/family.rs`, `supervisor/src/metrics/own/table.rs`). `packaging/grafana/aisix.json` is a dashboard of it,
`packaging/prometheus/aisix.rules.yaml` has the alerts.

Workers count, the supervisor adds them up: a counter or a bucket never falls by the death of a worker, by a reload or by an
upgrade, and begins at 0 when the gateway is started. A series appears when it is first used. Summaries have the quantiles
0, 0.5, 0.9, 0.95, 0.99, 0.999 and 1 over the life of the gateway, each off by less than one percent.

**Values of labels** are words of the gateway, ids and names of configured resources, or numbers of running processes, never
what a caller has written: `model` is a configured name, the name of a wildcard's row, `unresolved`, or `passthrough`;
`upstream_model` is the configured name too, with the `*` of a wildcard; `endpoint` is a route's template; `client_type` comes from rules over
the user agent; `kind` of a resource is one of those known, or `unknown`. What is not known is `unknown`. Each worker tells apart SERIES sets of labels per family; the
rest is counted together, with every label `other`. A value is cut at 256 bytes. Where even that has no room
`aisix_metric_samples_dropped_total` counts.

`outcome` of a request: `success` (2xx, 3xx), `client_error`, `rate_limited` (429), `upstream_error`. `status` is 499 where
the caller left before the end. `worker` is the number of a running process, `none` of the supervisor itself; a sample is gone
with its process.

`aisix_config_propagation_seconds` counts each revision once, from when the store's message about it was complete: those of a
burst that is joined into one change each for itself. It leaves out what changes nothing here, what is rejected, and what was
under way during an upgrade.

Of the published families, `aisix_a2a_*`, `aisix_cache_semantic_*` and `aisix_guardrail_semantic_*` are not there: this build
serves no agents and asks no model about meanings.

";

/// Those families of workers that are not among the published ones.
const OWN_OF_WORKERS: [&Family; 4] =
    [&SAMPLES_DROPPED, &TLS_HANDSHAKES, &CACHE_REDIS_FAILURES, &PROXY_OVERLOAD_REJECTIONS];
/// Those families of the supervisor that are.
const PUBLISHED: [&str; 17] = [
    "aisix_budget_details_present",
    "aisix_budget_limit_usd",
    "aisix_budget_remaining_usd",
    "aisix_budget_reset_seconds",
    "aisix_budget_spent_usd",
    "aisix_config_applied_revision",
    "aisix_config_hash_info",
    "aisix_config_last_reload_success_timestamp_seconds",
    "aisix_config_last_reload_successful",
    "aisix_config_observed_revision",
    "aisix_config_partially_compatible_resources",
    "aisix_config_rejected_resources",
    "aisix_config_reload_failures_total",
    "aisix_config_reloads_total",
    "aisix_config_source_connected",
    "aisix_config_stale_served_resources",
    "aisix_deployment_state",
];

/// A line of the page.
struct Row {
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    is_published: bool,
}

impl From<&&'static Family> for Row {
    fn from(family: &&'static Family) -> Self {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Latest => "gauge",
            Kind::Histogram(_) => "histogram",
            Kind::Summary => "summary",
        };
        let Family { name, help, labels, .. } = **family;
        Self { name, kind, labels, help, is_published: !OWN_OF_WORKERS.contains(family) }
    }
}

impl From<&&'static Own> for Row {
    fn from(own: &&'static Own) -> Self {
        let Own { name, kind, labels, help } = **own;
        Self { name, kind: kind.word(), labels, help, is_published: PUBLISHED.contains(&name) }
    }
}

fn rows(page: &mut String, rows: &[Row], is_published: bool) {
    page.push_str("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for row in rows.iter().filter(|row| row.is_published == is_published) {
        let labels: Vec<_> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (row.name, row.kind, row.help);
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
    }
}

fn edges(edges: &Edges) -> String {
    let seconds: Vec<_> = edges.micros().iter().map(|it| (*it as f64 / 1e6).to_string()).collect();
    seconds.join(" ")
}

fn page() -> String {
    let mut page = HEAD.replace("SERIES", &SERIES_MAX.to_string());
    let mut all: Vec<Row> =
        FAMILIES.iter().map(Row::from).chain(OWN.iter().map(Row::from)).collect();
    all.sort_unstable_by_key(|row| row.name);
    page.push_str("## Published\n\n");
    rows(&mut page, &all, true);
    let sets = EdgeSets::default();
    writeln!(
        page,
        "\nEdges of the histograms in seconds, unless `observability.metrics` says otherwise: `aisix_request_e2e_latency_seconds` {}; \
         `aisix_request_ttft_seconds` {}; `aisix_guardrail_latency_seconds` {}.",
        edges(&sets.end_to_end),
        edges(&sets.first_token),
        edges(&sets.guardrail),
    )
    .unwrap();
    page.push_str("\n## Of this gateway\n\n");
    rows(&mut page, &all, false);
    page
}

/// Written anew with `UPDATE_REFERENCE=1 cargo nextest run --workspace -E 'test(metrics::reference)'`.
#[test]
fn the_page_of_all_metrics_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../METRICS.md");
    let page = page();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(written, page, "METRICS.md is not current: run this test with UPDATE_REFERENCE=1");
}

#[test]
fn every_published_name_is_in_the_table() {
    for name in PUBLISHED {
        assert!(OWN.iter().any(|own| own.name == name && own.kind != OwnKind::OfProcess), "{name}");
    }
}

/// The names in a text that look like ours, as samples have them.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("aisix_"))
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/");
    let all: Vec<Row> = FAMILIES.iter().map(Row::from).chain(OWN.iter().map(Row::from)).collect();
    let is_known = |name: &str| {
        all.iter().any(|row| match (row.kind, name.strip_prefix(row.name)) {
            ("histogram", Some(suffix)) => ["_bucket", "_sum", "_count"].contains(&suffix),
            ("summary", Some(suffix)) => ["", "_sum", "_count"].contains(&suffix),
            (_, suffix) => suffix == Some(""),
        })
    };
    for file in
        ["grafana/aisix.json", "prometheus/aisix.rules.yaml", "prometheus/aisix.rules.test.yaml"]
    {
        let text = std::fs::read_to_string(format!("{packaging}{file}")).unwrap();
        assert!(names(&text).count() > 30, "{file}");
        for name in names(&text) {
            // Explained to a reader, not asked for.
            let is_explained = all.iter().any(|row| row.name == name) && file.ends_with(".yaml");
            assert!(is_known(name) || is_explained, "{file}: {name}");
        }
    }
}
