//! An answer in the words of Messages: a message, or the events of a stream.
//!
//! ```text
//! message_start ─ { content_block_start ─ content_block_delta… ─ content_block_stop }… ─ message_delta ─ message_stop
//! ```
//! The count of tokens comes with `message_delta`: most providers tell it last. Why the answer ended comes there too, so that
//! it waits for the provider's last word.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};

use crate::chat::{Answer, Encoder, Event, Part, Stop, StopReason};
use crate::provider::TokenUsage;

/// Tells one answer.
pub struct Messages {
    /// What is told where the provider names no id and no model.
    id: String,
    model: String,
    has_begun: bool,
    /// The kind of the block that is open.
    open: Option<Block>,
    /// How many blocks have begun.
    blocks: usize,
    has_tool_calls: bool,
    usage: TokenUsage,
    stop: Option<Stop>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Tool,
}

/// A piece of a block. The fields of both are in the order in which those of a [`Value`] are.
#[derive(Serialize)]
struct Piece<'a> {
    delta: Delta<'a>,
    index: usize,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_json: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Messages {
    /// `id` and `model` are told where the provider tells none.
    pub fn new(id: String, model: String) -> Self {
        Self {
            id,
            model,
            has_begun: false,
            open: None,
            blocks: 0,
            has_tool_calls: false,
            usage: TokenUsage::default(),
            stop: None,
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

    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage(&self.usage),
        });
        write("message_start", &json!({"type": "message_start", "message": message}), out);
    }

    fn close(&mut self, out: &mut BytesMut) {
        if self.open.take().is_some() {
            let index = self.blocks.saturating_sub(1);
            write(
                "content_block_stop",
                &json!({"type": "content_block_stop", "index": index}),
                out,
            );
        }
    }

    fn open(&mut self, kind: Option<Block>, block: &Value, out: &mut BytesMut) {
        self.begin(out);
        self.close(out);
        let start =
            json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        write("content_block_start", &start, out);
        self.blocks += 1;
        self.open = kind;
    }

    fn delta(&self, delta: Delta<'_>, out: &mut BytesMut) {
        let kind = "content_block_delta";
        write(kind, &Piece { delta, index: self.blocks.saturating_sub(1), kind }, out);
    }

    /// Opens a block of thoughts unless one is open.
    fn think(&mut self, out: &mut BytesMut) {
        if self.open != Some(Block::Thinking) {
            let block = json!({"type": "thinking", "thinking": "", "signature": ""});
            self.open(Some(Block::Thinking), &block, out);
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.begin(out);
        self.close(out);
        let stop = self.stop.take().unwrap_or_default();
        let delta = json!({
            "type": "message_delta",
            "delta": {
                "stop_reason": stop_reason(&stop, self.has_tool_calls),
                "stop_sequence": stop.sequence,
            },
            "usage": usage(&self.usage),
        });
        write("message_delta", &delta, out);
        write("message_stop", &json!({"type": "message_stop"}), out);
    }
}

impl Encoder for Messages {
    fn whole(&mut self, answer: &Answer) -> Bytes {
        self.name(&answer.id, &answer.model);
        let has_tool_calls = answer.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": answer.parts.iter().filter_map(block).collect::<Vec<_>>(),
            "stop_reason": stop_reason(&answer.stop, has_tool_calls),
            "stop_sequence": answer.stop.sequence,
            "usage": usage(&answer.usage.unwrap_or_default()),
        });
        message.to_string().into()
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) {
        match event {
            Event::Start { id, model } => {
                self.name(id, model);
                self.begin(out);
            }
            Event::Text(text) if text.is_empty() => {}
            Event::Text(text) => {
                if self.open != Some(Block::Text) {
                    self.open(Some(Block::Text), &json!({"type": "text", "text": ""}), out);
                }
                self.delta(Delta { kind: "text_delta", text: Some(text), ..Delta::default() }, out);
            }
            Event::Reasoning(text) if text.is_empty() => {}
            Event::Reasoning(text) => {
                self.think(out);
                let thinking = Some(text.as_str());
                self.delta(Delta { kind: "thinking_delta", thinking, ..Delta::default() }, out);
            }
            Event::Signature(signature) => {
                self.think(out);
                let signature = Some(signature.as_str());
                self.delta(Delta { kind: "signature_delta", signature, ..Delta::default() }, out);
                // What is thought afterwards is signed by another.
                self.close(out);
            }
            Event::HiddenReasoning(data) => {
                let block = json!({"type": "redacted_thinking", "data": data});
                self.open(Some(Block::Thinking), &block, out);
                self.close(out);
            }
            Event::ToolCall { id, name } => {
                self.has_tool_calls = true;
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.open(Some(Block::Tool), &block, out);
            }
            Event::Arguments(json) => {
                if self.open == Some(Block::Tool) {
                    let kind = "input_json_delta";
                    self.delta(Delta { kind, partial_json: Some(json), ..Delta::default() }, out);
                }
            }
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = *usage,
            Event::End => self.end(out),
            Event::Error(_) => {}
        }
    }
}

/// A part of a whole answer.
fn block(part: &Part) -> Option<Value> {
    match part {
        Part::Text { text, .. } if text.is_empty() => None,
        Part::Text { text, .. } => Some(json!({"type": "text", "text": text})),
        Part::ToolCall { id, name, arguments, .. } => {
            // What is no JSON cannot be an input; the client sees that there was none.
            let input: Value = serde_json::from_str(arguments).unwrap_or(Value::Null);
            let input = if input.is_object() { input } else { json!({}) };
            Some(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
        }
        Part::Reasoning { text, signature } => {
            let signature = signature.as_deref().unwrap_or_default();
            Some(json!({"type": "thinking", "thinking": text, "signature": signature}))
        }
        Part::HiddenReasoning(data) => Some(json!({"type": "redacted_thinking", "data": data})),
        Part::Media { .. } | Part::ToolResult { .. } => None,
    }
}

/// Some providers say that an answer is just complete although it calls tools; clients go on by this word.
fn stop_reason(stop: &Stop, has_tool_calls: bool) -> &'static str {
    match stop.reason {
        StopReason::End if has_tool_calls => "tool_use",
        StopReason::End => "end_turn",
        StopReason::Length => "max_tokens",
        StopReason::Sequence => "stop_sequence",
        StopReason::ToolCalls => "tool_use",
        StopReason::Refusal => "refusal",
        StopReason::Pause => "pause_turn",
    }
}

/// What was read from a cache is not among the input tokens here.
fn usage(usage: &TokenUsage) -> Value {
    json!({
        "input_tokens": usage.prompt.saturating_sub(usage.cached_prompt),
        "cache_creation_input_tokens": usage.cache_creation,
        "cache_read_input_tokens": usage.cached_prompt.saturating_add(usage.cache_read),
        "output_tokens": usage.completion,
    })
}

fn write(name: &str, data: &impl Serialize, out: &mut BytesMut) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    // Memory takes everything.
    let _ = serde_json::to_writer((&mut *out).writer(), data);
    out.extend_from_slice(b"\n\n");
}
