//! Every family that a worker counts. Names, kinds and labels are the published ones, which dashboards and alerts rely on.

use super::{Family, Kind, Latency};

/// The families by number. Append only: a number is never given to another family.
pub static FAMILIES: [&Family; 41] = [
    &REQUESTS,
    &REQUEST_DURATION,
    &TOKENS_CONSUMED,
    &PROXY_REQUESTS,
    &PROXY_FAILED_REQUESTS,
    &PROXY_REQUEST_DURATION,
    &PROXY_IN_FLIGHT,
    &PROXY_CLIENT_CANCELLED,
    &PROXY_BODY_LIMIT_REJECTIONS,
    &LLM_REQUESTS,
    &LLM_REQUEST_DURATION,
    &LLM_INPUT_TOKENS,
    &LLM_OUTPUT_TOKENS,
    &LLM_TOTAL_TOKENS,
    &LLM_FIRST_TOKEN,
    &E2E_LATENCY,
    &TTFT,
    &DEPLOYMENT_REQUESTS,
    &DEPLOYMENT_SUCCESSES,
    &DEPLOYMENT_FAILURES,
    &USAGE_EVENTS_EMITTED,
    &USAGE_EVENT_DROPS,
    &AUTH_DECISIONS,
    &SAMPLES_DROPPED,
    &TOKENS_BY_CLIENT,
    &TLS_HANDSHAKES,
    &CACHE_REQUESTS,
    &CACHE_REDIS_FAILURES,
    &GUARDRAIL_LATENCY,
    &GUARDRAIL_BLOCKS,
    &GUARDRAIL_BYPASSES,
    &DEPLOYMENT_COOLED_DOWN,
    &ROUTING_SUCCESSFUL_FALLBACKS,
    &ROUTING_FAILED_FALLBACKS,
    &LLM_SPEND,
    &RATE_LIMIT_REJECTIONS,
    &RATE_LIMIT_REQUESTS_LEFT,
    &RATE_LIMIT_TOKENS_LEFT,
    &OTLP_DROPS,
    &OTLP_FAILURES,
    &PROXY_OVERLOAD_REJECTIONS,
];

/// Labels of what is counted per request.
const REQUEST_LABELS: &[&str] = &[
    "endpoint",
    "inbound_protocol",
    "provider",
    "model",
    "upstream_model",
    "provider_key_id",
    "provider_key_name",
    "api_key_id",
    "team_id",
    "user_id",
    "user_name",
    "stream",
    "is_fallback",
    "status",
    "outcome",
];
/// As [`REQUEST_LABELS`] without `is_fallback`, which only counters carry.
const TIMED_LABELS: &[&str] = &[
    "endpoint",
    "inbound_protocol",
    "provider",
    "model",
    "upstream_model",
    "provider_key_id",
    "provider_key_name",
    "api_key_id",
    "team_id",
    "user_id",
    "user_name",
    "stream",
    "status",
    "outcome",
];
/// Labels of what is counted per use of a model.
const USE_LABELS: &[&str] = &[
    "endpoint",
    "inbound_protocol",
    "provider",
    "model",
    "upstream_model",
    "provider_key_id",
    "provider_key_name",
    "api_key_id",
    "team_id",
    "user_id",
    "user_name",
];
const LATENCY_LABELS: &[&str] =
    &["env_id", "endpoint", "model", "provider", "status_class", "streaming"];
const DEPLOYMENT_LABELS: &[&str] = &["provider", "model", "upstream_model", "provider_key_id"];

const fn family(
    number: u16,
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { number, name, help, kind, labels }
}

/// Answered requests, by what came of them.
pub static REQUESTS: Family = family(
    0,
    "aisix_requests_total",
    Kind::Counter,
    &["provider", "model", "status", "outcome"],
    "Requests answered.",
);

/// How long requests took.
pub static REQUEST_DURATION: Family = family(
    1,
    "aisix_request_duration_seconds",
    Kind::Summary,
    &["provider", "model", "status"],
    "Time from a request to the end of its answer.",
);

