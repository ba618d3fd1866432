//! One usage event: what the Cloud is told of one attempt at an upstream.

mod encode;
pub mod encoded;

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::Serialize;

/// One upstream attempt, or one request that never reached an upstream. Field names are the Cloud's; an optional field is
/// left out of the JSON when it is empty, zero or false.
/// Its texts are its own, or those of whoever has told it, or of the bytes that it was read from.
#[derive(Clone, Debug, Default, PartialEq, Decode, Serialize)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize"))]
pub struct UsageEvent<S = String> {
    /// Ours, unique: by it a repeated delivery is recognised.
    pub event_id: S,
    /// The id returned to the caller in `x-aisix-request-id`.
    pub request_id: S,
    /// W3C trace id, 32 lower-case hex digits.
    #[serde(skip_serializing_if = "is_empty")]
    pub trace_id: S,
    /// When the request came, RFC 3339 UTC in whole seconds.
    pub occurred_at: S,
    /// Resource id of the model dispatched to; empty if unresolved.
    pub model_id: S,
    /// Resource id of the caller key.
    pub api_key_id: S,
    /// Model name exactly as the caller sent it.
    #[serde(skip_serializing_if = "is_empty")]
    pub requested_model: S,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Part of the prompt that the provider had cached.
    #[serde(skip_serializing_if = "is_zero")]
    pub cached_prompt_tokens: u32,
    /// Part of the answer spent on reasoning.
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u32,
    /// Anthropic cache writes, beside the prompt's tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_creation_tokens: u32,
    /// Anthropic cache reads, beside the prompt's tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read_tokens: u32,
    /// Token counts are ours, not the provider's.
    #[serde(skip_serializing_if = "is_false")]
    pub usage_estimated: bool,
    /// This attempt, start to settled, in milliseconds.
    pub upstream_latency_ms: u32,
    /// This attempt, start to the first stream frame, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub upstream_ttft_ms: u32,
    /// The whole request, on its last attempt: to the full answer, or to the first token of a stream, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub downstream_latency_ms: u32,
    /// What the caller saw; 499 when the caller left.
    pub status_code: u16,
    /// `id` of the provider's answer.
    #[serde(skip_serializing_if = "is_empty")]
    pub provider_request_id: S,
    /// The model that the provider says it was.
    #[serde(skip_serializing_if = "is_empty")]
    pub provider_model_version: S,
    /// Why the answer ended.
    #[serde(skip_serializing_if = "is_empty")]
    pub finish_reason: S,
    /// Informational; the Cloud computes its own.
    pub cost_usd: f64,
    /// Seconds of sound that were worked on.
    #[serde(skip_serializing_if = "is_zero_seconds")]
    pub audio_duration_seconds: f64,
    /// A guardrail refused the request or its answer.
    pub guardrail_blocked: bool,
    /// Why a guardrail let something through unseen: the first reason.
    #[serde(skip_serializing_if = "is_empty")]
    pub guardrail_bypassed_reason: S,
    /// The guardrails that looked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub applied_guardrails: Vec<AppliedGuardrail>,
    /// Masked spans by detector.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub redacted_entity_counts: BTreeMap<String, u32>,
    /// What watching guardrails would have done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guardrail_monitor_hits: Vec<GuardrailHit>,
    /// What guardrails have done; on the last attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guardrail_enforced_hits: Vec<GuardrailHit>,
    /// `hit`, `miss`, `bypass` or `disabled`.
    #[serde(skip_serializing_if = "is_empty")]
    pub cache_status: S,
    /// Tokens of the prompt that a hit has saved.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_hit_saved_input_tokens: u32,
    /// Tokens of the answer that a hit has saved.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_hit_saved_output_tokens: u32,
    /// `exact`.
    #[serde(skip_serializing_if = "is_empty")]
    pub cache_hit_layer: S,
    /// Dialect of the caller: `openai`, `anthropic`, …
    #[serde(skip_serializing_if = "is_empty")]
    pub inbound_protocol: S,
    /// 0 for the first attempt of a request.
    pub attempt_index: u32,
    /// `initial`, `retry` or `fallback`.
    #[serde(skip_serializing_if = "is_empty")]
    pub attempt_kind: S,
    /// Display name of the group target used.
    #[serde(skip_serializing_if = "is_empty")]
    pub attempt_model: S,
    /// What kind of failure, if any.
    #[serde(skip_serializing_if = "is_empty")]
    pub error_class: S,
    /// At most 2048 characters, without control characters.
    #[serde(skip_serializing_if = "is_empty")]
    pub error_message: S,
    /// `catalog` or `byo`.
    #[serde(skip_serializing_if = "is_empty")]
    pub provider_kind: S,
    /// Tag of the provider key.
    #[serde(skip_serializing_if = "is_false")]
    pub provider_featured: bool,
    /// Tag of the provider key.
    #[serde(skip_serializing_if = "is_empty")]
    pub branded_provider: S,
    /// Tag of the provider key.
    #[serde(skip_serializing_if = "is_empty")]
    pub pk_label: S,
    /// Tag of the provider key.
    #[serde(skip_serializing_if = "is_empty")]
    pub byo_label: S,
    /// The caller's address, after the forwarding header was considered.
    #[serde(skip_serializing_if = "is_empty")]
    pub client_source_ip: S,
    /// At most 256 characters.
    #[serde(skip_serializing_if = "is_empty")]
    pub client_user_agent: S,
    /// `anonymous` where no credential was asked for.
    #[serde(skip_serializing_if = "is_empty")]
    pub auth_type: S,
    /// Name of the passthrough route.
    #[serde(skip_serializing_if = "is_empty")]
    pub passthrough_route_name: S,
    /// The end user, as the network before us named it; at most 256 characters.
    #[serde(skip_serializing_if = "is_empty")]
    pub client_identity: S,
    /// The subject of the caller's token.
    #[serde(skip_serializing_if = "is_empty")]
    pub jwt_subject: S,
    /// The identity provider of the caller's token.
    #[serde(skip_serializing_if = "is_empty")]
    pub jwt_provider: S,
    /// The claim mapping by which the token was understood.
    #[serde(skip_serializing_if = "is_empty")]
    pub jwt_claim_mapping: S,
    /// How many events this one stands for, if it is the sum of several whose details had to go.
    #[serde(skip_serializing_if = "is_zero")]
    pub aggregated_events: u32,
}

