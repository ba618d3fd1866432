//! Understands an answer of chat completions, for a caller who speaks another dialect.
//!
//! Calls of tools may come in pieces that are interleaved; callers are told one call after the other. The first is told as
//! it comes, the others at the end of the answer.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::provider_error;
use super::response::{object, token_usage};
use crate::chat::{Answer, Decoder, Event, Part, Stop, StopReason};
use crate::provider::value::{as_json, list, member, text};
use crate::provider::{ProviderError, TokenUsage};
use crate::request::UpstreamError;
use crate::sse;

/// Most bytes of tool calls that wait for their turn.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most calls of tools in one answer.
const CALLS_MAX: usize = 1024;

/// Reads one answer.
#[derive(Default)]
pub struct ChatDecoder {
    events: sse::Decoder,
    /// Where the provider has what the model thinks, below a message; empty = where most have it.
    reasoning_path: Vec<String>,
    requires_done: bool,
    has_started: bool,
    has_stopped: bool,
    is_done: bool,
    has_refused: bool,
    calls: Vec<ToolCall>,
    held_bytes: usize,
}

/// A call of a tool whose pieces are coming.
struct ToolCall {
    index: Option<u64>,
    id: String,
    name: String,
    /// What is not told yet.
    arguments: String,
    is_told: bool,
}

