//! `POST /dp/telemetry`: a batch of usage events, taken whole or refused whole.

use super::{
    fields::{
        Field,
        Shape::{Bool, Count, Counts, Hex, List, Number, OneOf, Text, TextMax, Time, Visible},
        check, optional, required,
    },
    not_kept,
};
use crate::{
    cloud::{Cloud, timestamp},
    identity::Identity,
    ledger::Object,
    reply::{self, Refusal, Reply},
};
use http::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Far above a hundred events, the batch size of gateways, and above the larger batch that they send when they stop.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

const U32: u64 = u32::MAX as u64;
const U16: u64 = u16::MAX as u64;

/// One event: one attempt upstream, or a request that came to none.
const EVENT: &[Field] = &[
    required("request_id", Visible(256)),
    optional("event_id", Visible(256)),
    optional("trace_id", Hex(32)),
    required("occurred_at", Time),
    required("model_id", Text),
    required("api_key_id", Text),
    optional("requested_model", Text),
    required("prompt_tokens", Count(U32)),
    required("completion_tokens", Count(U32)),
    optional("cached_prompt_tokens", Count(U32)),
    optional("reasoning_tokens", Count(U32)),
    optional("cache_creation_tokens", Count(U32)),
    optional("cache_read_tokens", Count(U32)),
    optional("usage_estimated", Bool),
    optional("audio_duration_seconds", Number),
    required("upstream_latency_ms", Count(U32)),
    optional("upstream_ttft_ms", Count(U32)),
    optional("downstream_latency_ms", Count(U32)),
    required("status_code", Count(U16)),
    optional("provider_request_id", Text),
    optional("provider_model_version", Text),
    optional("finish_reason", Text),
    required("cost_usd", Number),
    required("guardrail_blocked", Bool),
    optional("guardrail_bypassed_reason", Text),
    optional(
        "applied_guardrails",
        List(&[required("kind", Text), required("hook", OneOf(&["input", "output", "both"]))]),
    ),
    optional("redacted_entity_counts", Counts),
    optional(
        "guardrail_monitor_hits",
        List(&[
            required("guardrail_name", Text),
            required("hook", OneOf(&["input", "output"])),
            required("action", OneOf(&["would_block", "would_mask"])),
            optional("reason", Text),
            optional("counts", Counts),
        ]),
    ),
    optional(
        "guardrail_enforced_hits",
        List(&[
            required("guardrail_name", Text),
            required("hook", OneOf(&["input", "output"])),
            required("action", OneOf(&["masked", "blocked", "blocked_unavailable"])),
            optional("error_type", Text),
            optional("counts", Counts),
            optional("duration_us", Count(u64::MAX)),
        ]),
    ),
    optional("cache_status", OneOf(&["hit", "miss", "bypass", "disabled"])),
    optional("cache_hit_saved_input_tokens", Count(U32)),
    optional("cache_hit_saved_output_tokens", Count(U32)),
    optional("cache_hit_layer", OneOf(&["exact", "semantic"])),
    optional("cache_similarity", Number),
    optional(
        "inbound_protocol",
        OneOf(&["openai", "anthropic", "mcp", "a2a", "passthrough", "realtime", "batch"]),
    ),
    required("attempt_index", Count(U32)),
    optional("attempt_kind", OneOf(&["initial", "retry", "fallback"])),
    optional("attempt_model", Text),
    optional("error_class", Text),
    optional("error_message", TextMax(2048)),
    optional("provider_kind", OneOf(&["catalog", "byo"])),
    optional("provider_featured", Bool),
    optional("branded_provider", TextMax(256)),
    optional("pk_label", TextMax(256)),
    optional("byo_label", TextMax(256)),
    optional("auth_type", Text),
    optional("client_source_ip", Text),
    optional("client_user_agent", TextMax(256)),
    optional("mcp_server_name", Text),
    optional("mcp_tool_name", Text),
    optional("a2a_agent_name", Text),
    optional("a2a_method", Text),
    optional("a2a_operation", Text),
    optional("a2a_protocol_version", Text),
    optional("a2a_task_id", Text),
    optional("a2a_context_id", Text),
    optional("a2a_task_state", Text),
    optional("a2a_stream_event_count", Count(U32)),
    optional("passthrough_route_name", Text),
    optional("client_identity", TextMax(256)),
    optional("jwt_subject", Text),
    optional("jwt_provider", Text),
    optional("jwt_claim_mapping", Text),
];