/// Tokens in both directions.
pub static TOKENS_CONSUMED: Family = family(
    2,
    "aisix_tokens_consumed_total",
    Kind::Counter,
    &["provider", "model"],
    "Prompt and completion tokens.",
);

/// Answered requests, in full detail.
pub static PROXY_REQUESTS: Family = family(
    3,
    "aisix_proxy_requests_total",
    Kind::Counter,
    REQUEST_LABELS,
    "Requests answered by the proxy.",
);

/// Requests answered with an error, in full detail.
pub static PROXY_FAILED_REQUESTS: Family = family(
    4,
    "aisix_proxy_failed_requests_total",
    Kind::Counter,
    REQUEST_LABELS,
    "Requests answered by the proxy with a status of 400 or above.",
);

/// How long requests took, in full detail.
pub static PROXY_REQUEST_DURATION: Family = family(
    5,
    "aisix_proxy_request_duration_seconds",
    Kind::Summary,
    TIMED_LABELS,
    "Time from a request to the end of its answer.",
);

/// Requests that are being served.
pub static PROXY_IN_FLIGHT: Family = family(
    6,
    "aisix_proxy_in_flight_requests",
    Kind::Gauge,
    &["endpoint", "inbound_protocol"],
    "Requests that are being served now.",
);

/// Requests whose caller left before the answer ended.
pub static PROXY_CLIENT_CANCELLED: Family = family(
    7,
    "aisix_proxy_client_cancelled_requests_total",
    Kind::Counter,
    &["endpoint", "model", "provider_key_id", "provider_key_name"],
    "Requests whose caller left before the answer ended.",
);

/// Requests refused for the size of their body.
pub static PROXY_BODY_LIMIT_REJECTIONS: Family = family(
    8,
    "aisix_proxy_request_body_limit_rejections_total",
    Kind::Counter,
    &["endpoint", "inbound_protocol", "outcome"],
    "Requests refused for the size of their body, by how reading the rest of it ended.",
);

/// Requests that reached a model.
pub static LLM_REQUESTS: Family = family(
    9,
    "aisix_llm_requests_total",
    Kind::Counter,
    REQUEST_LABELS,
    "Requests that reached a model.",
);

/// How long requests that reached a model took.
pub static LLM_REQUEST_DURATION: Family = family(
    10,
    "aisix_llm_request_duration_seconds",
    Kind::Summary,
    TIMED_LABELS,
    "Time from a request that reached a model to the end of its answer.",
);

/// Tokens of prompts.
pub static LLM_INPUT_TOKENS: Family =
    family(11, "aisix_llm_input_tokens_total", Kind::Counter, USE_LABELS, "Tokens of prompts.");

/// Tokens of answers.
pub static LLM_OUTPUT_TOKENS: Family =
    family(12, "aisix_llm_output_tokens_total", Kind::Counter, USE_LABELS, "Tokens of answers.");

/// Tokens of prompts and answers.
pub static LLM_TOTAL_TOKENS: Family = family(
    13,
    "aisix_llm_total_tokens_total",
    Kind::Counter,
    USE_LABELS,
    "Tokens of prompts and answers.",
);

/// How long the first token of a stream took.
pub static LLM_FIRST_TOKEN: Family = family(
    14,
    "aisix_llm_time_to_first_token_seconds",
    Kind::Summary,
    USE_LABELS,
    "Time from a request to the first token of its stream.",
);

/// How long requests took, between configured edges.
pub static E2E_LATENCY: Family = family(
    15,
    "aisix_request_e2e_latency_seconds",
    Kind::Histogram(Latency::EndToEnd),
    LATENCY_LABELS,
    "Time from a request to the end of its answer.",
);

/// How long the first token of a stream took, between configured edges.
pub static TTFT: Family = family(
    16,
    "aisix_request_ttft_seconds",
    Kind::Histogram(Latency::FirstToken),
    LATENCY_LABELS,
    "Time from a request to the first token of its stream.",
);

