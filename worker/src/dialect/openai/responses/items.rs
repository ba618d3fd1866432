//! Output items of a response, in the words of the Responses API.

use serde_json::{Value, json};

use crate::provider::TokenUsage;

/// The most that is remembered of an answer, in bytes: what is beyond it is told once, and not repeated in the end.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An item that is being told, or was.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Its text, or its arguments.
    pub text: String,
    /// What comes back as `encrypted_content`.
    pub sealed: Option<String>,
}

/// What an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something said.
    Message,
    /// Something thought.
    Reasoning,
    /// A call of a function.
    Call {
        /// By what its result refers to it.
        call_id: String,
        /// The function.
        name: String,
    },
}

impl Item {
    /// Keeps a piece of its text.
    pub fn keep(&mut self, text: &str) {
        if self.text.len() + text.len() <= KEPT_BYTES_MAX {
            self.text.push_str(text);
        }
    }

    /// The item as JSON, complete or just begun.
    pub fn json(&self, is_complete: bool) -> Value {
        let status = if is_complete { "completed" } else { "in_progress" };
        match &self.kind {
            Kind::Message => json!({
                "id": self.id,
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": if is_complete { vec![self.part()] } else { Vec::new() },
            }),
            Kind::Reasoning => {
                let has_text = is_complete && !self.text.is_empty();
                let mut item = json!({
                    "id": self.id,
                    "type": "reasoning",
                    "summary": if has_text { vec![self.part()] } else { Vec::new() },
                });
                if let Some(sealed) = &self.sealed {
                    item["encrypted_content"] = sealed.as_str().into();
                }
                item
            }
            Kind::Call { call_id, name } => json!({
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": call_id,
                "name": name,
                "arguments": if is_complete { self.arguments() } else { "" },
            }),
        }
    }

    /// Its only part.
    pub fn part(&self) -> Value {
        part(&self.kind, &self.text)
    }

    /// The arguments of a call: an object, even where there are none.
    pub fn arguments(&self) -> &str {
        if self.text.is_empty() { "{}" } else { &self.text }
    }
}

/// A part of an item with that text.
pub fn part(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Reasoning => json!({"type": "summary_text", "text": text}),
        _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
    }
}

/// The count, as the Responses API tells it: what a cache has read or written is among the input.
pub fn usage(usage: TokenUsage) -> Value {
    let input =
        u64::from(usage.prompt) + u64::from(usage.cache_creation) + u64::from(usage.cache_read);
    let output = u64::from(usage.completion);
    json!({
        "input_tokens": input,
        "input_tokens_details": {
            "cached_tokens": u64::from(usage.cached_prompt) + u64::from(usage.cache_read),
            "cache_write_tokens": usage.cache_creation,
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": input + output,
    })
}
