//! The usage event of a request.

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Instant;

use shared::resource::{ModelKind, TelemetryTags};
use shared::usage::UsageEvent;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::text::{CALLER_TEXT_CHARS_MAX, cut};
use super::{Account, AttemptKind, CacheStatus, MESSAGE_CHARS_MAX, Tokens, guarding, millis};
use crate::identity::Identity;
use crate::random::random_id;
use crate::request::RequestError;

/// Tells the Cloud of an attempt, or of a request without one; nothing of a request that was never understood. The texts are the
/// account's, where they can be.
pub(super) fn tell(account: &Account, status: u16, error: Option<&RequestError>, tokens: Tokens) {
    let Some(requested_model) = &account.requested_model else { return };
    let since = |start: Instant, end: Instant| millis(end.saturating_duration_since(start));
    let attempt = account.attempt.as_ref();
    let first_event = attempt.and_then(|attempt| attempt.first_event);
    let seen = attempt.map(|attempt| &attempt.seen);
    let tags = account.target.as_ref().map(|target| &target.provider_key.telemetry_tags);
    let identity = |field: fn(&Identity) -> Option<&String>| {
        short(account.identity.as_ref().and_then(field).map_or("", String::as_str))
    };
    let tag = |field: fn(&TelemetryTags) -> Option<&String>| {
        short(tags.and_then(field).map_or("", String::as_str))
    };
    let mut event = UsageEvent {
        event_id: random_id().into(),
        request_id: account.id().into(),
        trace_id: account.trace_id.as_str().into(),
        occurred_at: whole_seconds(account.occurred_at).into(),
        model_id: account
            .dispatched
            .as_ref()
            .or(account.model.as_ref())
            .map_or("", |model| model.id.as_str())
            .into(),
        api_key_id: account.caller.as_ref().map_or("", |key| key.id.as_str()).into(),
        requested_model: short(requested_model),
        prompt_tokens: tokens.usage.prompt,
        completion_tokens: tokens.usage.completion,
        cached_prompt_tokens: tokens.usage.cached_prompt,
        reasoning_tokens: tokens.usage.reasoning,
        cache_creation_tokens: tokens.usage.cache_creation,
        cache_read_tokens: tokens.usage.cache_read,
        usage_estimated: tokens.is_estimated,
        upstream_latency_ms: millis(account.attempt_took()),
        upstream_ttft_ms: attempt
            .zip(first_event)
            .map_or(0, |(attempt, first)| since(attempt.started, first)),
        // Told once, by the attempt that ends the request.
        downstream_latency_ms: if account.is_settled {
            first_event
                .map_or_else(|| millis(account.took()), |first| since(account.started, first))
        } else {
            0
        },
        status_code: status,
        provider_request_id: seen.map_or("", |seen| seen.id.as_str()).into(),
        provider_model_version: seen.map_or("", |seen| seen.model.as_str()).into(),
        finish_reason: seen.map_or("", |seen| seen.finish_reason.as_str()).into(),
        audio_duration_seconds: seen.map_or(0.0, |seen| seen.audio_seconds),
        cost_usd: cost(account, tokens),
        inbound_protocol: match &account.route {
            Some(_) => "passthrough",
            None => account.endpoint.dialect.name(),
        }
        .into(),
        attempt_index: account.failed_attempts,
        attempt_kind: match (attempt, account.attempt_kind) {
            (None, AttemptKind::Initial) => "",
            (_, kind) => kind.name(),
        }
        .into(),
        attempt_model: if account.is_routed() {
            short(account.dispatched_name())
        } else {
            "".into()
        },
        error_class: error.map_or("", RequestError::class).into(),
        error_message: error
            .map(|error| cut(&error.detail(), MESSAGE_CHARS_MAX).into_owned())
            .unwrap_or_default()
            .into(),
        cache_status: account.cache.map_or("", CacheStatus::name).into(),
        cache_hit_saved_input_tokens: account.saved.0,
        cache_hit_saved_output_tokens: account.saved.1,
        cache_hit_layer: match account.cache {
            Some(CacheStatus::Hit) => "exact",
            _ => "",
        }
        .into(),
        provider_kind: tag(|tags| tags.kind.as_ref()),
        provider_featured: tags.is_some_and(|tags| tags.featured),
        branded_provider: tag(|tags| tags.branded_provider.as_ref()),
        pk_label: tag(|tags| tags.pk_label.as_ref()),
        byo_label: tag(|tags| tags.byo_label.as_ref()),
        jwt_subject: identity(|identity| Some(&identity.subject)),
        jwt_provider: identity(|identity| Some(&identity.provider)),
        jwt_claim_mapping: identity(|identity| identity.mapping.as_ref()),
        client_source_ip: account.client_address.as_str().into(),
        client_user_agent: account.user_agent.as_str().into(),
        auth_type: account.auth_type.into(),
        passthrough_route_name: short(account.route.as_ref().map_or("", |it| it.name.as_str())),
        client_identity: short(&account.client_identity),
        ..UsageEvent::default()
    };
    guarding::enter(account, &mut event);
    account.proxy.usage.record(event);
}

/// At most as much of a text as is told of one, without control characters.
fn short(text: &str) -> Cow<'_, str> {
    cut(text, CALLER_TEXT_CHARS_MAX)
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
    thread_local! {
        /// The second that was asked for last: many requests share one.
        static LAST: RefCell<(i64, String)> = const { RefCell::new((0, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        if *second != moment.unix_timestamp() || text.is_empty() {
            let whole = moment.replace_nanosecond(0).unwrap_or(moment);
            *second = whole.unix_timestamp();
            // Every year of this era can be written.
            *text = whole.format(&Rfc3339).unwrap_or_default();
        }
        text.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_whole_seconds() {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(1_788_257_730_987_654_321).unwrap();
        assert_eq!(whole_seconds(moment), "2026-09-01T10:15:30Z");
        let same = moment.replace_nanosecond(1).unwrap();
        assert_eq!(whole_seconds(same), "2026-09-01T10:15:30Z");
        assert_eq!(whole_seconds(moment + time::Duration::SECOND), "2026-09-01T10:15:31Z");
        assert_eq!(whole_seconds(moment), "2026-09-01T10:15:30Z");
    }

    #[test]
    fn a_text_is_its_own_unless_something_must_go() {
        assert!(matches!(short("gpt 4~o"), Cow::Borrowed("gpt 4~o")));
        assert_eq!(short("a\nb\u{2028}ä"), "abä");
        assert_eq!(short(&"x".repeat(300)), "x".repeat(CALLER_TEXT_CHARS_MAX));
        assert_eq!(short(&"ä".repeat(300)), "ä".repeat(CALLER_TEXT_CHARS_MAX));
    }
}