/// Attempts at an upstream.
pub static DEPLOYMENT_REQUESTS: Family = family(
    17,
    "aisix_deployment_requests_total",
    Kind::Counter,
    DEPLOYMENT_LABELS,
    "Attempts at an upstream model.",
);

/// Attempts that succeeded.
pub static DEPLOYMENT_SUCCESSES: Family = family(
    18,
    "aisix_deployment_success_responses_total",
    Kind::Counter,
    DEPLOYMENT_LABELS,
    "Attempts at an upstream model that succeeded.",
);

/// Attempts that failed.
pub static DEPLOYMENT_FAILURES: Family = family(
    19,
    "aisix_deployment_failure_responses_total",
    Kind::Counter,
    DEPLOYMENT_LABELS,
    "Attempts at an upstream model that failed.",
);

/// Usage events handed on.
pub static USAGE_EVENTS_EMITTED: Family = family(
    20,
    "aisix_usage_events_emitted_total",
    Kind::Counter,
    &[
        "handler",
        "status_code",
        "inbound_protocol",
        "model",
        "provider_key_id",
        "provider_key_name",
    ],
    "Usage events handed on for the control plane.",
);

/// Usage events lost.
pub static USAGE_EVENT_DROPS: Family = family(
    21,
    "aisix_usage_event_drops_total",
    Kind::Counter,
    &["reason", "model", "provider_key_id", "provider_key_name"],
    "Usage events that were lost.",
);

/// Decisions about callers.
pub static AUTH_DECISIONS: Family = family(
    22,
    "aisix_auth_decisions_total",
    Kind::Counter,
    &["method", "result", "reason"],
    "Callers that were let in or turned away.",
);

/// Numbers that could not be counted because the slots are used up. Not among the published ones.
pub static SAMPLES_DROPPED: Family = family(
    23,
    "aisix_metric_samples_dropped_total",
    Kind::Counter,
    &[],
    "Samples counted nowhere, because the memory of a worker's metrics is full.",
);

/// Tokens by the program that called.
pub static TOKENS_BY_CLIENT: Family = family(
    24,
    "aisix_llm_tokens_by_client_total",
    Kind::Counter,
    &["client_type", "model", "token_type"],
    "Tokens by the calling program, which its user agent names.",
);

/// TLS handshakes of callers. Not among the published ones.
pub static TLS_HANDSHAKES: Family = family(
    25,
    "aisix_tls_handshakes_total",
    Kind::Counter,
    &["result"],
    "TLS handshakes of callers: ok, failed, timeout, or unsigned where the signer did not sign.",
);

/// Requests under a cache policy.
pub static CACHE_REQUESTS: Family = family(
    26,
    "aisix_cache_requests_total",
    Kind::Counter,
    &["policy", "outcome"],
    "Requests under a cache policy: hit_exact, miss, or bypass where the caller asked for that.",
);

/// What the Redis of the cache did not do. Not among the published ones.
pub static CACHE_REDIS_FAILURES: Family = family(
    27,
    "aisix_cache_redis_failures_total",
    Kind::Counter,
    &["op"],
    "Look-ups (find) and answers to be kept (keep) that the Redis of cache.redis did not serve.",
);

/// How long guardrails took, between configured edges.
pub static GUARDRAIL_LATENCY: Family = family(
    28,
    "aisix_guardrail_latency_seconds",
    Kind::Histogram(Latency::Guardrail),
    &["env_id", "guardrail", "kind", "phase", "result", "error_type"],
    "Time that a guardrail took to look at a request or an answer, of a stream in sum.",
);

/// Requests and answers that guardrails refused.
pub static GUARDRAIL_BLOCKS: Family = family(
    29,
    "aisix_guardrail_blocks_total",
    Kind::Counter,
    &[],
    "Requests and answers refused by guardrails.",
);

/// What guardrails let through unseen.
pub static GUARDRAIL_BYPASSES: Family = family(
    30,
    "aisix_guardrail_bypasses_total",
    Kind::Counter,
    &["reason"],
    "Requests and answers that guardrails let through unseen.",
);

