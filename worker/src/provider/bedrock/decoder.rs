//! Understands an answer of Converse, and the frames of its stream.

use http::HeaderValue;
use serde_json::Value;

use super::frames::{Frame, Frames};
use crate::chat::{Answer, Decoder, Event, Stop, StopReason};
use crate::provider::gather::gather;
use crate::provider::value::{as_json, count, list, member, text};
use crate::provider::{ProviderError, TokenUsage};
use crate::request::UpstreamError;

/// What AWS calls its event streams.
pub const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// AWS's words for what went wrong: status, and the gateway's word where it has one.
const ERRORS: [(&str, u16, Option<&str>); 12] = [
    ("accessdenied", 403, Some("permission_denied")),
    ("unrecognizedclient", 403, Some("invalid_api_key")),
    ("invalidsignature", 403, Some("invalid_api_key")),
    ("expiredtoken", 403, Some("invalid_api_key")),
    ("resourcenotfound", 404, Some("model_not_found")),
    ("modeltimeout", 408, Some("timeout")),
    ("modelstreamerror", 424, Some("stream_error")),
    ("modelerror", 424, Some("model_error")),
    ("modelnotready", 429, Some("model_not_ready")),
    ("throttling", 429, Some("rate_limit_exceeded")),
    ("serviceunavailable", 503, Some("overloaded")),
    ("validation", 400, None),
];

/// Reads one answer.
#[derive(Default)]
pub struct ConverseDecoder {
    frames: Frames,
    has_stopped: bool,
    is_done: bool,
    /// Which block of the answer is a call of a tool that is told.
    call_at: Option<u64>,
    /// Whether arguments of that call have come.
    has_arguments: bool,
}

impl ConverseDecoder {
    fn frame(&mut self, frame: &Frame, out: &mut Vec<Event>) -> Result<(), UpstreamError> {
        if frame.message_type == "exception" || frame.message_type == "error" {
            out.push(Event::Error(told_error(frame)));
            return Ok(());
        }
        let event: Value = serde_json::from_slice(&frame.payload)
            .map_err(|_| decode("an event of the stream is not JSON"))?;
        let at = event.get("contentBlockIndex").and_then(Value::as_u64);
        match frame.kind.as_str() {
            "messageStart" => out.push(start()),
            "contentBlockStart" => {
                if let Some(call) = event.pointer("/start/toolUse") {
                    self.call_at = at;
                    self.has_arguments = false;
                    out.push(tool_call(call));
                }
            }
            "contentBlockStop" if at.is_some() && at == self.call_at && !self.has_arguments => {
                self.has_arguments = true;
                out.push(Event::Arguments("{}".to_owned()));
            }
            "contentBlockDelta" => {
                if let Some(delta) = event.get("delta") {
                    self.delta(delta, at, out)?;
                }
            }
            "messageStop" => {
                self.has_stopped = true;
                out.push(Event::Stop(stop(&event, "stopReason")));
            }
            "metadata" => {
                out.extend(member(&event, "usage").map(token_usage).map(Event::Usage));
                if self.has_stopped {
                    // The last event of a stream.
                    self.is_done = true;
                    out.push(Event::End);
                }
            }
            // What is added later only tells more.
            _ => {}
        }
        Ok(())
    }

    fn delta(
        &mut self,
        delta: &Value,
        at: Option<u64>,
        out: &mut Vec<Event>,
    ) -> Result<(), UpstreamError> {
        if let Some(said) = delta.get("text").and_then(Value::as_str) {
            out.push(Event::Text(said.to_owned()));
        }
        if let Some(input) = delta.pointer("/toolUse/input") {
            if at != self.call_at {
                return Err(decode("a piece of a tool call belongs to none that has begun"));
            }
            let arguments = as_json(input);
            self.has_arguments |= !arguments.is_empty();
            out.push(Event::Arguments(arguments));
        }
        if let Some(reasoning) = delta.get("reasoningContent") {
            reasoning_events(reasoning, out);
        }
        Ok(())
    }
}

