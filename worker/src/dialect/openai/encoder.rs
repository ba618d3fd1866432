//! An answer in the words of chat completions: a completion, or the chunks of a stream.
//!
//! What a model has thought is `reasoning_content`, as most providers of this dialect call it. Where the provider has signed
//! it, or does not show it, it is also in `thinking_blocks`, each a whole block; a caller who sends them back with the message
//! keeps the model's train of thought. In a stream a block has an `index`, without which OpenAI's own client cannot put the
//! pieces of a list together.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::chat::{Answer, Encoder, Event, Part, Stop, StopReason};
use crate::provider::TokenUsage;

/// The most that is remembered of one block of thoughts, in bytes. A longer one is told, but cannot be sent back.
const THOUGHTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Tells one answer.
pub struct ChatCompletions {
    /// What is told where the provider names no id and no model.
    id: String,
    model: String,
    /// When the answer was made, in seconds of the Unix era.
    created: i64,
    /// Whether the caller of a stream asked for the count.
    wants_usage: bool,
    has_begun: bool,
    tool_calls: usize,
    thinking_blocks: usize,
    /// What was thought since the last signature.
    thoughts: String,
    usage: Option<TokenUsage>,
}

/// A chunk of a stream. The fields of all of these are in the order in which those of a [`Value`] are.
#[derive(Serialize)]
struct Chunk<'a, C> {
    choices: C,
    created: i64,
    id: &'a str,
    model: &'a str,
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Serialize)]
struct Choice<'a, D> {
    delta: D,
    finish_reason: Option<&'a str>,
    index: usize,
}

#[derive(Serialize)]
struct Content<'a> {
    content: &'a str,
}

#[derive(Serialize)]
struct Reasoning<'a> {
    reasoning_content: &'a str,
}

impl ChatCompletions {
    /// `id` and `model` are told where the provider tells none.
    pub fn new(id: String, model: String, created: i64, wants_usage: bool) -> Self {
        Self {
            id,
            model,
            created,
            wants_usage,
            has_begun: false,
            tool_calls: 0,
            thinking_blocks: 0,
            thoughts: String::new(),
            usage: None,
        }
    }

    fn name(&mut self, id: &str, model: &str) {
        if !id.is_empty() {
            id.clone_into(&mut self.id);
        }
        if !model.is_empty() {
            model.clone_into(&mut self.model);
        }
    }

    fn chunk(&self, choices: impl Serialize, usage: Option<Value>, out: &mut BytesMut) {
        let chunk = Chunk {
            choices,
            created: self.created,
            id: &self.id,
            model: &self.model,
            object: "chat.completion.chunk",
            usage: self.wants_usage.then(|| usage.unwrap_or(Value::Null)),
        };
        out.extend_from_slice(b"data: ");
        // Memory takes everything.
        let _ = serde_json::to_writer((&mut *out).writer(), &chunk);
        out.extend_from_slice(b"\n\n");
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.say(json!({"role": "assistant", "content": ""}), None, out);
        }
    }

    fn delta(&mut self, delta: impl Serialize, out: &mut BytesMut) {
        self.begin(out);
        self.say(delta, None, out);
    }

    fn say(&self, delta: impl Serialize, finish_reason: Option<&str>, out: &mut BytesMut) {
        self.chunk([Choice { delta, finish_reason, index: 0 }], None, out);
    }

    fn thinking_block(&mut self, mut block: Value, out: &mut BytesMut) {
        block["index"] = self.thinking_blocks.into();
        self.thinking_blocks += 1;
        self.delta(json!({"thinking_blocks": [block]}), out);
    }
}