#[derive(Deserialize)]
struct Batch {
    events: Vec<Value>,
}

/// Takes a batch.
pub async fn receive(cloud: &Cloud, client: &Identity, body: Incoming) -> Result<Reply, Refusal> {
    let batch: Batch = reply::read_json(body, BODY_BYTES_MAX).await?;
    if let Some(refusal) = cloud.faults().refusal(&batch.events) {
        return Err(refusal);
    }
    let events = checked(batch.events).map_err(Refusal::invalid)?;
    let received_at = timestamp(OffsetDateTime::now_utc());
    let sent = events.len();
    let accepted = cloud.ledger().add_usage(client, &received_at, events).map_err(not_kept)?;
    tracing::info!(
        "usage: {accepted} new of {sent} events from {} of {}",
        client.dp_id,
        client.env_id
    );
    Ok(reply::json(StatusCode::OK, &json!({"accepted": accepted})))
}

/// The events as they are kept: every one acceptable, empty texts as null.
fn checked(events: Vec<Value>) -> Result<Vec<Object>, String> {
    let check_one = |(index, event): (usize, Value)| {
        let Value::Object(mut event) = event else {
            return Err(format!("event {index}: must be an object"));
        };
        check(&event, EVENT).map_err(|why| format!("event {index}: {why}"))?;
        for value in event.values_mut() {
            if value.as_str() == Some("") {
                *value = Value::Null;
            }
        }
        Ok(event)
    };
    events.into_iter().enumerate().map(check_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(change: Value) -> Value {
        let mut event = json!({
            "request_id": "r-1", "occurred_at": "2026-09-01T10:15:30Z", "model_id": "m-1", "api_key_id": "",
            "prompt_tokens": 1, "completion_tokens": 2, "upstream_latency_ms": 3, "status_code": 200,
            "cost_usd": 0.0, "guardrail_blocked": false, "attempt_index": 0,
        });
        for (name, value) in change.as_object().unwrap() {
            event[name] = value.clone();
        }
        event
    }

    #[test]
    fn one_bad_event_refuses_the_batch_and_is_named() {
        let batch = vec![event(json!({})), event(json!({"request_id": "with space"}))];
        assert_eq!(
            checked(batch).unwrap_err(),
            "event 1: request_id must be 1 to 256 bytes of visible ASCII"
        );
    }

    #[test]
    fn what_the_protocol_permits_is_accepted_and_unknown_fields_too() {
        for change in [
            json!({}),
            json!({"novelty": {"a": 1}, "trace_id": null, "finish_reason": ""}),
            json!({"request_id": "~".repeat(256), "event_id": "x", "status_code": 499}),
            json!({"trace_id": "0123456789abcdef0123456789abcdef", "cache_similarity": 0.5}),
            json!({"applied_guardrails": [{"kind": "pii", "hook": "both"}], "redacted_entity_counts": {"EMAIL": 2}}),
        ] {
            assert!(checked(vec![event(change.clone())]).is_ok(), "{change}");
        }
    }

    #[test]
    fn what_it_does_not_is_refused() {
        for change in [
            json!({"request_id": ""}),
            json!({"request_id": "~".repeat(257)}),
            json!({"request_id": "caf\u{e9}"}),
            json!({"request_id": null}),
            json!({"occurred_at": "2026-09-01T10:15:30.5Z"}),
            json!({"occurred_at": "2026-09-01T10:15:30+00:00"}),
            json!({"prompt_tokens": -1}),
            json!({"prompt_tokens": 4_294_967_296_u64}),
            json!({"status_code": "200"}),
            json!({"trace_id": "0123456789ABCDEF0123456789ABCDEF"}),
            json!({"attempt_kind": "second"}),
            json!({"error_message": "e".repeat(2049)}),
            json!({"applied_guardrails": [{"kind": "pii"}]}),
            json!({"redacted_entity_counts": {"EMAIL": "2"}}),
        ] {
            assert!(checked(vec![event(change.clone())]).is_err(), "{change}");
        }
        assert_eq!(checked(vec![json!(7)]).unwrap_err(), "event 0: must be an object");
    }

    #[test]
    fn an_empty_text_is_kept_as_null() {
        let kept = checked(vec![event(json!({}))]).unwrap();
        assert_eq!(kept[0]["api_key_id"], Value::Null);
    }
}
