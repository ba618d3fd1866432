//! The body of a request to the Cloud: events as JSON, made from the bytes that they are encoded in.
//!
//! What has no list in it and nothing that must be escaped, as nearly all have, is copied field by field. Any other event is taken out and
//! serialised as it is described ([`UsageEvent`]); both make the same.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use serde::Serialize;
use shared::codec::CodecError;
use shared::simple::copy_if_simple;
use shared::usage::UsageEvent;
use shared::usage::encoded::{Cost, FIELDS, FIELDS_COUNT, See, Value, walk};
use shared::usage_total::nanos;

use super::block::{Block, first};

/// What an event takes as JSON, as most do, in bytes.
const EVENT_BYTES: usize = 1024;
/// The longest that is made field by field, in bytes.
const COPIED_BYTES_MAX: usize = 4096;
/// What stands before a value, in bytes, at most.
const BEFORE_BYTES_MAX: usize = 40;

/// Events of some blocks as the Cloud takes them.
#[derive(Debug)]
pub struct Body {
    /// The JSON.
    pub json: Vec<u8>,
    /// How many events are in it.
    pub events: usize,
    /// What all events of the blocks have cost, by caller key, in billionths of a dollar.
    pub spent: HashMap<String, u64>,
}

/// Those events of the blocks that are in the range, counted through all blocks.
pub fn body(blocks: &[Block], range: Range<usize>) -> Body {
    let mut json = Vec::with_capacity(range.len().saturating_mul(EVENT_BYTES));
    json.extend_from_slice(br#"{"events":["#);
    let mut body = Body { json, events: 0, spent: HashMap::new() };
    let mut writer = Writer { befores: &BEFORES, room: [0; COPIED_BYTES_MAX] };
    let mut place = 0;
    for block in blocks {
        let mut rest = block.encoded();
        for _ in 0..block.events {
            let seen =
                if range.contains(&place) { body.event(&mut writer, rest) } else { cost(rest) };
            // Each was looked at when it was read.
            let Ok((cost, after)) = seen else { break };
            body.spend(cost);
            (rest, place) = (after, place + 1);
        }
    }
    body.json.extend_from_slice(b"]}");
    body
}

impl Body {
    /// Adds the event that the bytes begin with.
    fn event<'b>(
        &mut self,
        writer: &mut Writer,
        bytes: &'b [u8],
    ) -> Result<(Cost<'b>, &'b [u8]), CodecError> {
        let before = self.json.len();
        if self.events > 0 {
            self.json.push(b',');
        }
        let seen = writer.append(&mut self.json, bytes);
        match seen {
            Ok(_) => self.events += 1,
            Err(_) => self.json.truncate(before),
        }
        seen
    }

    fn spend(&mut self, cost: Cost<'_>) {
        let nano_usd = nanos(cost.cost_usd);
        if nano_usd == 0 {
            return;
        }
        match self.spent.get_mut(cost.api_key_id) {
            Some(sum) => *sum = sum.saturating_add(nano_usd),
            None => drop(self.spent.insert(cost.api_key_id.to_owned(), nano_usd)),
        }
    }
}

/// What the event has cost that the bytes begin with, and what is behind it.
fn cost(bytes: &[u8]) -> Result<(Cost<'_>, &[u8]), CodecError> {
    if let Some(seen) = walk(bytes, &mut Nobody) {
        return Ok(seen);
    }
    let (event, rest) = first(bytes)?;
    Ok((Cost::of(&event), rest))
}

/// To whom every value is the same.
struct Nobody;

impl See for Nobody {
    fn see(&mut self, _: usize, _: Value<'_>) -> Option<()> {
        Some(())
    }
}

/// What stands before the value of a field.
struct Before {
    text: [u8; BEFORE_BYTES_MAX],
    length: usize,
}

static BEFORES: LazyLock<[Before; FIELDS_COUNT]> = LazyLock::new(|| {
    std::array::from_fn(|place| {
        let field = FIELDS.get(place);
        let (name, is_text) = field.map_or(("", false), |field| (field.name, field.is_text()));
        let (begin, quote) = (if place == 0 { '{' } else { ',' }, if is_text { "\"" } else { "" });
        let before = format!("{begin}\"{name}\":{quote}");
        let mut text = [0; BEFORE_BYTES_MAX];
        text.iter_mut().zip(before.bytes()).for_each(|(to, from)| *to = from);
        Before { text, length: before.len() }
    })
});

