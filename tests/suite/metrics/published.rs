//! The published names: what dashboards and alerts of others rely on, written down from the published behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::exposition::Exposition;

use super::varied::{FREE_TEXT, Varied};

const REQ: &str = "endpoint inbound_protocol provider model upstream_model provider_key_id provider_key_name api_key_id team_id \
    user_id user_name stream is_fallback status outcome";
const TIMED: &str = "endpoint inbound_protocol provider model upstream_model provider_key_id provider_key_name api_key_id \
    team_id user_id user_name stream status outcome";
const USE: &str = "endpoint inbound_protocol provider model upstream_model provider_key_id provider_key_name api_key_id team_id \
    user_id user_name";
const DEP: &str = "provider model upstream_model provider_key_id";
const LAT: &str = "env_id endpoint model provider status_class streaming";
const KEY: &str = "api_key_id team_id user_id";

/// Name, type, labels: the published ones that this build can tell.
const PUBLISHED: &[(&str, &str, &str)] = &[
    ("aisix_requests_total", "counter", "provider model status outcome"),
    ("aisix_request_duration_seconds", "summary", "provider model status"),
    ("aisix_tokens_consumed_total", "counter", "provider model"),
    ("aisix_proxy_requests_total", "counter", REQ),
    ("aisix_proxy_failed_requests_total", "counter", REQ),
    ("aisix_proxy_request_duration_seconds", "summary", TIMED),
    ("aisix_proxy_in_flight_requests", "gauge", "endpoint inbound_protocol"),
    (
        "aisix_proxy_client_cancelled_requests_total",
        "counter",
        "endpoint model provider_key_id provider_key_name",
    ),
    (
        "aisix_proxy_request_body_limit_rejections_total",
        "counter",
        "endpoint inbound_protocol outcome",
    ),
    ("aisix_llm_requests_total", "counter", REQ),
    ("aisix_llm_request_duration_seconds", "summary", TIMED),
    ("aisix_llm_input_tokens_total", "counter", USE),
    ("aisix_llm_output_tokens_total", "counter", USE),
    ("aisix_llm_total_tokens_total", "counter", USE),
    ("aisix_llm_spend_micro_usd_total", "counter", USE),
    ("aisix_llm_time_to_first_token_seconds", "summary", USE),
    ("aisix_llm_tokens_by_client_total", "counter", "client_type model token_type"),
    ("aisix_request_e2e_latency_seconds", "histogram", LAT),
    ("aisix_request_ttft_seconds", "histogram", LAT),
    ("aisix_deployment_requests_total", "counter", DEP),
    ("aisix_deployment_success_responses_total", "counter", DEP),
    ("aisix_deployment_failure_responses_total", "counter", DEP),
    ("aisix_deployment_cooled_down_total", "counter", DEP),
    ("aisix_deployment_state", "gauge", DEP),
    ("aisix_routing_successful_fallbacks_total", "counter", "model fallback_model"),
    ("aisix_routing_failed_fallbacks_total", "counter", "model fallback_model"),
    ("aisix_ratelimit_rejections_total", "counter", "scope layer policy_id"),
    ("aisix_ratelimit_remaining_requests", "gauge", "api_key_id model"),
    ("aisix_ratelimit_remaining_tokens", "gauge", "api_key_id model"),
    ("aisix_budget_limit_usd", "gauge", KEY),
    ("aisix_budget_spent_usd", "gauge", KEY),
    ("aisix_budget_remaining_usd", "gauge", KEY),
    ("aisix_budget_reset_seconds", "gauge", KEY),
    ("aisix_budget_details_present", "gauge", KEY),
    (
        "aisix_usage_events_emitted_total",
        "counter",
        "handler status_code inbound_protocol model provider_key_id provider_key_name",
    ),
    ("aisix_usage_event_drops_total", "counter", "reason model provider_key_id provider_key_name"),
    ("aisix_auth_decisions_total", "counter", "method result reason"),
    (
        "aisix_guardrail_latency_seconds",
        "histogram",
        "env_id guardrail kind phase result error_type",
    ),
    ("aisix_guardrail_blocks_total", "counter", ""),
    ("aisix_guardrail_bypasses_total", "counter", "reason"),
    ("aisix_cache_requests_total", "counter", "policy outcome"),
    ("aisix_config_last_reload_successful", "gauge", ""),
    ("aisix_config_last_reload_success_timestamp_seconds", "gauge", ""),
    ("aisix_config_reloads_total", "counter", ""),
    ("aisix_config_reload_failures_total", "counter", "reason"),
    ("aisix_config_rejected_resources", "gauge", "kind"),
    ("aisix_config_partially_compatible_resources", "gauge", "kind"),
    ("aisix_config_stale_served_resources", "gauge", "kind"),
    ("aisix_config_observed_revision", "gauge", ""),
    ("aisix_config_applied_revision", "gauge", ""),
    ("aisix_config_hash_info", "gauge", "hash"),
    ("aisix_config_source_connected", "gauge", ""),
];