impl ChatDecoder {
    /// `reasoning_field`: where the provider has what the model thinks, such as `delta.reasoning`. `requires_done`: whether
    /// a stream without `[DONE]` is worth a warning.
    pub fn new(reasoning_field: Option<&str>, requires_done: bool) -> Self {
        let path = reasoning_field.unwrap_or_default();
        let path = path.strip_prefix("delta.").or(path.strip_prefix("message.")).unwrap_or(path);
        let names = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned);
        Self { reasoning_path: names.collect(), requires_done, ..Self::default() }
    }

    fn event(&mut self, event: &sse::Event, out: &mut Vec<Event>) -> Result<(), UpstreamError> {
        let Some(data) = &event.data else { return Ok(()) };
        if data.trim_ascii() == b"[DONE]" {
            self.is_done = true;
            if self.has_started {
                self.stop("", out);
            }
            out.push(Event::End);
            return Ok(());
        }
        if self.has_started
            && self.reasoning_path.is_empty()
            && event.name.as_ref() != b"error"
            && let Some(text) = only_text(data)
        {
            if !text.is_empty() {
                out.push(Event::Text(text.into_owned()));
            }
            return Ok(());
        }
        let chunk = parsed(data)?;
        if member(&chunk, "error").is_some() || event.name.as_ref() == b"error" {
            out.push(Event::Error(told_error(data)));
            return Ok(());
        }
        if !std::mem::replace(&mut self.has_started, true) {
            let (id, model) = (text(&chunk, "id").to_owned(), text(&chunk, "model").to_owned());
            out.push(Event::Start { id, model });
        }
        // Only the first of several answers can be told.
        let first = list(&chunk, "choices").iter().find(|choice| index(choice).unwrap_or(0) == 0);
        if let Some(choice) = first {
            if let Some(delta) = member(choice, "delta").or_else(|| member(choice, "message")) {
                self.delta(delta, out)?;
            }
            let word = text(choice, "finish_reason");
            if !word.is_empty() {
                self.stop(word, out);
            }
        }
        if let Some(usage) = usage(&chunk) {
            out.push(Event::Usage(usage));
        }
        Ok(())
    }

    fn delta(&mut self, delta: &Value, out: &mut Vec<Event>) -> Result<(), UpstreamError> {
        let mut tell = |text: String, event: fn(String) -> Event| {
            if !text.is_empty() {
                out.push(event(text));
            }
        };
        tell(self.reasoning(delta), Event::Reasoning);
        tell(content(delta), Event::Text);
        let refusal = text(delta, "refusal").to_owned();
        self.has_refused |= !refusal.is_empty();
        tell(refusal, Event::Text);
        for call in list(delta, "tool_calls") {
            let function = call.get("function").unwrap_or(&Value::Null);
            self.piece(index(call), text(call, "id"), function, out)?;
        }
        if let Some(function) = member(delta, "function_call") {
            self.piece(Some(0), "", function, out)?;
        }
        Ok(())
    }

    /// A piece of a call: of a new one, if it has an id that the call at its place has not.
    fn piece(
        &mut self,
        index: Option<u64>,
        id: &str,
        function: &Value,
        out: &mut Vec<Event>,
    ) -> Result<(), UpstreamError> {
        let is_its_own = |call: &ToolCall| {
            let is_there = index.is_none() || call.index == index;
            is_there && (id.is_empty() || call.id.is_empty() || call.id == id)
        };
        let name = text(function, "name");
        let place = match self.calls.iter().rposition(is_its_own) {
            Some(place) => place,
            None if self.calls.len() >= CALLS_MAX => {
                return Err(decode("the answer has too many calls of tools"));
            }
            None => {
                let (id, name) = (id.to_owned(), name.to_owned());
                let arguments = String::new();
                self.calls.push(ToolCall { index, id, name, arguments, is_told: false });
                self.calls.len() - 1
            }
        };
        let Some(call) = self.calls.get_mut(place) else { return Ok(()) };
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        let arguments = function.get("arguments").map(as_json).unwrap_or_default();
        if place > 0 {
            self.held_bytes += arguments.len();
            if self.held_bytes > HELD_BYTES_MAX {
                return Err(decode("the answer has too much for several tools at once"));
            }
        }
        call.arguments.push_str(&arguments);
        if place == 0 && !call.name.is_empty() {
            call.tell(out);
        }
        Ok(())
    }

    fn stop(&mut self, word: &str, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.has_stopped, true) {
            return;
        }
        self.calls.iter_mut().for_each(|call| call.tell(out));
        out.push(Event::Stop(stop(word, !self.calls.is_empty(), self.has_refused)));
    }

    fn reasoning(&self, message: &Value) -> String {
        let usual = ["reasoning_content", "reasoning"];
        if self.reasoning_path.is_empty() {
            let found = usual.iter().map(|name| text(message, name)).find(|text| !text.is_empty());
            return found.unwrap_or_default().to_owned();
        }
        let found = self.reasoning_path.iter().try_fold(message, |value, name| value.get(name));
        found.and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

impl ToolCall {
    fn tell(&mut self, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.is_told, true) {
            out.push(Event::ToolCall { id: self.id.clone(), name: self.name.clone() });
        }
        if !self.arguments.is_empty() {
            out.push(Event::Arguments(std::mem::take(&mut self.arguments)));
        }
    }
}

/// A chunk that tells nothing but text. Whatever else it might tell must not be there, or be `null`.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: [Choice<'a>; 1],
    error: Option<IgnoredAny>,
    usage: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: Option<u64>,
    #[serde(borrow)]
    delta: Delta<'a>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
    reasoning_content: Option<IgnoredAny>,
    reasoning: Option<IgnoredAny>,
    refusal: Option<IgnoredAny>,
    tool_calls: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
}

/// The text of such a chunk.
fn only_text(data: &[u8]) -> Option<Cow<'_, str>> {
    let Chunk { choices: [choice], error: None, usage: None } = object(data)? else { return None };
    let Choice { index: None | Some(0), delta, finish_reason: None } = choice else { return None };
    match delta {
        Delta {
            content,
            reasoning_content: None,
            reasoning: None,
            refusal: None,
            tool_calls: None,
            function_call: None,
        } => Some(content),
        _ => None,
    }
}

