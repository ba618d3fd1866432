//! What an answer that is no stream tells, and what an error tells.
//!
//! The answer itself is relayed as it came. Only that it is a JSON object is insisted on; a field of an unexpected type is
//! as if it were absent.

mod mould;
mod typical;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::plain_text;
use crate::provider::{ProviderError, Seen, TokenUsage, short};

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// The same, of which every field has the type that it should have: read at once.
#[derive(Deserialize)]
struct Typical<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
}

/// An answer that is about no conversation: embeddings, pictures, sound, rankings.
#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    duration: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

/// Where Cohere has its counts (https://docs.cohere.com/reference/rerank).
#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    billed_units: Option<&'a RawValue>,
}

/// One of the choices, of an answer or of a chunk.
#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    pub finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub message: Option<Message<'a>>,
    /// Of a chunk. Some providers tell the message so far beside it.
    #[serde(borrow)]
    pub delta: Option<Message<'a>>,
    /// Of `/v1/completions`.
    #[serde(borrow)]
    pub text: Option<&'a RawValue>,
}

/// The generated parts of a message.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// Counts in the words of chat completions, and in those of everything newer.
#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    #[serde(alias = "input_token_details")]
    input_tokens_details: Option<PromptDetails>,
    #[serde(alias = "output_token_details")]
    output_tokens_details: Option<CompletionDetails>,
    total_tokens: Option<u64>,
}

/// What sound was worked on, where it is charged by its length.
#[derive(Deserialize)]
struct Duration {
    seconds: f64,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

/// What a whole answer tells, or `None` if it is no JSON object.
pub fn read_answer(body: &[u8]) -> Option<Seen> {
    mould::read(body).or_else(|| read_any(body))
}

fn read_any(body: &[u8]) -> Option<Seen> {
    let answer: Typical<'_> = match object(body) {
        Some(typical) => typical,
        None => lenient_answer(body)?,
    };
    let mut seen = Seen {
        has_begun: true,
        id: answer.id.map(short_text).unwrap_or_default(),
        model: answer.model.map(short_text).unwrap_or_default(),
        usage: answer.usage.and_then(Usage::tokens),
        ..Seen::default()
    };
    let choices = answer.choices.unwrap_or_default();
    choices.iter().for_each(|choice| choice.add_to(&mut seen));
    Some(seen)
}

fn lenient_answer(body: &[u8]) -> Option<Typical<'_>> {
    let answer: Answer<'_> = object(body)?;
    Some(Typical {
        id: answer.id,
        model: answer.model,
        choices: answer.choices.and_then(lenient),
        usage: answer.usage.and_then(lenient),
    })
}

/// What a whole answer tells that is about no conversation, or `None` if it is no JSON object.
pub fn read_plain(body: &[u8]) -> Option<Seen> {
    let answer: Plain<'_> = object(body)?;
    let meta: Option<Meta<'_>> = answer.meta.and_then(lenient);
    let counts = [answer.usage, meta.as_ref().and_then(|meta| meta.tokens)];
    let billed = meta.as_ref().and_then(|meta| meta.billed_units);
    Some(Seen {
        has_begun: true,
        id: answer.id.map(short_text).unwrap_or_default(),
        model: answer.model.map(short_text).unwrap_or_default(),
        finish_reason: answer.status.map(short_text).unwrap_or_default(),
        usage: counts.into_iter().chain([billed]).flatten().find_map(token_usage),
        text_bytes: answer.text.map_or(0, |text| text.get().len().saturating_sub(2)),
        audio_seconds: answer
            .usage
            .and_then(audio_seconds)
            .or_else(|| answer.duration.and_then(seconds))
            .unwrap_or_default(),
    })
}

/// The length of the sound in a `usage` field, where it is charged by that.
pub(super) fn audio_seconds(usage: &RawValue) -> Option<f64> {
    lenient::<Duration>(usage).map(|duration| duration.seconds).filter(is_length)
}

/// A number of seconds, which some write as text.
fn seconds(value: &RawValue) -> Option<f64> {
    let number = lenient::<f64>(value);
    number.or_else(|| lenient::<Cow<'_, str>>(value)?.parse().ok()).filter(is_length)
}

fn is_length(seconds: &f64) -> bool {
    seconds.is_finite() && *seconds >= 0.0
}

/// The error in a body or an event, `{"error": …}` or what comes close, or `None` if there is none.
pub fn provider_error(body: &[u8]) -> Option<ProviderError> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = match body.get("error") {
        Some(serde_json::Value::Null) | None => return None,
        Some(error) => error,
    };
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let message = text(error).or_else(|| error.get("message").and_then(text));
    let status = ["status", "status_code", "code"].iter().find_map(|name| {
        let status = error.get(name)?;
        let status = status.as_u64().or_else(|| status.as_str()?.parse().ok())?;
        u16::try_from(status).ok()
    });
    Some(ProviderError {
        message: message
            .unwrap_or_else(|| "the upstream told an error without a message".to_owned()),
        code: error.get("code").and_then(text),
        param: error.get("param").and_then(text),
        status,
    })
}

