//! A usage event as bytes, as the derived encoding would have them. Every request leaves one: what most of its fields hold, nothing,
//! a word or a small number, is written where it is met, without a way through the library for each.

use bincode::enc::write::Writer;
use bincode::enc::{Encode, Encoder};
use bincode::error::EncodeError;

use super::UsageEvent;

/// The encoding has numbers below this one in a byte.
const IN_A_BYTE: u32 = 251;

impl<S: AsRef<str>> Encode for UsageEvent<S> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let Self {
            event_id,
            request_id,
            trace_id,
            occurred_at,
            model_id,
            api_key_id,
            requested_model,
            prompt_tokens,
            completion_tokens,
            cached_prompt_tokens,
            reasoning_tokens,
            cache_creation_tokens,
            cache_read_tokens,
            usage_estimated,
            upstream_latency_ms,
            upstream_ttft_ms,
            downstream_latency_ms,
            status_code,
            provider_request_id,
            provider_model_version,
            finish_reason,
            cost_usd,
            audio_duration_seconds,
            guardrail_blocked,
            guardrail_bypassed_reason,
            applied_guardrails,
            redacted_entity_counts,
            guardrail_monitor_hits,
            guardrail_enforced_hits,
            cache_status,
            cache_hit_saved_input_tokens,
            cache_hit_saved_output_tokens,
            cache_hit_layer,
            inbound_protocol,
            attempt_index,
            attempt_kind,
            attempt_model,
            error_class,
            error_message,
            provider_kind,
            provider_featured,
            branded_provider,
            pk_label,
            byo_label,
            client_source_ip,
            client_user_agent,
            auth_type,
            passthrough_route_name,
            client_identity,
            jwt_subject,
            jwt_provider,
            jwt_claim_mapping,
            aggregated_events,
        } = self;
        text(event_id.as_ref(), encoder)?;
        text(request_id.as_ref(), encoder)?;
        text(trace_id.as_ref(), encoder)?;
        text(occurred_at.as_ref(), encoder)?;
        text(model_id.as_ref(), encoder)?;
        text(api_key_id.as_ref(), encoder)?;
        text(requested_model.as_ref(), encoder)?;
        number(*prompt_tokens, encoder)?;
        number(*completion_tokens, encoder)?;
        number(*cached_prompt_tokens, encoder)?;
        number(*reasoning_tokens, encoder)?;
        number(*cache_creation_tokens, encoder)?;
        number(*cache_read_tokens, encoder)?;
        usage_estimated.encode(encoder)?;
        number(*upstream_latency_ms, encoder)?;
        number(*upstream_ttft_ms, encoder)?;
        number(*downstream_latency_ms, encoder)?;
        number(u32::from(*status_code), encoder)?;
        text(provider_request_id.as_ref(), encoder)?;
        text(provider_model_version.as_ref(), encoder)?;
        text(finish_reason.as_ref(), encoder)?;
        cost_usd.encode(encoder)?;
        audio_duration_seconds.encode(encoder)?;
        guardrail_blocked.encode(encoder)?;
        text(guardrail_bypassed_reason.as_ref(), encoder)?;
        applied_guardrails.encode(encoder)?;
        redacted_entity_counts.encode(encoder)?;
        guardrail_monitor_hits.encode(encoder)?;
        guardrail_enforced_hits.encode(encoder)?;
        text(cache_status.as_ref(), encoder)?;
        number(*cache_hit_saved_input_tokens, encoder)?;
        number(*cache_hit_saved_output_tokens, encoder)?;
        text(cache_hit_layer.as_ref(), encoder)?;
        text(inbound_protocol.as_ref(), encoder)?;
        number(*attempt_index, encoder)?;
        text(attempt_kind.as_ref(), encoder)?;
        text(attempt_model.as_ref(), encoder)?;
        text(error_class.as_ref(), encoder)?;
        text(error_message.as_ref(), encoder)?;
        text(provider_kind.as_ref(), encoder)?;
        provider_featured.encode(encoder)?;
        text(branded_provider.as_ref(), encoder)?;
        text(pk_label.as_ref(), encoder)?;
        text(byo_label.as_ref(), encoder)?;
        text(client_source_ip.as_ref(), encoder)?;
        text(client_user_agent.as_ref(), encoder)?;
        text(auth_type.as_ref(), encoder)?;
        text(passthrough_route_name.as_ref(), encoder)?;
        text(client_identity.as_ref(), encoder)?;
        text(jwt_subject.as_ref(), encoder)?;
        text(jwt_provider.as_ref(), encoder)?;
        text(jwt_claim_mapping.as_ref(), encoder)?;
        number(*aggregated_events, encoder)?;
        Ok(())
    }
}

