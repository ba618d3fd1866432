//! The usage event of a request.

use std::time::Instant;

use shared::resource::{ModelKind, TelemetryTags};
use shared::usage::UsageEvent;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{
    Account, AttemptKind, CALLER_TEXT_CHARS_MAX, CacheStatus, MESSAGE_CHARS_MAX, Tokens, cut,
    guarding, millis,
};
use crate::identity::Identity;
use crate::request::RequestError;

/// What the Cloud is told of an attempt, or of a request without one; nothing of a request that was never understood.
pub(super) fn event(
    account: &Account,
    status: u16,
    error: Option<&RequestError>,
    tokens: Tokens,
) -> Option<UsageEvent> {
    let requested_model = account.requested_model.as_ref()?;
    let now = Instant::now();
    let since = |start: Instant, end: Instant| millis(end.saturating_duration_since(start));
    let attempt = account.attempt.as_ref();
    let first_event = attempt.and_then(|attempt| attempt.first_event);
    let seen = attempt.map(|attempt| attempt.seen.clone()).unwrap_or_default();
    let tags = account.target.as_ref().map(|target| target.provider_key.telemetry_tags.clone());
    let tags: TelemetryTags = tags.unwrap_or_default();
    let identity = |field: fn(&Identity) -> Option<&String>| {
        let text = account.identity.as_ref().and_then(field);
        text.map_or_else(String::new, |text| cut(text, CALLER_TEXT_CHARS_MAX))
    };
    let tag = |text: Option<String>| cut(&text.unwrap_or_default(), CALLER_TEXT_CHARS_MAX);
    let mut event = UsageEvent {
        event_id: Uuid::new_v4().to_string(),
        request_id: account.id().to_owned(),
        trace_id: account.trace_id.clone(),
        occurred_at: whole_seconds(account.occurred_at),
        model_id: account
            .dispatched
            .as_ref()
            .or(account.model.as_ref())
            .map(|model| model.id.clone())
            .unwrap_or_default(),
        api_key_id: account.caller.as_ref().map(|key| key.id.clone()).unwrap_or_default(),
        requested_model: cut(requested_model, CALLER_TEXT_CHARS_MAX),
        prompt_tokens: tokens.usage.prompt,
        completion_tokens: tokens.usage.completion,
        cached_prompt_tokens: tokens.usage.cached_prompt,
        reasoning_tokens: tokens.usage.reasoning,
        cache_creation_tokens: tokens.usage.cache_creation,
        cache_read_tokens: tokens.usage.cache_read,
        usage_estimated: tokens.is_estimated,
        upstream_latency_ms: attempt.map_or(0, |attempt| since(attempt.started, now)),
        upstream_ttft_ms: attempt
            .zip(first_event)
            .map_or(0, |(attempt, first)| since(attempt.started, first)),
        // Told once, by the attempt that ends the request.
        downstream_latency_ms: if account.is_settled {
            since(account.started, first_event.unwrap_or(now))
        } else {
            0
        },
        status_code: status,
        provider_request_id: seen.id,
        provider_model_version: seen.model,
        finish_reason: seen.finish_reason,
        audio_duration_seconds: seen.audio_seconds,
        cost_usd: cost(account, tokens),
        inbound_protocol: match &account.route {
            Some(_) => "passthrough",
            None => account.endpoint.dialect.name(),
        }
        .to_owned(),
        attempt_index: account.failed_attempts,
        attempt_kind: match (attempt, account.attempt_kind) {
            (None, AttemptKind::Initial) => "",
            (_, kind) => kind.name(),
        }
        .to_owned(),
        attempt_model: if account.is_routed() {
            cut(account.dispatched_name(), CALLER_TEXT_CHARS_MAX)
        } else {
            String::new()
        },
        error_class: error.map(|error| error.class().to_owned()).unwrap_or_default(),
        error_message: error
            .map(|error| cut(&error.detail(), MESSAGE_CHARS_MAX))
            .unwrap_or_default(),
        cache_status: account.cache.map(|cache| cache.name().to_owned()).unwrap_or_default(),
        cache_hit_saved_input_tokens: account.saved.0,
        cache_hit_saved_output_tokens: account.saved.1,
        cache_hit_layer: match account.cache {
            Some(CacheStatus::Hit) => "exact".to_owned(),
            _ => String::new(),
        },
        provider_kind: tag(tags.kind),
        provider_featured: tags.featured,
        branded_provider: tag(tags.branded_provider),
        pk_label: tag(tags.pk_label),
        byo_label: tag(tags.byo_label),
        jwt_subject: identity(|identity| Some(&identity.subject)),
        jwt_provider: identity(|identity| Some(&identity.provider)),
        jwt_claim_mapping: identity(|identity| identity.mapping.as_ref()),
        client_source_ip: account.client_ip.to_string(),
        client_user_agent: account.user_agent.clone(),
        auth_type: account.auth_type.to_owned(),
        passthrough_route_name: account
            .route
            .as_ref()
            .map_or_else(String::new, |route| cut(&route.name, CALLER_TEXT_CHARS_MAX)),
        client_identity: cut(&account.client_identity, CALLER_TEXT_CHARS_MAX),
        ..UsageEvent::default()
    };
    guarding::enter(account, &mut event);
    Some(event)
}

/// What the tokens cost at the model that was asked, in dollars; 0 where it tells no cost.
pub(super) fn cost(account: &Account, tokens: Tokens) -> f64 {
    let cost = account.dispatched.as_ref().and_then(|model| match &model.kind {
        ModelKind::Direct(direct) => direct.cost,
        ModelKind::Routing(_) | ModelKind::Ensemble | ModelKind::Semantic => None,
    });
    let cost = cost.map_or(0.0, |cost| cost.of(tokens.usage.prompt, tokens.usage.completion));
    // A price without measure: no infinite sum can be told.
    cost.min(f64::MAX)
}

/// RFC 3339, in UTC.
fn whole_seconds(moment: OffsetDateTime) -> String {
    let whole = moment.replace_nanosecond(0).unwrap_or(moment);
    // Every year of this era can be written.
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_whole_seconds() {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(1_788_257_730_987_654_321).unwrap();
        assert_eq!(whole_seconds(moment), "2026-09-01T10:15:30Z");
    }
}