impl Choice<'_> {
    /// Adds what the choice tells.
    pub(super) fn add_to(&self, seen: &mut Seen) {
        if let Some(reason) = &self.finish_reason {
            seen.finish_reason = short(reason);
        }
        let bytes = |part: &RawValue| text_bytes(part.get().as_bytes());
        seen.text_bytes += self.text.map_or(0, bytes);
        if let Some(message) = self.delta.as_ref().or(self.message.as_ref()) {
            let parts = [message.content, message.reasoning_content, message.tool_calls];
            seen.text_bytes += parts.into_iter().flatten().map(bytes).sum::<usize>();
        }
    }
}

/// The length of a part of the answer.
fn text_bytes(json: &[u8]) -> usize {
    match json {
        b"null" => 0,
        // Without the quotes.
        text => text.len().saturating_sub(2),
    }
}

/// The counts in a `usage` field; `None` if there are none.
pub(super) fn token_usage(usage: &RawValue) -> Option<TokenUsage> {
    lenient::<Usage>(usage)?.tokens()
}

impl Usage {
    fn tokens(self) -> Option<TokenUsage> {
        let tokens = |count: Option<u64>| u32::try_from(count.unwrap_or(0)).unwrap_or(u32::MAX);
        let prompt_tokens = self.prompt_tokens.or(self.input_tokens);
        let completion_tokens = self.completion_tokens.or(self.output_tokens);
        // Some count nothing but the sum, where nothing is generated.
        let prompt_tokens = match completion_tokens {
            Some(_) => prompt_tokens.or(Some(0)),
            None => prompt_tokens.or(self.total_tokens),
        };
        prompt_tokens?;
        let prompt = self.prompt_tokens_details.or(self.input_tokens_details);
        let completion = self.completion_tokens_details.or(self.output_tokens_details);
        Some(TokenUsage {
            prompt: tokens(prompt_tokens),
            completion: tokens(completion_tokens),
            cached_prompt: tokens(prompt.as_ref().and_then(|details| details.cached_tokens)),
            reasoning: tokens(completion.as_ref().and_then(|details| details.reasoning_tokens)),
            audio_prompt: tokens(prompt.and_then(|details| details.audio_tokens)),
            audio_completion: tokens(completion.and_then(|details| details.audio_tokens)),
            ..TokenUsage::default()
        })
    }
}

/// A JSON object; serde alone would take the fields from an array too.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    let json = json.trim_ascii_start();
    if !json.starts_with(b"{") {
        return None;
    }
    match std::str::from_utf8(json) {
        // The parts of a text need not be looked at again to be texts.
        Ok(text) => serde_json::from_str(text).ok(),
        Err(_) => serde_json::from_slice(json).ok(),
    }
}

/// The value, if it has the expected type.
pub(super) fn lenient<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// A text, cut; empty if it is none.
pub(super) fn short_text(value: &RawValue) -> String {
    short_json(value.get())
}

fn short_json(json: &str) -> String {
    if let Some(text) = plain_text(json) {
        return short(text);
    }
    serde_json::from_str::<Cow<'_, str>>(json).map(|text| short(&text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_tells_what_is_accounted() {
        let body = br#"{"id":"c-1","model":"m-2024","choices":[{"index":0,"finish_reason":"stop",
            "message":{"role":"assistant","content":"hello","tool_calls":null}}],
            "usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":7}}}"#;
        let usage = TokenUsage {
            prompt: 9,
            completion: 12,
            cached_prompt: 4,
            reasoning: 7,
            ..TokenUsage::default()
        };
        let seen = read_answer(body).unwrap();
        assert_eq!((seen.id.as_str(), seen.model.as_str()), ("c-1", "m-2024"));
        assert_eq!((seen.finish_reason.as_str(), seen.usage), ("stop", Some(usage)));
        assert_eq!(seen.text_bytes, 5);
    }

    #[test]
    fn a_field_of_an_unexpected_type_is_as_if_it_were_absent() {
        let body = br#"{"id":7,"model":null,"choices":"x","usage":{"prompt_tokens":-1}}"#;
        assert_eq!(read_answer(body), Some(Seen { has_begun: true, ..Seen::default() }));
        let usage = read_answer(br#"{"usage":{"prompt_tokens":99999999999}}"#).unwrap().usage;
        assert_eq!(usage.unwrap().prompt, u32::MAX);
        for body in ["", "[]", "<html>", "{\"id\":"] {
            assert_eq!(read_answer(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn an_error_is_read_in_the_forms_that_providers_use() {
        let error = |body: &str| provider_error(body.as_bytes());
        let full = r#"{"error":{"message":"no","type":"t","code":"bad","param":"messages"}}"#;
        let expected = ProviderError {
            message: "no".to_owned(),
            code: Some("bad".to_owned()),
            param: Some("messages".to_owned()),
            status: None,
        };
        assert_eq!(error(full), Some(expected));
        assert_eq!(error(r#"{"error":"plain"}"#).unwrap().message, "plain");
        assert_eq!(error(r#"{"error":{"code":429}}"#).unwrap().status, Some(429));
        assert_eq!(error(r#"{"error":null}"#), None);
        assert_eq!(error("nonsense"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_the_readers(bytes: Vec<u8>, text in r#"[\[\]{}",:a-z0-9\\ ]{0,40}"#) {
            for body in [&bytes[..], text.as_bytes()] {
                let _ = (read_answer(body), provider_error(body));
            }
        }
    }
}