impl Encoder for ChatCompletions {
    fn whole(&mut self, answer: &Answer) -> Bytes {
        self.name(&answer.id, &answer.model);
        let (message, has_tool_calls) = message(&answer.parts);
        let mut completion = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": message,
                "logprobs": null,
                "finish_reason": finish_reason(&answer.stop, has_tool_calls),
            }],
        });
        if let Some(usage) = &answer.usage {
            completion["usage"] = told(usage);
        }
        completion.to_string().into()
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) {
        match event {
            Event::Start { id, model } => {
                self.name(id, model);
                self.begin(out);
            }
            Event::Text(text) if text.is_empty() => {}
            Event::Text(content) => self.delta(Content { content }, out),
            Event::Reasoning(text) if text.is_empty() => {}
            Event::Reasoning(text) => {
                if self.thoughts.len() <= THOUGHTS_BYTES_MAX {
                    self.thoughts.push_str(text);
                }
                self.delta(Reasoning { reasoning_content: text }, out);
            }
            Event::Signature(signature) => {
                let thinking = std::mem::take(&mut self.thoughts);
                if thinking.len() <= THOUGHTS_BYTES_MAX {
                    let block =
                        json!({"type": "thinking", "thinking": thinking, "signature": signature});
                    self.thinking_block(block, out);
                }
            }
            Event::HiddenReasoning(data) => {
                self.thinking_block(json!({"type": "redacted_thinking", "data": data}), out);
            }
            Event::ToolCall { id, name } => {
                let call = json!({
                    "index": self.tool_calls,
                    "id": id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                });
                self.tool_calls += 1;
                self.delta(json!({"tool_calls": [call]}), out);
            }
            Event::Arguments(arguments) => {
                if let Some(index) = self.tool_calls.checked_sub(1) {
                    let call = json!({"index": index, "function": {"arguments": arguments}});
                    self.delta(json!({"tool_calls": [call]}), out);
                }
            }
            Event::Stop(stop) => {
                self.begin(out);
                let reason = finish_reason(stop, self.tool_calls > 0);
                self.say(json!({}), Some(reason), out);
            }
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => {
                if let Some(usage) = self.usage.filter(|_| self.wants_usage) {
                    self.chunk(json!([]), Some(told(&usage)), out);
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            Event::Error(_) => {}
        }
    }
}

/// The message, and whether it calls tools.
fn message(parts: &[Part]) -> (Value, bool) {
    let (mut text, mut reasoning) = (String::new(), String::new());
    let (mut calls, mut blocks) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text { text: piece, .. } => text.push_str(piece),
            Part::ToolCall { id, name, arguments, .. } => calls.push(json!({
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })),
            Part::Reasoning { text: piece, signature } => {
                reasoning.push_str(piece);
                if let Some(signature) = signature {
                    let block =
                        json!({"type": "thinking", "thinking": piece, "signature": signature});
                    blocks.push(block);
                }
            }
            Part::HiddenReasoning(data) => {
                blocks.push(json!({"type": "redacted_thinking", "data": data}));
            }
            Part::Media { .. } | Part::ToolResult { .. } => {}
        }
    }
    let has_tool_calls = !calls.is_empty();
    let mut message = Map::new();
    message.insert("role".to_owned(), "assistant".into());
    let content = if text.is_empty() && has_tool_calls { Value::Null } else { text.into() };
    message.insert("content".to_owned(), content);
    message.insert("refusal".to_owned(), Value::Null);
    if !reasoning.is_empty() {
        message.insert("reasoning_content".to_owned(), reasoning.into());
    }
    if !blocks.is_empty() {
        message.insert("thinking_blocks".to_owned(), blocks.into());
    }
    if has_tool_calls {
        message.insert("tool_calls".to_owned(), calls.into());
    }
    (message.into(), has_tool_calls)
}

/// Some providers say that an answer is just complete although it calls tools; clients go on by this word.
fn finish_reason(stop: &Stop, has_tool_calls: bool) -> &'static str {
    match stop.reason {
        StopReason::End if has_tool_calls => "tool_calls",
        StopReason::End | StopReason::Sequence | StopReason::Pause => "stop",
        StopReason::Length => "length",
        StopReason::ToolCalls => "tool_calls",
        StopReason::Refusal => "content_filter",
    }
}

/// The prompt's tokens are all of them here, whatever was read from a cache or written to one.
fn told(usage: &TokenUsage) -> Value {
    let prompt = [usage.prompt, usage.cache_creation, usage.cache_read]
        .iter()
        .fold(0_u32, |sum, tokens| sum.saturating_add(*tokens));
    let mut told = json!({
        "prompt_tokens": prompt,
        "completion_tokens": usage.completion,
        "total_tokens": prompt.saturating_add(usage.completion),
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_prompt.saturating_add(usage.cache_read),
            "audio_tokens": usage.audio_prompt,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_completion,
        },
    });
    // In Anthropic's words, as other gateways tell them.
    if usage.cache_creation > 0 || usage.cache_read > 0 {
        told["cache_creation_input_tokens"] = usage.cache_creation.into();
        told["cache_read_input_tokens"] = usage.cache_read.into();
    }
    told
}
