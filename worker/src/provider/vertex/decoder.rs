//! Understands an answer of Gemini. A stream consists of the same objects as an answer that is none.

use http::HeaderValue;
use serde_json::Value;

use crate::chat::{Answer, Decoder, Event, Stop, StopReason};
use crate::provider::gather::gather;
use crate::provider::value::{count, list, member, object, text};
use crate::provider::{ProviderError, TokenUsage};
use crate::request::UpstreamError;
use crate::sse;

/// Reads one answer.
pub struct GeminiDecoder {
    events: sse::Decoder,
    /// Names the calls of tools, which Gemini does not always do; another for every answer.
    call_prefix: String,
    calls: usize,
    has_started: bool,
    has_stopped: bool,
}

impl GeminiDecoder {
    /// `call_prefix` is another for every answer.
    pub fn new(call_prefix: String) -> Self {
        Self {
            events: sse::Decoder::default(),
            call_prefix,
            calls: 0,
            has_started: false,
            has_stopped: false,
        }
    }

    fn object(&mut self, answer: &Value, out: &mut Vec<Event>) {
        if let Some(error) = provider_error(answer) {
            return out.push(Event::Error(error));
        }
        if !std::mem::replace(&mut self.has_started, true) {
            let id = text(answer, "responseId").to_owned();
            out.push(Event::Start { id, model: text(answer, "modelVersion").to_owned() });
        }
        let first =
            list(answer, "candidates").iter().find(|candidate| count(candidate, "index") == 0);
        if let Some(candidate) = first {
            for part in candidate.get("content").map_or(&[][..], |content| list(content, "parts")) {
                self.part(part, out);
            }
            self.stop(text(candidate, "finishReason"), out);
        }
        if let Some(feedback) = member(answer, "promptFeedback") {
            self.stop(text(feedback, "blockReason"), out);
        }
        if let Some(usage) = member(answer, "usageMetadata") {
            out.push(Event::Usage(token_usage(usage)));
        }
    }

    fn part(&mut self, part: &Value, out: &mut Vec<Event>) {
        let said = text(part, "text");
        let is_thought = part.get("thought").and_then(Value::as_bool).unwrap_or(false);
        if is_thought && !said.is_empty() {
            out.push(Event::Reasoning(said.to_owned()));
        }
        let signature = text(part, "thoughtSignature");
        if !signature.is_empty() {
            out.push(Event::Signature(signature.to_owned()));
        }
        if !is_thought && !said.is_empty() {
            out.push(Event::Text(said.to_owned()));
        }
        if let Some(call) = member(part, "functionCall") {
            let id = match text(call, "id") {
                "" => format!("call_{}_{}", self.call_prefix, self.calls),
                id => id.to_owned(),
            };
            self.calls += 1;
            out.push(Event::ToolCall { id, name: text(call, "name").to_owned() });
            let arguments = member(call, "args").cloned().unwrap_or_else(|| object(""));
            out.push(Event::Arguments(arguments.to_string()));
        }
    }

    fn stop(&mut self, word: &str, out: &mut Vec<Event>) {
        if word.is_empty() || word.ends_with("_UNSPECIFIED") || self.has_stopped {
            return;
        }
        self.has_stopped = true;
        let reason = match word {
            "MAX_TOKENS" => StopReason::Length,
            "SAFETY"
            | "RECITATION"
            | "LANGUAGE"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "JAILBREAK"
            | "MODEL_ARMOR" => StopReason::Refusal,
            _ if self.calls > 0 => StopReason::ToolCalls,
            _ => StopReason::End,
        };
        out.push(Event::Stop(Stop { reason, word: word.to_owned(), sequence: None }));
    }

    fn event(&mut self, data: &[u8], out: &mut Vec<Event>) -> Result<(), UpstreamError> {
        let answer = parsed(data)?;
        self.object(&answer, out);
        Ok(())
    }
}

impl Decoder for GeminiDecoder {
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        crate::provider::is_event_stream(content_type)
    }

    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        provider_error(&serde_json::from_slice(body).ok()?)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Answer, UpstreamError> {
        let answer = parsed(body)?;
        let is_answer = ["candidates", "promptFeedback", "error"];
        if !is_answer.iter().any(|name| member(&answer, name).is_some()) {
            return Err(UpstreamError::Decode("the answer has no candidates".to_owned()));
        }
        let mut events = Vec::new();
        self.object(&answer, &mut events);
        gather(events)
    }

    fn portion(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        self.events.push(bytes);
        while let Some(event) =
            self.events.next_event().map_err(|error| UpstreamError::Decode(error.to_string()))?
        {
            if let Some(data) = event.data {
                self.event(&data, events)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        // A fragment is none: whether the answer was complete is told by what came before.
        if let Some(data) = self.events.finish().and_then(|event| event.data)
            && let Ok(answer) = parsed(&data)
        {
            self.object(&answer, events);
        }
        Ok(())
    }
}

fn parsed(json: &[u8]) -> Result<Value, UpstreamError> {
    match serde_json::from_slice(json) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(UpstreamError::Decode("the answer is not a JSON object".to_owned())),
    }
}

/// The error in a body or an event; some come in a list.
fn provider_error(body: &Value) -> Option<ProviderError> {
    let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
    let error = member(body, "error")?;
    let message = match (text(error, "message"), error.as_str()) {
        ("", Some(message)) => message,
        ("", None) => "the upstream told an error without a message",
        (message, _) => message,
    };
    let status = u16::try_from(count(error, "code")).ok().filter(|status| *status >= 100);
    let code = match text(error, "status") {
        "UNAUTHENTICATED" => Some("invalid_api_key"),
        "INVALID_ARGUMENT" if message.contains("API key not valid") => Some("invalid_api_key"),
        "PERMISSION_DENIED" => Some("permission_denied"),
        "NOT_FOUND" => Some("model_not_found"),
        "RESOURCE_EXHAUSTED" => Some("rate_limit_exceeded"),
        "UNAVAILABLE" => Some("overloaded"),
        "DEADLINE_EXCEEDED" => Some("timeout"),
        _ => None,
    };
    let (message, code) = (message.to_owned(), code.map(str::to_owned));
    Some(ProviderError { message, code, param: None, status })
}

/// What was thought is beside the answer's tokens there, and what tools of Google's own have read beside the prompt's.
fn token_usage(usage: &Value) -> TokenUsage {
    let audio = |name: &str| {
        let of_audio = |part: &&Value| text(part, "modality") == "AUDIO";
        list(usage, name).iter().find(of_audio).map_or(0, |part| count(part, "tokenCount"))
    };
    let thoughts = count(usage, "thoughtsTokenCount");
    TokenUsage {
        prompt: count(usage, "promptTokenCount")
            .saturating_add(count(usage, "toolUsePromptTokenCount")),
        completion: count(usage, "candidatesTokenCount").saturating_add(thoughts),
        cached_prompt: count(usage, "cachedContentTokenCount"),
        reasoning: thoughts,
        audio_prompt: audio("promptTokensDetails"),
        audio_completion: audio("candidatesTokensDetails"),
        ..TokenUsage::default()
    }
}

#[cfg(test)]
mod tests;