impl Decoder for ConverseDecoder {
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        let value = content_type.to_str().unwrap_or_default().trim_start().to_ascii_lowercase();
        value.starts_with(EVENT_STREAM)
    }

    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let messages = [text(&body, "message"), text(&body, "Message")];
        let message = messages.into_iter().find(|message| !message.is_empty())?;
        let (_, code) = word(text(&body, "__type"));
        Some(ProviderError { message: message.to_owned(), code, param: None, status: None })
    }

    fn whole(&mut self, body: &[u8]) -> Result<Answer, UpstreamError> {
        let answer: Value =
            serde_json::from_slice(body).map_err(|_| decode("the answer is not JSON"))?;
        let message = answer.pointer("/output/message");
        let message = message.ok_or_else(|| decode("the answer has no message"))?;
        let mut events = vec![start()];
        for block in list(message, "content") {
            if let Some(said) = block.get("text").and_then(Value::as_str) {
                events.push(Event::Text(said.to_owned()));
            }
            if let Some(call) = member(block, "toolUse") {
                events.push(tool_call(call));
                events.push(Event::Arguments(call.get("input").map(as_json).unwrap_or_default()));
            }
            if let Some(reasoning) = member(block, "reasoningContent") {
                reasoning_events(reasoning.get("reasoningText").unwrap_or(reasoning), &mut events);
            }
        }
        events.push(Event::Stop(stop(&answer, "stopReason")));
        events.extend(member(&answer, "usage").map(token_usage).map(Event::Usage));
        gather(events)
    }

    fn portion(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        self.frames.push(bytes);
        while !self.is_done
            && let Some(frame) = self.frames.next_frame().map_err(UpstreamError::Decode)?
        {
            self.frame(&frame, events)?;
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Vec<Event>) -> Result<(), UpstreamError> {
        Ok(())
    }
}

/// Bedrock names neither answer nor model in the body.
fn start() -> Event {
    Event::Start { id: String::new(), model: String::new() }
}

fn tool_call(call: &Value) -> Event {
    let (id, name) = (text(call, "toolUseId").to_owned(), text(call, "name").to_owned());
    Event::ToolCall { id, name }
}

fn reasoning_events(reasoning: &Value, out: &mut Vec<Event>) {
    let mut tell = |name: &str, event: fn(String) -> Event| match text(reasoning, name) {
        "" => {}
        text => out.push(event(text.to_owned())),
    };
    tell("text", Event::Reasoning);
    tell("signature", Event::Signature);
    tell("redactedContent", Event::HiddenReasoning);
}

fn stop(value: &Value, name: &str) -> Stop {
    let word = text(value, name);
    let reason = match word {
        "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
        "stop_sequence" => StopReason::Sequence,
        "tool_use" => StopReason::ToolCalls,
        "guardrail_intervened" | "content_filtered" => StopReason::Refusal,
        _ => StopReason::End,
    };
    let sequence = value.pointer("/additionalModelResponseFields/stop_sequence");
    let sequence = sequence.and_then(Value::as_str).map(str::to_owned);
    Stop { reason, word: word.to_owned(), sequence }
}

/// What was read from the cache or written to it is beside the input tokens.
fn token_usage(usage: &Value) -> TokenUsage {
    TokenUsage {
        prompt: count(usage, "inputTokens"),
        completion: count(usage, "outputTokens"),
        cache_read: count(usage, "cacheReadInputTokens"),
        cache_creation: count(usage, "cacheWriteInputTokens"),
        ..TokenUsage::default()
    }
}

fn told_error(frame: &Frame) -> ProviderError {
    let payload: Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
    let words = [text(&payload, "message"), text(&payload, "Message"), frame.message.as_str()];
    let message = words.into_iter().find(|text| !text.is_empty());
    let message = message.unwrap_or(frame.kind.as_str()).to_owned();
    let (status, code) = word(&frame.kind);
    ProviderError { message, code, param: None, status }
}

/// Status and code of an error by AWS's word, such as `throttlingException` or `a.b#ThrottlingException:http://…`.
fn word(kind: &str) -> (Option<u16>, Option<String>) {
    let kind = kind.rsplit('#').next().unwrap_or_default().to_ascii_lowercase();
    let known = ERRORS.iter().find(|(word, ..)| kind.starts_with(word));
    known.map_or((None, None), |(_, status, code)| (Some(*status), code.map(str::to_owned)))
}

fn decode(reason: &str) -> UpstreamError {
    UpstreamError::Decode(reason.to_owned())
}

#[cfg(test)]
mod tests;