/// Not provoked here: a ring that is full, an answer too large for a guardrail that lets it pass, a document that was good
/// before it was rejected, and a load in which everything is good.
const NOT_PROVOKED: [&str; 4] = [
    "aisix_usage_event_drops_total",
    "aisix_guardrail_bypasses_total",
    "aisix_config_stale_served_resources",
    "aisix_config_last_reload_success_timestamp_seconds",
];

/// Whole lines of `promtool check metrics` that are known: a published name that no lint would give. None so far.
const KNOWN_LINT: [&str; 0] = [];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn promtool() -> Command {
    let ours = root().join("target/tools/promtool");
    Command::new(if ours.exists() { ours } else { PathBuf::from("promtool") })
}

/// Type and labels by name, as `METRICS.md` has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = fs::read_to_string(root().join("METRICS.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split(" | ").collect();
        let [name, kind, labels, ..] = cells[..] else { return None };
        let labels = labels.split(", ").map(|it| it.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        Some((name.trim_end_matches('`').to_owned(), (kind.to_owned(), labels)))
    });
    rows.collect()
}

fn labels(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Type and labels by family, as they are told; a set of labels for each series that differs.
fn told(metrics: &Exposition) -> BTreeMap<&str, (&str, BTreeSet<BTreeSet<String>>)> {
    let mut told = BTreeMap::new();
    for sample in &metrics.samples {
        let family = metrics.family(sample);
        let kind = metrics.types[family].as_str();
        let own = |label: &&String| {
            !(kind == "histogram" && *label == "le" || kind == "summary" && *label == "quantile")
        };
        let labels = sample.labels.keys().filter(own).cloned().collect();
        let entry: &mut (&str, BTreeSet<_>) = told.entry(family).or_insert((kind, BTreeSet::new()));
        entry.1.insert(labels);
    }
    told
}

#[tokio::test]
async fn a_varied_load_tells_the_published_metrics_and_nothing_that_is_not_documented() {
    let varied = Varied::start().await;
    let text = varied.text().await;
    let metrics = Exposition::parse(&text);
    let (told, documented) = (told(&metrics), documented());
    for (name, kind, expected) in PUBLISHED {
        let expected = labels(expected);
        assert_eq!(documented.get(*name), Some(&((*kind).to_owned(), expected.clone())), "{name}");
        match told.get(name) {
            Some(found) => assert_eq!(*found, (*kind, [expected].into()), "{name}"),
            None => assert!(NOT_PROVOKED.contains(name), "{name} is not told"),
        }
    }
    for (name, (kind, found)) in &told {
        let (expected, labels) =
            documented.get(*name).unwrap_or_else(|| panic!("{name}: METRICS.md"));
        assert_eq!((*kind, found), (expected.as_str(), &[labels.clone()].into()), "{name}");
    }

    // Edges, as published.
    let edges = |name: &str| {
        let of = metrics.samples.iter().filter(|sample| sample.name == name);
        let edges: Vec<_> = of.map(|sample| sample.labels["le"].clone()).collect();
        let end = edges.iter().position(|edge| edge == "+Inf").unwrap();
        edges[..end].join(" ")
    };
    let e2e = "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2 5 10 30 60 120 300 420 600";
    assert_eq!(edges("aisix_request_e2e_latency_seconds_bucket"), e2e);
    let ttft = "0.05 0.1 0.25 0.5 1 2 5 10 30 60 120 300";
    assert_eq!(edges("aisix_request_ttft_seconds_bucket"), ttft);
    let guardrail = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30";
    assert_eq!(edges("aisix_guardrail_latency_seconds_bucket"), guardrail);

    // Words, as published.
    let words = |name: &str, label: &str, known: &[&str]| {
        for sample in metrics.samples.iter().filter(|it| metrics.family(it) == name) {
            let value = sample.labels[label].as_str();
            assert!(known.contains(&value), "{name}: {label}={value}");
        }
    };
    let outcomes = ["success", "client_error", "rate_limited", "upstream_error"];
    words("aisix_requests_total", "outcome", &outcomes);
    words("aisix_proxy_requests_total", "is_fallback", &["true", "false"]);
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    words("aisix_request_e2e_latency_seconds", "status_class", &classes);
    words("aisix_request_ttft_seconds", "streaming", &["true"]);
    words("aisix_usage_events_emitted_total", "status_code", &classes);
    let protocols = ["openai", "anthropic", "mcp", "other"];
    words("aisix_usage_events_emitted_total", "inbound_protocol", &protocols);
    words("aisix_auth_decisions_total", "method", &["api_key", "jwt", "anonymous", "none"]);
    words("aisix_auth_decisions_total", "result", &["allowed", "denied"]);
    words("aisix_ratelimit_rejections_total", "scope", &["requests", "tokens"]);
    words("aisix_ratelimit_rejections_total", "layer", &["api_key", "model", "mcp", "policy"]);
    words(
        "aisix_cache_requests_total",
        "outcome",
        &["hit_exact", "hit_semantic", "miss", "bypass"],
    );
    words("aisix_llm_tokens_by_client_total", "token_type", &["input", "output", "total"]);
    let results = ["allowed", "blocked", "masked", "bypassed", "would_block", "would_mask"];
    words("aisix_guardrail_latency_seconds", "result", &results);
    let ends = ["completed", "cap_reached", "timeout", "client_read_error"];
    words("aisix_proxy_request_body_limit_rejections_total", "outcome", &ends);
    let is =
        |name: &str, of: &[(&str, &str)]| assert!(metrics.sum(name, of) > 0.0, "{name} {of:?}");
    is("aisix_proxy_requests_total", &[("is_fallback", "true"), ("model", "group")]);
    is("aisix_auth_decisions_total", &[("method", "jwt"), ("reason", "none")]);
    is("aisix_auth_decisions_total", &[("result", "denied"), ("reason", "unknown_key")]);
    is("aisix_llm_tokens_by_client_total", &[("client_type", "other")]);

    // Whatever callers have made up.
    let (name, _) = text.split_at(text.find(FREE_TEXT).unwrap_or(0));
    assert!(!text.contains(FREE_TEXT), "{}", name.lines().next_back().unwrap_or_default());
    let wildcard = [("model", "open-*"), ("upstream_model", "open-*")];
    is("aisix_deployment_requests_total", &wildcard);

    lint(&text);
}

/// `promtool check metrics` has nothing to say.
fn lint(text: &str) {
    let mut command = promtool();
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("promtool: {error}; make test-tools"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    let lines: Vec<_> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines, KNOWN_LINT, "promtool check metrics");
}

#[test]
fn the_alert_rules_are_valid_and_each_goes_off_when_it_should() {
    let rules = root().join("packaging/prometheus");
    for arguments in
        [["check", "rules", "aisix.rules.yaml"], ["test", "rules", "aisix.rules.test.yaml"]]
    {
        let output = promtool().args(arguments).current_dir(&rules).output();
        let output = output.unwrap_or_else(|error| panic!("promtool: {error}; make test-tools"));
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("SUCCESS"), "{arguments:?}: {told}");
    }
    let text = fs::read_to_string(rules.join("aisix.rules.yaml")).unwrap();
    let tests = fs::read_to_string(rules.join("aisix.rules.test.yaml")).unwrap();
    let alerts = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not tested");
    }
}

#[test]
fn every_question_of_the_dashboard_is_one() {
    let text = fs::read_to_string(root().join("packaging/grafana/aisix.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, target) in targets.enumerate() {
        let mut question = target["expr"].as_str().unwrap().to_owned();
        for (variable, value) in [("$__rate_interval", "5m"), ("$__range", "1h")] {
            question = question.replace(variable, value);
        }
        rules += &format!("      - record: question_{number}\n        expr: {question:?}\n");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    let output = promtool().args(["check", "rules"]).arg(file.path()).output();
    let output = output.unwrap_or_else(|error| panic!("promtool: {error}; make test-tools"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panels have ids of their own");
    let units = panels.iter().filter(|panel| panel["type"] != "row");
    assert!(units.clone().count() > 30);
    for panel in units {
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{}", panel["title"]);
    }
}
