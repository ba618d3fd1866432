//! An answer in the words of the Responses API: a response, or the events of a stream.
//!
//! ```text
//! response.created, response.in_progress
//!   response.output_item.added … deltas … response.output_item.done        (for each item)
//! response.completed | response.incomplete
//! ```

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::items::{Item, Kind, part, usage};
use super::{HIDDEN, SIGNED};
use crate::call::Call;
use crate::chat::{Answer, Encoder, Event, Part, Stop, StopReason};
use crate::provider::TokenUsage;

/// Tells one answer.
pub struct Responses {
    /// Unique; the ids of response and items are made of it.
    id: String,
    /// The response without what only the answer tells.
    response: Map<String, Value>,
    sequence: u64,
    has_begun: bool,
    done: Vec<Item>,
    open: Option<Item>,
    stop: Stop,
    usage: Option<TokenUsage>,
}

impl Responses {
    /// For the answer to that call. `id` is unique, `created` is now, in seconds of the Unix era.
    pub fn new(call: &Call, id: String, created: i64) -> Self {
        let asked = |name: &str| {
            let text = call.json().and_then(|body| body.get(name));
            text.and_then(|text| serde_json::from_str::<Value>(text).ok())
                .filter(|value| !value.is_null())
        };
        let or = |name: &str, value: Value| asked(name).unwrap_or(value);
        let response = json!({
            "id": format!("resp_{id}"),
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": or("instructions", Value::Null),
            "max_output_tokens": or("max_output_tokens", Value::Null),
            "metadata": or("metadata", json!({})),
            "model": call.model,
            "output": [],
            "parallel_tool_calls": or("parallel_tool_calls", Value::Bool(true)),
            "previous_response_id": null,
            "reasoning": or("reasoning", json!({"effort": null, "summary": null})),
            "store": false,
            "temperature": or("temperature", json!(1.0)),
            "text": or("text", json!({"format": {"type": "text"}})),
            "tool_choice": or("tool_choice", json!("auto")),
            "tools": or("tools", json!([])),
            "top_p": or("top_p", json!(1.0)),
            "truncation": or("truncation", json!("disabled")),
            "usage": null,
            "user": or("user", Value::Null),
        });
        let response = match response {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        Self {
            id,
            response,
            sequence: 0,
            has_begun: false,
            done: Vec::new(),
            open: None,
            stop: Stop::default(),
            usage: None,
        }
    }

    fn item(&self, kind: Kind) -> Item {
        let prefix = match &kind {
            Kind::Message => "msg",
            Kind::Reasoning => "rs",
            Kind::Call { .. } => "fc",
        };
        let id = format!("{prefix}_{}_{}", self.id, self.done.len());
        Item { id, kind, text: String::new(), sealed: None }
    }

    /// The response as far as it is told.
    fn told(&self, is_complete: bool) -> Value {
        let mut response = self.response.clone();
        if is_complete {
            let reason = match self.stop.reason {
                StopReason::Length => Some("max_output_tokens"),
                StopReason::Refusal => Some("content_filter"),
                _ => None,
            };
            let status = if reason.is_some() { "incomplete" } else { "completed" };
            response.insert("status".to_owned(), status.into());
            if let Some(reason) = reason {
                let details = json!({"reason": reason});
                response.insert("incomplete_details".to_owned(), details);
            }
            let output = self.done.iter().map(|item| item.json(true)).collect();
            response.insert("output".to_owned(), output);
            response.insert("usage".to_owned(), self.usage.map_or(Value::Null, usage));
        }
        Value::Object(response)
    }

    fn say(&mut self, kind: &str, mut data: Value, out: &mut BytesMut) {
        data["type"] = kind.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        out.extend_from_slice(format!("event: {kind}\ndata: {data}\n\n").as_bytes());
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        for kind in ["response.created", "response.in_progress"] {
            let response = self.told(false);
            self.say(kind, json!({"response": response}), out);
        }
    }

    /// The open item, if it is of that kind; else another one is opened.
    fn opened(&mut self, kind: &Kind, out: &mut BytesMut) {
        if self.open.as_ref().is_some_and(|item| item.kind == *kind) {
            return;
        }
        self.close(out);
        self.open(self.item(kind.clone()), out);
    }

    fn open(&mut self, item: Item, out: &mut BytesMut) {
        self.begin(out);
        let index = self.done.len();
        let told = json!({"output_index": index, "item": item.json(false)});
        self.say("response.output_item.added", told, out);
        let (id, part) = (item.id.as_str(), part(&item.kind, ""));
        match &item.kind {
            Kind::Message => {
                let told =
                    json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
                self.say("response.content_part.added", told, out);
            }
            Kind::Reasoning if item.sealed.is_none() => {
                let told =
                    json!({"item_id": id, "output_index": index, "summary_index": 0, "part": part});
                self.say("response.reasoning_summary_part.added", told, out);
            }
            Kind::Reasoning | Kind::Call { .. } => {}
        }
        self.open = Some(item);
    }

    fn delta(&mut self, text: &str, out: &mut BytesMut) {
        let index = self.done.len();
        let Some(item) = &mut self.open else { return };
        item.keep(text);
        let mut told = json!({"item_id": item.id, "output_index": index, "delta": text});
        let kind = match &item.kind {
            Kind::Message => {
                told["content_index"] = 0.into();
                told["logprobs"] = json!([]);
                "response.output_text.delta"
            }
            Kind::Reasoning => {
                told["summary_index"] = 0.into();
                "response.reasoning_summary_text.delta"
            }
            Kind::Call { .. } => "response.function_call_arguments.delta",
        };
        self.say(kind, told, out);
    }

    /// Tells the end of the open item.
    fn close(&mut self, out: &mut BytesMut) {
        let Some(item) = self.open.take() else { return };
        let index = self.done.len();
        let at = json!({"item_id": item.id, "output_index": index});
        let with = |more: Value| {
            let mut told = at.clone();
            if let (Some(told), Value::Object(more)) = (told.as_object_mut(), more) {
                told.extend(more);
            }
            told
        };
        match &item.kind {
            Kind::Message => {
                let told = with(json!({"content_index": 0, "text": item.text, "logprobs": []}));
                self.say("response.output_text.done", told, out);
                let told = with(json!({"content_index": 0, "part": item.part()}));
                self.say("response.content_part.done", told, out);
            }
            // One that is hidden as a whole has no part.
            Kind::Reasoning if item.sealed.as_ref().is_some_and(|it| it.starts_with(HIDDEN)) => {}
            Kind::Reasoning => {
                let told = with(json!({"summary_index": 0, "text": item.text}));
                self.say("response.reasoning_summary_text.done", told, out);
                let told = with(json!({"summary_index": 0, "part": item.part()}));
                self.say("response.reasoning_summary_part.done", told, out);
            }
            Kind::Call { name, .. } => {
                let told = with(json!({"name": name, "arguments": item.arguments()}));
                self.say("response.function_call_arguments.done", told, out);
            }
        }
        let told = json!({"output_index": index, "item": item.json(true)});
        self.say("response.output_item.done", told, out);
        self.done.push(item);
    }

    fn name(&mut self, model: &str) {
        if !model.is_empty() {
            self.response.insert("model".to_owned(), model.into());
        }
    }
}

impl Encoder for Responses {
    fn whole(&mut self, answer: &Answer) -> Bytes {
        self.name(&answer.model);
        (self.stop, self.usage) = (answer.stop.clone(), answer.usage);
        for part in &answer.parts {
            let item = match part {
                Part::Text { text, .. } => match self.done.last_mut() {
                    // A message is one item, however many pieces it came in.
                    Some(last) if last.kind == Kind::Message => {
                        last.keep(text);
                        continue;
                    }
                    _ => Item { text: text.clone(), ..self.item(Kind::Message) },
                },
                Part::Reasoning { text, signature } => Item {
                    text: text.clone(),
                    sealed: signature.as_ref().map(|it| format!("{SIGNED}{it}")),
                    ..self.item(Kind::Reasoning)
                },
                Part::HiddenReasoning(data) => {
                    Item { sealed: Some(format!("{HIDDEN}{data}")), ..self.item(Kind::Reasoning) }
                }
                Part::ToolCall { id, name, arguments, .. } => {
                    let kind = Kind::Call { call_id: id.clone(), name: name.clone() };
                    Item { text: arguments.clone(), ..self.item(kind) }
                }
                Part::Media { .. } | Part::ToolResult { .. } => continue,
            };
            self.done.push(item);
        }
        self.told(true).to_string().into()
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) {
        match event {
            Event::Start { model, .. } => {
                self.name(model);
                self.begin(out);
            }
            Event::Text(text) => {
                self.opened(&Kind::Message, out);
                self.delta(text, out);
            }
            Event::Reasoning(text) => {
                self.opened(&Kind::Reasoning, out);
                self.delta(text, out);
            }
            Event::Signature(signature) => {
                self.opened(&Kind::Reasoning, out);
                if let Some(item) = &mut self.open {
                    item.sealed = Some(format!("{SIGNED}{signature}"));
                }
                // What comes next was thought apart from it.
                self.close(out);
            }
            Event::HiddenReasoning(data) => {
                self.close(out);
                let sealed = Some(format!("{HIDDEN}{data}"));
                self.open(Item { sealed, ..self.item(Kind::Reasoning) }, out);
                self.close(out);
            }
            Event::ToolCall { id, name } => {
                self.close(out);
                let kind = Kind::Call { call_id: id.clone(), name: name.clone() };
                self.open(self.item(kind), out);
            }
            Event::Arguments(text) => {
                let is_call =
                    self.open.as_ref().is_some_and(|it| matches!(it.kind, Kind::Call { .. }));
                if is_call {
                    self.delta(text, out);
                }
            }
            Event::Stop(stop) => {
                self.begin(out);
                self.close(out);
                self.stop = stop.clone();
            }
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => {
                self.begin(out);
                self.close(out);
                let response = self.told(true);
                let is_whole = response["status"] == "completed";
                let kind = if is_whole { "response.completed" } else { "response.incomplete" };
                self.say(kind, json!({"response": response}), out);
            }
            Event::Error(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
