//! An answer in Anthropic's dialect for a caller who speaks it: every byte as it came, as soon as it has come.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::message;
use crate::provider::alike::{Alike, Hole};
use crate::provider::{Progress, ProviderError, Reading, Seen, TokenUsage, Whole, short};
use crate::request::UpstreamError;
use crate::sse::{Decoder, Event};

/// What a stream lacks that ends after it has told why, without its last word.
const MESSAGE_STOP: &[u8] = b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// An event that says nothing.
const PING: &[u8] = b"ping";

/// A piece of a block.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    delta: Delta<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    partial_json: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Relays one answer.
#[derive(Default)]
pub struct Native {
    decoder: Decoder,
    alike: Alike,
    /// Whether the answer is a count of tokens, for which none are spent.
    is_count: bool,
    is_done: bool,
}

impl Native {
    /// For an answer of `count_tokens`.
    pub fn of_a_count() -> Self {
        Self { is_count: true, ..Self::default() }
    }

    fn relay(
        &mut self,
        event: &Event,
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<(), UpstreamError> {
        if let Some(data) = &event.data {
            self.is_done |= observe(&event.name, data, seen)?;
            if event.name != PING && self.alike.is_learning() {
                self.alike.learn(event, holes(data));
            }
        }
        out.extend_from_slice(&event.raw);
        Ok(())
    }
}

impl Reading for Native {
    fn whole(&mut self, body: Bytes, seen: &mut Seen) -> Result<Whole, UpstreamError> {
        let message: Value = serde_json::from_slice(&body)
            .map_err(|error| UpstreamError::Decode(format!("the answer is no JSON: {error}")))?;
        if !message.is_object() {
            return Err(UpstreamError::Decode("the answer is not a JSON object".to_owned()));
        }
        if let Some(error) = message::read_error(&message) {
            return Err(UpstreamError::InBand(error));
        }
        look(&message, seen);
        if self.is_count {
            seen.usage = Some(TokenUsage::default());
        }
        Ok(Whole { body, content_type: None })
    }

    fn alike(&mut self, bytes: &[u8], seen: &mut Seen) -> usize {
        if !self.decoder.is_between_events() {
            return 0;
        }
        let run = self.alike.run(bytes);
        seen.text_bytes += run.text;
        run.length
    }