/// Models that were left alone after a failure.
pub static DEPLOYMENT_COOLED_DOWN: Family = family(
    31,
    "aisix_deployment_cooled_down_total",
    Kind::Counter,
    DEPLOYMENT_LABELS,
    "How often an upstream model was left alone for a while after a failure.",
);

/// Fallbacks within a group that brought an answer.
pub static ROUTING_SUCCESSFUL_FALLBACKS: Family = family(
    32,
    "aisix_routing_successful_fallbacks_total",
    Kind::Counter,
    &["model", "fallback_model"],
    "Requests that another target of their model group has answered after a failure.",
);

/// Fallbacks within a group that brought none.
pub static ROUTING_FAILED_FALLBACKS: Family = family(
    33,
    "aisix_routing_failed_fallbacks_total",
    Kind::Counter,
    &["model", "fallback_model"],
    "Targets of a model group that failed as well when they were fallen back to.",
);

/// What tokens have cost.
pub static LLM_SPEND: Family = family(
    34,
    "aisix_llm_spend_micro_usd_total",
    Kind::Counter,
    USE_LABELS,
    "Cost of prompts and answers by the prices of their models, in millionths of a dollar.",
);

/// Requests that a limit has refused.
pub static RATE_LIMIT_REJECTIONS: Family = family(
    35,
    "aisix_ratelimit_rejections_total",
    Kind::Counter,
    &["scope", "layer", "policy_id"],
    "Requests that a rate limit has refused.",
);

/// What a caller key may still ask for.
pub static RATE_LIMIT_REQUESTS_LEFT: Family = family(
    36,
    "aisix_ratelimit_remaining_requests",
    Kind::Latest,
    &["api_key_id", "model"],
    "Requests that were left to a caller key in its minute when it asked last.",
);

/// What a caller key may still use.
pub static RATE_LIMIT_TOKENS_LEFT: Family = family(
    37,
    "aisix_ratelimit_remaining_tokens",
    Kind::Latest,
    &["api_key_id", "model"],
    "Tokens that were left to a caller key in its minute when it asked last.",
);

/// Spans that were not exported.
pub static OTLP_DROPS: Family = family(
    38,
    "aisix_otlp_fanout_drops_total",
    Kind::Counter,
    &["exporter", "reason"],
    "Spans that an exporter should have been told of and was not.",
);

/// Batches that could not be delivered.
pub static OTLP_FAILURES: Family = family(
    39,
    "aisix_otlp_fanout_failures_total",
    Kind::Counter,
    &["exporter"],
    "Tries to deliver a batch of spans that failed.",
);

/// Requests refused since there were too many. Not among the published ones.
pub static PROXY_OVERLOAD_REJECTIONS: Family = family(
    40,
    "aisix_proxy_overload_rejections_total",
    Kind::Counter,
    &["endpoint", "inbound_protocol"],
    "Requests answered with 503 and Retry-After, because more came than the workers can serve.",
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_number_of_a_family_is_its_position() {
        for (position, family) in FAMILIES.iter().enumerate() {
            assert_eq!(usize::from(family.number), position, "{}", family.name);
            assert_eq!(Family::from_number(family.number), Some(*family));
        }
        assert_eq!(Family::from_number(FAMILIES.len() as u16), None);
    }

    #[test]
    fn no_name_is_given_twice_and_every_family_is_explained() {
        let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            assert!(family.help.ends_with('.'), "{}", family.name);
            let labels: BTreeSet<_> = family.labels.iter().collect();
            assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        }
    }

    #[test]
    fn names_follow_the_kind() {
        for family in FAMILIES {
            let counter = family.kind == Kind::Counter;
            assert_eq!(family.name.ends_with("_total"), counter, "{}", family.name);
            let timed = matches!(family.kind, Kind::Histogram(_) | Kind::Summary);
            assert_eq!(family.name.ends_with("_seconds"), timed, "{}", family.name);
        }
    }
}
