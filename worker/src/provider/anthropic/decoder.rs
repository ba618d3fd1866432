//! Understands Anthropic's answers: messages, and the events of a stream.

use std::borrow::Cow;

use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use super::{forced_json, message};
use crate::chat::{Answer, Decoder, Event, Part, Stop, StopReason};
use crate::provider::{ProviderError, TokenUsage};
use crate::request::UpstreamError;
use crate::sse;

/// Reads one answer.
pub struct Messages {
    events: sse::Decoder,
    /// Whether the input of [`forced_json::NAME`] is the answer.
    forces_json: bool,
    usage: Option<TokenUsage>,
    /// The block that is open.
    block: Block,
    has_tool_calls: bool,
}

#[derive(Debug, Default, PartialEq)]
enum Block {
    /// None, or one that is of no concern.
    #[default]
    Other,
    Text,
    Thinking,
    /// A call, and what its beginning told of its input. Pieces that follow take its place.
    Tool {
        input: String,
    },
    /// The answer in JSON, in the same way.
    Json {
        input: String,
    },
}

/// A piece of a block, as it mostly is.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    delta: Delta<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature: Option<Cow<'a, str>>,
    #[serde(borrow)]
    partial_json: Option<Cow<'a, str>>,
}

impl Messages {
    /// `forces_json`: the request had [`forced_json::tool`].
    pub fn new(forces_json: bool) -> Self {
        Self {
            events: sse::Decoder::default(),
            forces_json,
            usage: None,
            block: Block::Other,
            has_tool_calls: false,
        }
    }

    fn read(&mut self, event: &sse::Event, events: &mut Vec<Event>) {
        let Some(data) = &event.data else { return };
        if let Ok(Piece { kind: "content_block_delta", delta }) = serde_json::from_slice(data) {
            return self.piece(&delta, events);
        }
        // What is no JSON is nothing that is known.
        let Ok(told) = serde_json::from_slice::<Value>(data) else { return };
        let member = |name: &str| told.get(name).unwrap_or(&Value::Null);
        match message::text(&told, "type") {
            "message_start" => {
                let message = member("message");
                events.push(Event::Start {
                    id: message::text(message, "id").to_owned(),
                    model: message::text(message, "model").to_owned(),
                });
                self.count(message, events);
            }
            "content_block_start" => self.begin(member("content_block"), events),
            "content_block_delta" => {
                let text = |name: &str| Some(Cow::from(message::text(member("delta"), name)));
                let delta = Delta {
                    kind: text("type"),
                    text: text("text"),
                    thinking: text("thinking"),
                    signature: text("signature"),
                    partial_json: text("partial_json"),
                };
                self.piece(&delta, events);
            }
            "content_block_stop" => self.finish(events),
            "message_delta" => {
                let delta = member("delta");
                let word = message::text(delta, "stop_reason");
                if !word.is_empty() {
                    events.push(Event::Stop(self.stop(word, delta)));
                }
                self.count(&told, events);
            }
            "message_stop" => events.push(Event::End),
            "error" => {
                let error = message::read_error(&told).unwrap_or_else(|| ProviderError {
                    message: "the upstream told an error without a message".to_owned(),
                    ..ProviderError::default()
                });
                events.push(Event::Error(error));
            }
            _ => {}
        }
    }

    fn begin(&mut self, block: &Value, events: &mut Vec<Event>) {
        let text = |name: &str| message::text(block, name).to_owned();
        self.block = match message::text(block, "type") {
            "text" => {
                push_text(text("text"), Event::Text, events);
                Block::Text
            }
            "thinking" => {
                push_text(text("thinking"), Event::Reasoning, events);
                push_text(text("signature"), Event::Signature, events);
                Block::Thinking
            }
            "redacted_thinking" => {
                events.push(Event::HiddenReasoning(text("data")));
                Block::Other
            }
            "tool_use" => {
                let input = block.get("input").filter(|input| !is_empty(input));
                let input = input.map_or_else(|| "{}".to_owned(), Value::to_string);
                if self.is_answer(block) {
                    Block::Json { input }
                } else {
                    self.has_tool_calls = true;
                    events.push(Event::ToolCall { id: text("id"), name: text("name") });
                    Block::Tool { input }
                }
            }
            _ => Block::Other,
        };
    }