    fn portion(
        &mut self,
        bytes: &[u8],
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<Progress, UpstreamError> {
        self.decoder.push(bytes);
        while !self.is_done
            && let Some(event) = self
                .decoder
                .next_event()
                .map_err(|error| UpstreamError::Decode(error.to_string()))?
        {
            self.relay(&event, seen, out)?;
        }
        Ok(if self.is_done { Progress::Done } else { Progress::More })
    }

    /// Where the last event is missing, the reason tells whether the answer was complete.
    fn end(&mut self, seen: &mut Seen, out: &mut BytesMut) -> Result<(), UpstreamError> {
        if let Some(event) = self.decoder.finish() {
            let before = out.len();
            self.relay(&event, seen, out)?;
            if self.is_done {
                // What the upstream left out, without which the event is none.
                out.extend_from_slice(b"\n\n");
            } else {
                // A fragment: what follows must not become part of it.
                out.truncate(before);
            }
        }
        if self.is_done {
            return Ok(());
        }
        if seen.finish_reason.is_empty() {
            return Err(UpstreamError::Cut("the answer ended before its last event".to_owned()));
        }
        out.extend_from_slice(MESSAGE_STOP);
        Ok(())
    }

    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        message::error(body)
    }
}

/// What of an event may differ in the next one, if it tells nothing but generated text.
fn holes(data: &[u8]) -> Vec<(&str, Hole)> {
    let Ok(Piece { kind, delta }) = serde_json::from_slice(data) else { return Vec::new() };
    if kind != "content_block_delta" || delta.input.is_some() {
        return Vec::new();
    }
    let texts = [delta.text, delta.thinking, delta.partial_json].into_iter().flatten();
    let texts = texts.map(RawValue::get).filter(|text| text.starts_with('"'));
    texts.map(|text| (text, Hole::Text)).collect()
}

/// Notes what an event tells, and says whether it is the last one.
fn observe(name: &[u8], data: &Bytes, seen: &mut Seen) -> Result<bool, UpstreamError> {
    if name == PING {
        return Ok(false);
    }
    // What is not understood is the caller's to understand.
    let Ok(event) = serde_json::from_slice::<Value>(data) else { return Ok(false) };
    match message::text(&event, "type") {
        "message_start" => {
            if let Some(message) = event.get("message") {
                seen.id = short(message::text(message, "id"));
                seen.model = short(message::text(message, "model"));
                count(message, seen);
            }
            seen.has_begun = true;
        }
        "content_block_start" => {
            seen.has_begun = true;
            seen.text_bytes += event.get("content_block").map_or(0, text_bytes);
        }
        "content_block_delta" => {
            seen.has_begun = true;
            seen.text_bytes += event.get("delta").map_or(0, text_bytes);
        }
        "message_delta" => {
            if let Some(delta) = event.get("delta") {
                stop(delta, seen);
            }
            count(&event, seen);
        }
        "message_stop" => return Ok(true),
        "error" => {
            let error = message::read_error(&event).unwrap_or_else(|| ProviderError {
                message: "the upstream told an error without a message".to_owned(),
                ..ProviderError::default()
            });
            return Err(UpstreamError::InBand(error));
        }
        _ => {}
    }
    Ok(false)
}

/// Notes what a whole message tells.
fn look(message: &Value, seen: &mut Seen) {
    seen.has_begun = true;
    seen.id = short(message::text(message, "id"));
    seen.model = short(message::text(message, "model"));
    stop(message, seen);
    count(message, seen);
    let blocks = message.get("content").and_then(Value::as_array);
    seen.text_bytes += blocks.into_iter().flatten().map(text_bytes).sum::<usize>();
}

fn stop(value: &Value, seen: &mut Seen) {
    let reason = message::text(value, "stop_reason");
    if !reason.is_empty() {
        seen.finish_reason = short(reason);
    }
}

fn count(value: &Value, seen: &mut Seen) {
    let usage = value.get("usage").and_then(|told| message::usage(told, seen.usage));
    seen.usage = usage.or(seen.usage);
}

/// Generated text in a block or a piece of one.
fn text_bytes(block: &Value) -> usize {
    let texts = ["text", "thinking", "partial_json"];
    let texts = texts.into_iter().map(|name| message::text(block, name).len()).sum::<usize>();
    let input = block.get("input").and_then(Value::as_object).filter(|input| !input.is_empty());
    texts + input.map_or(0, |input| serde_json::to_string(input).map_or(0, |text| text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::provider::alike::tests::{any_portions, is_taken_the_same_way};

    fn event() -> impl Strategy<Value = String> {
        let text =
            prop_oneof!["[a-z é]{0,6}", Just("\\n\\\"".to_owned()), Just("\\u00e9".to_owned())];
        let shape = prop_oneof![
            8 => Just("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"@\"}}\n\n"),
            4 => Just("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"@\"}}\n\n"),
            1 => Just("event: ping\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"@\"}}\n\n"),
            1 => Just("data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"@\",\"text\":\"a\"}}\n\n"),
            1 => Just("data: {\"type\":\"content_block_start\",\"content_block\":{\"text\":\"@\"}}\n\n"),
            1 => Just("data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"@\"},\"usage\":{\"output_tokens\":7}}\n\n"),
            1 => Just("data: {\"type\":\"message_stop\"}\n\n"),
        ];
        (shape, text).prop_map(|(shape, text)| shape.replace('@', &text))
    }

    proptest! {
        #[test]
        fn events_that_are_alike_are_taken_as_if_they_were_read(
            events in prop::collection::vec(event(), 0..12),
            portions in any_portions(),
        ) {
            is_taken_the_same_way(&events, &portions, Native::default)?;
        }
    }
}