impl Decoder for ChatDecoder {
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        crate::provider::is_event_stream(content_type)
    }

    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        provider_error(body)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Answer, UpstreamError> {
        let answer = parsed(body)?;
        let choices = list(&answer, "choices");
        if choices.is_empty() && member(&answer, "error").is_some() {
            return Err(UpstreamError::InBand(told_error(body)));
        }
        let choice = choices.iter().find(|choice| index(choice).unwrap_or(0) == 0);
        let choice = choice.ok_or_else(|| decode("the answer has no choices"))?;
        let message = choice.get("message").unwrap_or(&Value::Null);
        let mut parts = Vec::new();
        let reasoning = self.reasoning(message);
        if !reasoning.is_empty() {
            parts.push(Part::Reasoning { text: reasoning, signature: None });
        }
        let refusal = text(message, "refusal");
        for text in [content(message), refusal.to_owned()] {
            if !text.is_empty() {
                parts.push(Part::Text { text, cache: None });
            }
        }
        let calls = list(message, "tool_calls").iter();
        let calls = calls.map(|call| (text(call, "id"), call.get("function")));
        let former = member(message, "function_call").map(|function| ("", Some(function)));
        for (id, function) in calls.chain(former) {
            let function = function.unwrap_or(&Value::Null);
            parts.push(Part::ToolCall {
                id: id.to_owned(),
                name: text(function, "name").to_owned(),
                arguments: function.get("arguments").map(as_json).unwrap_or_default(),
                cache: None,
            });
        }
        let has_calls = parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
        Ok(Answer {
            id: text(&answer, "id").to_owned(),
            model: text(&answer, "model").to_owned(),
            stop: stop(text(choice, "finish_reason"), has_calls, !refusal.is_empty()),
            usage: usage(&answer),
            parts,
        })
    }

    fn portion(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        self.events.push(bytes);
        while !self.is_done
            && let Some(event) =
                self.events.next_event().map_err(|error| decode(&error.to_string()))?
        {
            self.event(&event, events)?;
        }
        Ok(())
    }

    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        if !self.is_done
            && let Some(event) = self.events.finish()
            // A fragment is none: whether the answer was complete is told by what came before.
            && event.data.as_ref().is_some_and(is_complete)
        {
            self.event(&event, events)?;
        }
        if self.requires_done && !self.is_done {
            tracing::warn!("an upstream that should end its streams with [DONE] has not done so");
        }
        Ok(())
    }
}

fn is_complete(data: &Bytes) -> bool {
    data.trim_ascii() == b"[DONE]" || parsed(data).is_ok()
}

fn parsed(json: &[u8]) -> Result<Value, UpstreamError> {
    match serde_json::from_slice(json) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(decode("the answer is not a JSON object")),
    }
}

fn decode(reason: &str) -> UpstreamError {
    UpstreamError::Decode(reason.to_owned())
}

fn told_error(body: &[u8]) -> ProviderError {
    provider_error(body).unwrap_or_else(|| ProviderError {
        message: "the upstream told an error without a message".to_owned(),
        ..ProviderError::default()
    })
}

fn index(value: &Value) -> Option<u64> {
    value.get("index").and_then(Value::as_u64)
}

/// The text of a message; some send it as a list.
fn content(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(|part| text(part, "text")).collect(),
        _ => String::new(),
    }
}

fn usage(answer: &Value) -> Option<TokenUsage> {
    token_usage(&to_raw_value(member(answer, "usage")?).ok()?)
}

fn stop(word: &str, has_calls: bool, has_refused: bool) -> Stop {
    let reason = match word {
        "length" | "max_tokens" => StopReason::Length,
        "content_filter" => StopReason::Refusal,
        "tool_calls" | "function_call" => StopReason::ToolCalls,
        _ if has_refused => StopReason::Refusal,
        // Some say `stop` all the same.
        _ if has_calls => StopReason::ToolCalls,
        _ => StopReason::End,
    };
    Stop { reason, word: word.to_owned(), sequence: None }
}

#[cfg(test)]
mod tests;