struct Writer {
    befores: &'static [Before; FIELDS_COUNT],
    /// Where an event is made.
    room: [u8; COPIED_BYTES_MAX],
}

impl Writer {
    /// Appends the event that the bytes begin with. Returns what it has cost, and what is behind it.
    fn append<'b>(
        &mut self,
        json: &mut Vec<u8>,
        bytes: &'b [u8],
    ) -> Result<(Cost<'b>, &'b [u8]), CodecError> {
        let mut copy = Copy { befores: self.befores, room: &mut self.room, at: 0 };
        let seen = walk(bytes, &mut copy);
        let length = copy.at;
        if let (Some(seen), Some(made)) = (seen, self.room.get(..length)) {
            json.extend_from_slice(made);
            json.push(b'}');
            return Ok(seen);
        }
        let (event, rest) = first(bytes)?;
        serialise(json, &event);
        Ok((Cost::of(&event), rest))
    }
}

/// As it is described. Nothing in an event can fail to serialise.
fn serialise<S: AsRef<str> + Serialize>(json: &mut Vec<u8>, event: &UsageEvent<S>) {
    let _ = serde_json::to_writer(json, event);
}

/// An event on its way into its room.
struct Copy<'a> {
    befores: &'static [Before; FIELDS_COUNT],
    room: &'a mut [u8],
    at: usize,
}

impl See for Copy<'_> {
    /// `None` if there is no room, or if something has to be escaped.
    #[inline(always)]
    fn see(&mut self, place: usize, value: Value<'_>) -> Option<()> {
        let before = self.befores.get(place)?;
        *self.room.get_mut(self.at..)?.first_chunk_mut()? = before.text;
        self.at += before.length;
        match value {
            Value::Text(length, begin) => {
                copy_if_simple(begin, length, self.room.get_mut(self.at..)?)?;
                self.at += length;
                self.put(b"\"")
            }
            Value::Whole(number @ 0..10) => self.put(&[b'0' + u8::try_from(number).ok()?]),
            Value::Whole(number) => self.put(itoa::Buffer::new().format(number).as_bytes()),
            Value::Flag(true) => self.put(b"true"),
            Value::Flag(false) => self.put(b"false"),
            Value::Real(number) => {
                let mut room = self.room.get_mut(self.at..)?;
                let before = room.len();
                serde_json::to_writer(&mut room, &number).ok()?;
                self.at += before - room.len();
                Some(())
            }
        }
    }
}