    fn piece(&mut self, delta: &Delta<'_>, events: &mut Vec<Event>) {
        let text = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
        match delta.kind.as_deref().unwrap_or_default() {
            "text_delta" => push_text(text(&delta.text), Event::Text, events),
            "thinking_delta" => push_text(text(&delta.thinking), Event::Reasoning, events),
            "signature_delta" => push_text(text(&delta.signature), Event::Signature, events),
            "input_json_delta" => {
                let json = text(&delta.partial_json);
                match &mut self.block {
                    _ if json.is_empty() => {}
                    Block::Tool { input } => {
                        input.clear();
                        events.push(Event::Arguments(json));
                    }
                    Block::Json { input } => {
                        input.clear();
                        events.push(Event::Text(json));
                    }
                    Block::Other | Block::Text | Block::Thinking => {}
                }
            }
            _ => {}
        }
    }

    /// An input that came without pieces came with the beginning; every call has one.
    fn finish(&mut self, events: &mut Vec<Event>) {
        match std::mem::take(&mut self.block) {
            Block::Tool { input } => push_text(input, Event::Arguments, events),
            Block::Json { input } => push_text(input, Event::Text, events),
            Block::Other | Block::Text | Block::Thinking => {}
        }
    }

    fn count(&mut self, told: &Value, events: &mut Vec<Event>) {
        if let Some(usage) = told.get("usage").and_then(|told| message::usage(told, self.usage)) {
            self.usage = Some(usage);
            events.push(Event::Usage(usage));
        }
    }

    fn stop(&self, word: &str, told: &Value) -> Stop {
        let reason = match message::stop_reason(word) {
            StopReason::ToolCalls if self.forces_json && !self.has_tool_calls => StopReason::End,
            reason => reason,
        };
        let sequence = told.get("stop_sequence").and_then(Value::as_str);
        Stop { reason, word: word.to_owned(), sequence: sequence.map(str::to_owned) }
    }

    fn is_answer(&self, block: &Value) -> bool {
        self.forces_json && message::text(block, "name") == forced_json::NAME
    }

    fn part(&mut self, block: &Value) -> Option<Part> {
        let text = |name: &str| message::text(block, name).to_owned();
        match message::text(block, "type") {
            "text" => Some(Part::Text { text: text("text"), cache: None }),
            "thinking" => Some(Part::Reasoning {
                text: text("thinking"),
                signature: Some(text("signature")).filter(|signature| !signature.is_empty()),
            }),
            "redacted_thinking" => Some(Part::HiddenReasoning(text("data"))),
            "tool_use" => {
                let input = block.get("input").filter(|input| !input.is_null());
                let arguments = input.map_or_else(|| "{}".to_owned(), Value::to_string);
                if self.is_answer(block) {
                    return Some(Part::Text { text: arguments, cache: None });
                }
                self.has_tool_calls = true;
                Some(Part::ToolCall { id: text("id"), name: text("name"), arguments, cache: None })
            }
            _ => None,
        }
    }
}

impl Decoder for Messages {
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        let value = content_type.to_str().unwrap_or_default().trim_start().to_ascii_lowercase();
        value.starts_with("text/event-stream")
    }

    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        message::error(body)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Answer, UpstreamError> {
        let told: Value = serde_json::from_slice(body)
            .map_err(|error| UpstreamError::Decode(format!("the answer is no JSON: {error}")))?;
        if let Some(error) = message::read_error(&told) {
            return Err(UpstreamError::InBand(error));
        }
        let Some(blocks) = told.get("content").and_then(Value::as_array) else {
            return Err(UpstreamError::Decode("the answer has no list `content`".to_owned()));
        };
        let parts: Vec<_> = blocks.iter().filter_map(|block| self.part(block)).collect();
        Ok(Answer {
            id: message::text(&told, "id").to_owned(),
            model: message::text(&told, "model").to_owned(),
            stop: self.stop(message::text(&told, "stop_reason"), &told),
            usage: told.get("usage").and_then(|told| message::usage(told, None)),
            parts,
        })
    }

    fn portion(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        self.events.push(bytes);
        while let Some(event) =
            self.events.next_event().map_err(|error| UpstreamError::Decode(error.to_string()))?
        {
            self.read(&event, events);
        }
        Ok(())
    }

    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), UpstreamError> {
        if let Some(event) = self.events.finish() {
            self.read(&event, events);
        }
        Ok(())
    }
}

fn push_text(text: String, event: impl FnOnce(String) -> Event, events: &mut Vec<Event>) {
    if !text.is_empty() {
        events.push(event(text));
    }
}

fn is_empty(input: &Value) -> bool {
    input.is_null() || input.as_object().is_some_and(serde_json::Map::is_empty)
}
