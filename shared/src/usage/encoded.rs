//! An event as it is encoded, looked at where it lies: most of its fields are empty, and nobody needs the event itself to know
//! whether it is one, what it has cost whom, and what it is as JSON.
//!
//! What is taken here is what [`crate::codec`] takes, and means the same there: an event whose lists are empty and whose numbers have
//! the form that we write, the shortest. Any other is for the codec.

use crate::simple::begins_with_ascii;

/// A field of [`super::UsageEvent`], in its order.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    kind: Kind,
    /// It is left out where it is empty, zero or false.
    is_optional: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    /// The text that is the caller key.
    Key,
    Whole,
    Short,
    Flag,
    Seconds,
    Cost,
    /// A list or a map.
    List,
}

/// What an event tells in a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// What should be UTF-8: so many bytes, the first of these. Those behind them are of the fields that follow.
    Text(usize, &'a [u8]),
    /// A number.
    Whole(u32),
    /// A number that may have a fraction.
    Real(f64),
    /// A boolean.
    Flag(bool),
}

/// What an event has cost whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost<'a> {
    /// Resource id of the caller key.
    pub api_key_id: &'a str,
    /// Informational.
    pub cost_usd: f64,
}

impl<'a> Cost<'a> {
    /// Of an event that was taken out.
    pub fn of(event: &super::UsageEvent<&'a str>) -> Self {
        Self { api_key_id: event.api_key_id, cost_usd: event.cost_usd }
    }
}

impl Field {
    /// Whether its value is a text.
    pub const fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Text | Kind::Key)
    }
}

const fn always(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_optional: false }
}

const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_optional: true }
}

/// What stands before a number of two bytes, and of four; a smaller one is a byte.
const TWO_BYTES: u8 = 251;
const FOUR_BYTES: u8 = 252;

/// How many fields there are.
pub const FIELDS_COUNT: usize = 53;

/// All fields.
pub static FIELDS: [Field; FIELDS_COUNT] = [
    always("event_id", Kind::Text),
    always("request_id", Kind::Text),
    optional("trace_id", Kind::Text),
    always("occurred_at", Kind::Text),
    always("model_id", Kind::Text),
    always("api_key_id", Kind::Key),
    optional("requested_model", Kind::Text),
    always("prompt_tokens", Kind::Whole),
    always("completion_tokens", Kind::Whole),
    optional("cached_prompt_tokens", Kind::Whole),
    optional("reasoning_tokens", Kind::Whole),
    optional("cache_creation_tokens", Kind::Whole),
    optional("cache_read_tokens", Kind::Whole),
    optional("usage_estimated", Kind::Flag),
    always("upstream_latency_ms", Kind::Whole),
    optional("upstream_ttft_ms", Kind::Whole),
    optional("downstream_latency_ms", Kind::Whole),
    always("status_code", Kind::Short),
    optional("provider_request_id", Kind::Text),
    optional("provider_model_version", Kind::Text),
    optional("finish_reason", Kind::Text),
    always("cost_usd", Kind::Cost),
    optional("audio_duration_seconds", Kind::Seconds),
    always("guardrail_blocked", Kind::Flag),
    optional("guardrail_bypassed_reason", Kind::Text),
    optional("applied_guardrails", Kind::List),
    optional("redacted_entity_counts", Kind::List),
    optional("guardrail_monitor_hits", Kind::List),
    optional("guardrail_enforced_hits", Kind::List),
    optional("cache_status", Kind::Text),
    optional("cache_hit_saved_input_tokens", Kind::Whole),
    optional("cache_hit_saved_output_tokens", Kind::Whole),
    optional("cache_hit_layer", Kind::Text),
    optional("inbound_protocol", Kind::Text),
    always("attempt_index", Kind::Whole),
    optional("attempt_kind", Kind::Text),
    optional("attempt_model", Kind::Text),
    optional("error_class", Kind::Text),
    optional("error_message", Kind::Text),
    optional("provider_kind", Kind::Text),
    optional("provider_featured", Kind::Flag),
    optional("branded_provider", Kind::Text),
    optional("pk_label", Kind::Text),
    optional("byo_label", Kind::Text),
    optional("client_source_ip", Kind::Text),
    optional("client_user_agent", Kind::Text),
    optional("auth_type", Kind::Text),
    optional("passthrough_route_name", Kind::Text),
    optional("client_identity", Kind::Text),
    optional("jwt_subject", Kind::Text),
    optional("jwt_provider", Kind::Text),
    optional("jwt_claim_mapping", Kind::Text),
    optional("aggregated_events", Kind::Whole),
];