#[inline(always)]
fn text(text: &str, encoder: &mut impl Encoder) -> Result<(), EncodeError> {
    match u8::try_from(text.len()) {
        Ok(0) => encoder.writer().write(&[0]),
        Ok(length) if u32::from(length) < IN_A_BYTE => {
            encoder.writer().write(&[length])?;
            encoder.writer().write(text.as_bytes())
        }
        _ => text.encode(encoder),
    }
}

#[inline(always)]
fn number(number: u32, encoder: &mut impl Encoder) -> Result<(), EncodeError> {
    match u8::try_from(number) {
        Ok(byte) if number < IN_A_BYTE => encoder.writer().write(&[byte]),
        _ => number.encode(encoder),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bincode::Encode;
    use proptest::prelude::*;

    use super::*;
    use crate::codec;
    use crate::usage::{AppliedGuardrail, GuardrailHit};

    /// The same fields, for the encoding that is derived.
    #[derive(Encode)]
    struct Derived<'a> {
        event_id: &'a str,
        request_id: &'a str,
        trace_id: &'a str,
        occurred_at: &'a str,
        model_id: &'a str,
        api_key_id: &'a str,
        requested_model: &'a str,
        prompt_tokens: u32,
        completion_tokens: u32,
        cached_prompt_tokens: u32,
        reasoning_tokens: u32,
        cache_creation_tokens: u32,
        cache_read_tokens: u32,
        usage_estimated: bool,
        upstream_latency_ms: u32,
        upstream_ttft_ms: u32,
        downstream_latency_ms: u32,
        status_code: u16,
        provider_request_id: &'a str,
        provider_model_version: &'a str,
        finish_reason: &'a str,
        cost_usd: f64,
        audio_duration_seconds: f64,
        guardrail_blocked: bool,
        guardrail_bypassed_reason: &'a str,
        applied_guardrails: Vec<AppliedGuardrail>,
        redacted_entity_counts: BTreeMap<String, u32>,
        guardrail_monitor_hits: Vec<GuardrailHit>,
        guardrail_enforced_hits: Vec<GuardrailHit>,
        cache_status: &'a str,
        cache_hit_saved_input_tokens: u32,
        cache_hit_saved_output_tokens: u32,
        cache_hit_layer: &'a str,
        inbound_protocol: &'a str,
        attempt_index: u32,
        attempt_kind: &'a str,
        attempt_model: &'a str,
        error_class: &'a str,
        error_message: &'a str,
        provider_kind: &'a str,
        provider_featured: bool,
        branded_provider: &'a str,
        pk_label: &'a str,
        byo_label: &'a str,
        client_source_ip: &'a str,
        client_user_agent: &'a str,
        auth_type: &'a str,
        passthrough_route_name: &'a str,
        client_identity: &'a str,
        jwt_subject: &'a str,
        jwt_provider: &'a str,
        jwt_claim_mapping: &'a str,
        aggregated_events: u32,
    }

    fn derived(event: &UsageEvent) -> Derived<'_> {
        Derived {
            event_id: &event.event_id,
            request_id: &event.request_id,
            trace_id: &event.trace_id,
            occurred_at: &event.occurred_at,
            model_id: &event.model_id,
            api_key_id: &event.api_key_id,
            requested_model: &event.requested_model,
            prompt_tokens: event.prompt_tokens,
            completion_tokens: event.completion_tokens,
            cached_prompt_tokens: event.cached_prompt_tokens,
            reasoning_tokens: event.reasoning_tokens,
            cache_creation_tokens: event.cache_creation_tokens,
            cache_read_tokens: event.cache_read_tokens,
            usage_estimated: event.usage_estimated,
            upstream_latency_ms: event.upstream_latency_ms,
            upstream_ttft_ms: event.upstream_ttft_ms,
            downstream_latency_ms: event.downstream_latency_ms,
            status_code: event.status_code,
            provider_request_id: &event.provider_request_id,
            provider_model_version: &event.provider_model_version,
            finish_reason: &event.finish_reason,
            cost_usd: event.cost_usd,
            audio_duration_seconds: event.audio_duration_seconds,
            guardrail_blocked: event.guardrail_blocked,
            guardrail_bypassed_reason: &event.guardrail_bypassed_reason,
            applied_guardrails: event.applied_guardrails.clone(),
            redacted_entity_counts: event.redacted_entity_counts.clone(),
            guardrail_monitor_hits: event.guardrail_monitor_hits.clone(),
            guardrail_enforced_hits: event.guardrail_enforced_hits.clone(),
            cache_status: &event.cache_status,
            cache_hit_saved_input_tokens: event.cache_hit_saved_input_tokens,
            cache_hit_saved_output_tokens: event.cache_hit_saved_output_tokens,
            cache_hit_layer: &event.cache_hit_layer,
            inbound_protocol: &event.inbound_protocol,
            attempt_index: event.attempt_index,
            attempt_kind: &event.attempt_kind,
            attempt_model: &event.attempt_model,
            error_class: &event.error_class,
            error_message: &event.error_message,
            provider_kind: &event.provider_kind,
            provider_featured: event.provider_featured,
            branded_provider: &event.branded_provider,
            pk_label: &event.pk_label,
            byo_label: &event.byo_label,
            client_source_ip: &event.client_source_ip,
            client_user_agent: &event.client_user_agent,
            auth_type: &event.auth_type,
            passthrough_route_name: &event.passthrough_route_name,
            client_identity: &event.client_identity,
            jwt_subject: &event.jwt_subject,
            jwt_provider: &event.jwt_provider,
            jwt_claim_mapping: &event.jwt_claim_mapping,
            aggregated_events: event.aggregated_events,
        }
    }

    fn event(
        texts: Vec<String>,
        numbers: Vec<u32>,
        flags: [bool; 3],
        status: u16,
        measures: (f64, f64),
        entities: BTreeMap<String, u32>,
    ) -> UsageEvent {
        let hits = |action: &str| {
            let hit = |(name, count): (&String, &u32)| GuardrailHit {
                guardrail_name: name.clone(),
                action: action.to_owned(),
                counts: entities.clone(),
                duration_us: *count,
                ..GuardrailHit::default()
            };
            entities.iter().map(hit).collect::<Vec<_>>()
        };
        let applied =
            |name: &String| AppliedGuardrail { kind: name.clone(), hook: "both".to_owned() };
        let applied_guardrails = entities.keys().map(applied).collect();
        let (guardrail_monitor_hits, guardrail_enforced_hits) =
            (hits("would_block"), hits("masked"));
        let (mut texts, mut numbers) = (texts.into_iter(), numbers.into_iter());
        let mut text = || texts.next().unwrap();
        let mut number = || numbers.next().unwrap();
        UsageEvent {
            event_id: text(),
            request_id: text(),
            trace_id: text(),
            occurred_at: text(),
            model_id: text(),
            api_key_id: text(),
            requested_model: text(),
            prompt_tokens: number(),
            completion_tokens: number(),
            cached_prompt_tokens: number(),
            reasoning_tokens: number(),
            cache_creation_tokens: number(),
            cache_read_tokens: number(),
            usage_estimated: flags[0],
            upstream_latency_ms: number(),
            upstream_ttft_ms: number(),
            downstream_latency_ms: number(),
            status_code: status,
            provider_request_id: text(),
            provider_model_version: text(),
            finish_reason: text(),
            cost_usd: measures.0,
            audio_duration_seconds: measures.1,
            guardrail_blocked: flags[1],
            guardrail_bypassed_reason: text(),
            applied_guardrails,
            redacted_entity_counts: entities,
            guardrail_monitor_hits,
            guardrail_enforced_hits,
            cache_status: text(),
            cache_hit_saved_input_tokens: number(),
            cache_hit_saved_output_tokens: number(),
            cache_hit_layer: text(),
            inbound_protocol: text(),
            attempt_index: number(),
            attempt_kind: text(),
            attempt_model: text(),
            error_class: text(),
            error_message: text(),
            provider_kind: text(),
            provider_featured: flags[2],
            branded_provider: text(),
            pk_label: text(),
            byo_label: text(),
            client_source_ip: text(),
            client_user_agent: text(),
            auth_type: text(),
            passthrough_route_name: text(),
            client_identity: text(),
            jwt_subject: text(),
            jwt_provider: text(),
            jwt_claim_mapping: text(),
            aggregated_events: number(),
        }
    }

    fn lengths() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "[ -~]{1,40}",
            any::<String>(),
            "[a-z]{248,260}",
            "é{30000,40000}"
        ]
    }

    fn numbers() -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), 0..300_u32, 65_530..65_540_u32, any::<u32>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_bytes_of_an_event_are_those_of_the_derived_encoding(
            texts in prop::collection::vec(lengths(), 30),
            numbers in prop::collection::vec(numbers(), 13),
            flags: [bool; 3],
            status: u16,
            measures: (f64, f64),
            entities in prop::collection::btree_map("[a-z]{0,9}", numbers(), 0..3),
        ) {
            let event = event(texts, numbers, flags, status, measures, entities);
            let bytes = codec::encode(&event).unwrap();
            prop_assert_eq!(&bytes, &codec::encode(&derived(&event)).unwrap());
            let mut onto = b"before".to_vec();
            codec::encode_onto(&mut onto, &event).unwrap();
            prop_assert_eq!(onto.strip_prefix(b"before"), Some(bytes.as_slice()));
            let again: UsageEvent = codec::decode::<_, { codec::VALUE_BYTES_MAX }>(&bytes).unwrap();
            prop_assert_eq!(codec::encode(&again).unwrap(), bytes);
        }
    }
}
