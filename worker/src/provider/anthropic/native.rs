//! An answer in Anthropic's dialect for a caller who speaks it: every byte as it came, as soon as it has come.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::message;
use crate::provider::{Progress, ProviderError, Reading, Seen, TokenUsage, Whole, short};
use crate::request::UpstreamError;
use crate::sse::{Decoder, Event};

/// What a stream lacks that ends after it has told why, without its last word.
const MESSAGE_STOP: &[u8] = b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// Relays one answer.
#[derive(Default)]
pub struct Native {
    decoder: Decoder,
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

/// Notes what an event tells, and says whether it is the last one.
fn observe(name: &[u8], data: &Bytes, seen: &mut Seen) -> Result<bool, UpstreamError> {
    if name == b"ping" {
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