/// Who is told what an event has in its fields.
pub trait See {
    /// There is a value in the field at that place in [`FIELDS`]. `None` if it cannot be taken.
    fn see(&mut self, place: usize, value: Value<'_>) -> Option<()>;
}

/// Lets `seer` have what JSON has of the event that the bytes begin with, field by field. Returns what it has cost, and what is behind it;
/// `None` if it is none or is for the codec, or once `seer` does not take a value.
#[inline]
pub fn walk<'a>(bytes: &'a [u8], seer: &mut impl See) -> Option<(Cost<'a>, &'a [u8])> {
    let mut rest = bytes;
    let mut cost = Cost { api_key_id: "", cost_usd: 0.0 };
    // Each by itself, so that nothing about a field has to be found out while it is read.
    macro_rules! read {
        ($($place:literal)*) => {
            const { assert!([$($place),*].len() == FIELDS_COUNT) };
            $(read_field::<$place>(&mut rest, &mut cost, seer)?;)*
        };
    }
    read!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52);
    Some((cost, rest))
}

/// Reads the field at that place, and lets `seer` have it if there is something in it.
#[inline(always)]
fn read_field<'a, const PLACE: usize>(
    rest: &mut &'a [u8],
    cost: &mut Cost<'a>,
    seer: &mut impl See,
) -> Option<()> {
    let Field { kind, is_optional, .. } = *FIELDS.get(PLACE)?;
    // Empty, zero, false: the same byte in every kind but one.
    if is_optional && !matches!(kind, Kind::Seconds | Kind::Cost) && rest.first() == Some(&0) {
        *rest = rest.get(1..)?;
        return Some(());
    }
    let value = match kind {
        Kind::Text | Kind::Key => {
            let length = usize::try_from(number(rest)?).ok()?;
            let begin = *rest;
            let (text, after) = begin.split_at_checked(length)?;
            *rest = after;
            if matches!(kind, Kind::Key) {
                cost.api_key_id = std::str::from_utf8(text).ok()?;
            }
            Value::Text(length, begin)
        }
        Kind::Whole => Value::Whole(number(rest)?),
        Kind::Short => Value::Whole(u16::try_from(number(rest)?).ok()?.into()),
        Kind::Flag => Value::Flag(match number(rest)? {
            0 => false,
            1 => true,
            _ => return None,
        }),
        Kind::Seconds | Kind::Cost => {
            let (bytes, after) = rest.split_first_chunk()?;
            *rest = after;
            let real = f64::from_le_bytes(*bytes);
            if matches!(kind, Kind::Cost) {
                cost.cost_usd = real;
            } else if real <= 0.0 {
                return Some(());
            }
            Value::Real(real)
        }
        Kind::List => return None,
    };
    seer.see(PLACE, value)
}

/// Looks whether texts are texts.
struct Texts;

impl See for Texts {
    #[inline(always)]
    fn see(&mut self, _: usize, value: Value<'_>) -> Option<()> {
        let Value::Text(length, begin) = value else { return Some(()) };
        let is_utf8 = |text| std::str::from_utf8(text).is_ok();
        let is_text = begins_with_ascii(begin, length) || begin.get(..length).is_some_and(is_utf8);
        is_text.then_some(())
    }
}

/// What an event has cost whom, if these bytes are one and no more; `None` if they are none or for the codec.
pub fn cost(bytes: &[u8]) -> Option<Cost<'_>> {
    walk(bytes, &mut Texts).filter(|(_, rest)| rest.is_empty()).map(|(cost, _)| cost)
}