/// A guardrail that looked at a request or its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct AppliedGuardrail {
    /// `keyword`, `pii`, …
    pub kind: String,
    /// `input`, `output` or `both`.
    pub hook: String,
}

/// What a guardrail has done, or would have done.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize)]
pub struct GuardrailHit {
    /// Its name.
    pub guardrail_name: String,
    /// `input` or `output`.
    pub hook: String,
    /// `would_block`, `would_mask`, `masked`, `blocked` or `blocked_unavailable`.
    pub action: String,
    /// Why; never what was found.
    #[serde(skip_serializing_if = "is_empty")]
    pub reason: String,
    /// Why it could not look.
    #[serde(skip_serializing_if = "is_empty")]
    pub error_type: String,
    /// Found spans by detector.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u32>,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub duration_us: u32,
}

fn is_empty(text: &impl AsRef<str>) -> bool {
    text.as_ref().is_empty()
}

fn is_zero_seconds(seconds: &f64) -> bool {
    *seconds <= 0.0
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_always_sent_are_there_even_when_empty_and_no_others() {
        let json = serde_json::to_value(<UsageEvent>::default()).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "api_key_id",
                "attempt_index",
                "completion_tokens",
                "cost_usd",
                "event_id",
                "guardrail_blocked",
                "model_id",
                "occurred_at",
                "prompt_tokens",
                "request_id",
                "status_code",
                "upstream_latency_ms",
            ]
        );
    }
}