impl Copy<'_> {
    #[inline]
    fn put(&mut self, text: &[u8]) -> Option<()> {
        let end = self.at + text.len();
        self.room.get_mut(self.at..end)?.copy_from_slice(text);
        self.at = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::usage::AppliedGuardrail;

    use super::*;
    use crate::spool::block::Encoded;

    fn blocks(events: &[UsageEvent]) -> Vec<Block> {
        Encoded::of(events).unwrap().blocks()
    }

    /// As it is made of events that are taken out.
    fn expected(events: &[UsageEvent]) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            events: &'a [UsageEvent],
        }
        serde_json::to_string(&Body { events }).unwrap()
    }

    fn event(number: usize) -> UsageEvent {
        UsageEvent {
            event_id: format!("e{number}"),
            api_key_id: ["a", "b"][number % 2].to_owned(),
            cost_usd: 0.5,
            prompt_tokens: 1000,
            ..UsageEvent::default()
        }
    }

    #[test]
    fn a_body_has_the_events_of_its_range_and_what_all_have_cost() {
        let mut events: Vec<_> = (0..250).map(event).collect();
        events[3].applied_guardrails.push(AppliedGuardrail::default());
        events[120].error_message = "\"\n\\".to_owned();
        events[200].client_user_agent = "x".repeat(2 * COPIED_BYTES_MAX);
        events[201].client_user_agent = "ä\u{7f}".to_owned();
        let blocks = blocks(&events);
        for range in [0..250, 0..100, 100..101, 120..121, 3..4, 195..250, 0..0] {
            let body = body(&blocks, range.clone());
            let wanted = &events[range];
            assert_eq!(String::from_utf8(body.json).unwrap(), expected(wanted));
            assert_eq!(body.events, wanted.len());
            let half = 125 * 500_000_000_u64;
            let spent = [("a".to_owned(), half), ("b".to_owned(), half)];
            assert_eq!(body.spent, HashMap::from(spent));
        }
    }

    #[test]
    fn there_is_room_for_what_stands_before_every_value() {
        assert!(BEFORES.iter().all(|before| before.length <= BEFORE_BYTES_MAX));
    }

    #[test]
    fn a_number_in_a_longer_form_is_the_same_number() {
        let whole = shared::codec::encode(&UsageEvent::<String> {
            prompt_tokens: 7,
            ..UsageEvent::default()
        });
        let whole = whole.unwrap();
        let at = whole.iter().position(|byte| *byte == 7).unwrap();
        let mut encoded = Encoded::default();
        encoded.push(&[&whole[..at], &[251, 7, 0], &whole[at + 1..]].concat());
        let blocks = encoded.blocks();
        let events = blocks[0].open().unwrap();
        assert_eq!(events[0].prompt_tokens, 7);
        assert_eq!(String::from_utf8(body(&blocks, 0..1).json).unwrap(), expected(&events));
    }

    proptest! {
        #[test]
        fn json_is_the_same_from_any_bytes_that_are_an_event(
            at in any::<prop::sample::Index>(),
            put in prop::collection::vec(any::<u8>(), 0..4),
            skip in 0..3_usize,
        ) {
            let agent = "agent".to_owned();
            let event = UsageEvent { client_user_agent: agent, audio_duration_seconds: 1.5, ..event(1) };
            let whole = shared::codec::encode(&event).unwrap();
            let at = at.index(whole.len());
            let behind = whole.get(at + skip..).unwrap_or_default();
            let mut encoded = Encoded::default();
            encoded.push(&[&whole[..at], &put[..], behind].concat());
            let blocks = encoded.blocks();
            if let Ok(events) = blocks[0].open() {
                let body = body(&blocks, 0..1);
                prop_assert_eq!(String::from_utf8(body.json).unwrap(), expected(&events));
            }
        }

        #[test]
        fn json_is_the_same_from_bytes_as_of_an_event(
            texts in prop::collection::vec("[ -~]{0,40}|\\PC{0,4}|[\\x00-\\x7f]{0,3}|[a-z]{0,20}", 33),
            numbers in prop::collection::vec(prop_oneof![0..12_u32, any::<u32>()], 16),
            flags: [bool; 3],
            reals in prop::array::uniform2(prop_oneof![Just(0.0), Just(-0.0), Just(1e300), prop::num::f64::ANY]),
            status_code: u16,
            empty in prop::collection::vec(any::<bool>(), 33),
        ) {
            let mut texts = texts.into_iter().zip(empty).map(|(text, is_empty)| if is_empty { String::new() } else { text });
            let mut numbers = numbers.into_iter();
            let mut text = || texts.next().unwrap();
            let mut number = || numbers.next().unwrap();
            let event = UsageEvent {
                event_id: text(), request_id: text(), trace_id: text(), occurred_at: text(), model_id: text(),
                api_key_id: text(), requested_model: text(), prompt_tokens: number(), completion_tokens: number(),
                cached_prompt_tokens: number(), reasoning_tokens: number(), cache_creation_tokens: number(),
                cache_read_tokens: number(), usage_estimated: flags[0], upstream_latency_ms: number(),
                upstream_ttft_ms: number(), downstream_latency_ms: number(), status_code, provider_request_id: text(),
                provider_model_version: text(), finish_reason: text(), cost_usd: reals[0],
                audio_duration_seconds: reals[1], guardrail_blocked: flags[1], guardrail_bypassed_reason: text(),
                cache_status: text(), cache_hit_saved_input_tokens: number(),
                cache_hit_saved_output_tokens: number(), cache_hit_layer: text(), inbound_protocol: text(),
                attempt_index: number(), attempt_kind: text(), attempt_model: text(), error_class: text(),
                error_message: text(), provider_kind: text(), provider_featured: flags[2], branded_provider: text(),
                pk_label: text(), byo_label: text(), client_source_ip: text(), client_user_agent: text(),
                auth_type: text(), passthrough_route_name: text(), client_identity: text(), jwt_subject: text(),
                jwt_provider: text(), jwt_claim_mapping: text(), aggregated_events: number(), ..UsageEvent::default()
            };
            let events = [event];
            let body = body(&blocks(&events), 0..1);
            prop_assert_eq!(String::from_utf8(body.json).unwrap(), expected(&events));
        }
    }
}