/// A number of at most 32 bits, in the form that we write: the shortest.
#[inline(always)]
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first()?;
    let (number, rest, least) = match *first {
        TWO_BYTES => {
            let (two, rest) = rest.split_first_chunk()?;
            (u16::from_le_bytes(*two).into(), rest, u32::from(TWO_BYTES))
        }
        FOUR_BYTES => {
            let (four, rest) = rest.split_first_chunk()?;
            (u32::from_le_bytes(*four), rest, u32::from(u16::MAX).saturating_add(1))
        }
        small if small < TWO_BYTES => (small.into(), rest, 0),
        _ => return None,
    };
    *bytes = rest;
    (number >= least).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::codec;
    use crate::usage::{AppliedGuardrail, GuardrailHit, UsageEvent};

    /// An event with something in every field but lists.
    fn full() -> UsageEvent {
        let text = String::from;
        UsageEvent {
            event_id: text("1"),
            request_id: text("2"),
            trace_id: text("3"),
            occurred_at: text("4"),
            model_id: text("5"),
            api_key_id: text("key"),
            requested_model: text("6"),
            prompt_tokens: 1,
            completion_tokens: 250,
            cached_prompt_tokens: 251,
            reasoning_tokens: 65_535,
            cache_creation_tokens: 65_536,
            cache_read_tokens: u32::MAX,
            usage_estimated: true,
            upstream_latency_ms: 7,
            upstream_ttft_ms: 8,
            downstream_latency_ms: 9,
            status_code: 499,
            provider_request_id: text("10"),
            provider_model_version: text("11"),
            finish_reason: text("12"),
            cost_usd: 0.25,
            audio_duration_seconds: 1.5,
            guardrail_blocked: true,
            guardrail_bypassed_reason: text("13"),
            cache_status: text("14"),
            cache_hit_saved_input_tokens: 15,
            cache_hit_saved_output_tokens: 16,
            cache_hit_layer: text("17"),
            inbound_protocol: text("18"),
            attempt_index: 19,
            attempt_kind: text("20"),
            attempt_model: text("21"),
            error_class: text("22"),
            error_message: text("23"),
            provider_kind: text("24"),
            provider_featured: true,
            branded_provider: text("25"),
            pk_label: text("26"),
            byo_label: text("27"),
            client_source_ip: text("28"),
            client_user_agent: text("29"),
            auth_type: text("30"),
            passthrough_route_name: text("31"),
            client_identity: text("32"),
            jwt_subject: text("33"),
            jwt_provider: text("34"),
            jwt_claim_mapping: text("35"),
            aggregated_events: 36,
            ..UsageEvent::default()
        }
    }

    impl See for serde_json::Map<String, serde_json::Value> {
        fn see(&mut self, place: usize, value: Value<'_>) -> Option<()> {
            let value = match value {
                Value::Text(length, begin) => std::str::from_utf8(&begin[..length]).unwrap().into(),
                Value::Whole(number) => number.into(),
                Value::Real(number) => number.into(),
                Value::Flag(flag) => flag.into(),
            };
            assert!(self.insert(FIELDS[place].name.to_owned(), value).is_none());
            Some(())
        }
    }

    /// What is seen of an event, as JSON has it.
    fn seen(bytes: &[u8]) -> Option<serde_json::Value> {
        let mut object = serde_json::Map::new();
        let (_, rest) = walk(bytes, &mut object)?;
        assert!(rest.is_empty());
        Some(object.into())
    }

    #[test]
    fn every_field_that_json_has_is_seen_and_no_other() {
        for event in [
            full(),
            UsageEvent::default(),
            UsageEvent { cost_usd: -1.0, audio_duration_seconds: -1.0, ..full() },
        ] {
            let bytes = codec::encode(&event).unwrap();
            assert_eq!(seen(&bytes).unwrap(), serde_json::to_value(&event).unwrap());
            let cost_usd = event.cost_usd;
            assert_eq!(cost(&bytes), Some(Cost { api_key_id: &event.api_key_id, cost_usd }));
        }
    }

    #[test]
    fn an_event_with_a_list_is_for_the_codec() {
        let lists = [
            UsageEvent { applied_guardrails: vec![AppliedGuardrail::default()], ..full() },
            UsageEvent { redacted_entity_counts: BTreeMap::from([("a".to_owned(), 1)]), ..full() },
            UsageEvent { guardrail_monitor_hits: vec![GuardrailHit::default()], ..full() },
            UsageEvent { guardrail_enforced_hits: vec![GuardrailHit::default()], ..full() },
        ];
        for event in lists {
            assert_eq!(cost(&codec::encode(&event).unwrap()), None);
        }
    }

    #[test]
    fn what_is_cut_short_or_followed_by_more_is_none() {
        let mut bytes = codec::encode(&full()).unwrap();
        assert!((0..bytes.len()).all(|length| cost(&bytes[..length]).is_none()));
        bytes.push(0);
        assert_eq!(cost(&bytes), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_the_codec_takes(at in any::<prop::sample::Index>(), byte: u8, more: Vec<u8>) {
            let whole = codec::encode(&full()).unwrap();
            let at = at.index(whole.len());
            let damaged = [&whole[..at], &[byte], &whole[at + 1..]].concat();
            for bytes in [damaged, [&whole[..at], &more, &whole[at..]].concat(), more] {
                if let Some(cost) = cost(&bytes) {
                    let event: UsageEvent = codec::decode::<_, 131_072>(&bytes).unwrap();
                    prop_assert_eq!(&event.api_key_id, cost.api_key_id);
                    prop_assert_eq!(event.cost_usd.to_bits(), cost.cost_usd.to_bits());
                    if event.cost_usd.is_finite() && event.audio_duration_seconds.is_finite() {
                        prop_assert_eq!(seen(&bytes).unwrap(), serde_json::to_value(&event).unwrap());
                    }
                }
            }
        }
    }
}
