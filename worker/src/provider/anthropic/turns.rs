//! The turns of a conversation as Anthropic takes them: in turn, results of tools first, nothing empty.
//!
//! Anthropic knows instructions only before the conversation. Those in its middle are put there, as Anthropic itself does for
//! callers of OpenAI's dialect: <https://docs.anthropic.com/en/api/openai-sdk>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::chat::{CacheMark, MediaKind, MediaSource, Message, Part, Role};
use crate::request::RequestError;

/// `system` and `messages` of a request.
pub struct Turns {
    /// Blocks of text.
    pub system: Vec<Value>,
    /// User and assistant in turn.
    pub messages: Vec<Value>,
}

/// Writes the turns.
///
/// # Errors
/// [`RequestError::Invalid`] for what Anthropic has no words for.
pub fn write(system: Vec<Part>, messages: Vec<Message>) -> Result<Turns, RequestError> {
    let mut system = blocks(system)?;
    let mut turns: Vec<(Role, Vec<Value>)> = Vec::new();
    for message in messages {
        let blocks = blocks(message.parts)?;
        match turns.last_mut() {
            _ if message.role == Role::System => system.extend(blocks),
            Some((role, turn)) if *role == message.role => turn.extend(blocks),
            _ => turns.push((message.role, blocks)),
        }
    }
    turns.retain(|(_, blocks)| !blocks.is_empty());
    if turns.is_empty() {
        // There is no conversation of instructions alone.
        turns.push((Role::User, std::mem::take(&mut system)));
    }
    if let Some((Role::Assistant, blocks)) = turns.last_mut() {
        trim_end(blocks);
    }
    let messages = turns.into_iter().map(|(role, mut blocks)| {
        let role = if role == Role::Assistant { "assistant" } else { "user" };
        blocks.sort_by_key(|block| block.get("type") != Some(&Value::from("tool_result")));
        json!({"role": role, "content": blocks})
    });
    Ok(Turns { messages: messages.collect(), system })
}

/// The beginning of an answer must not end with white space.
fn trim_end(blocks: &mut [Value]) {
    if let Some(Value::String(text)) = blocks.last_mut().and_then(|last| last.get_mut("text")) {
        text.truncate(text.trim_end().len());
    }
}

fn blocks(parts: Vec<Part>) -> Result<Vec<Value>, RequestError> {
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        blocks.extend(block(part)?);
    }
    Ok(blocks)
}

/// A part as a block; `None` for what is empty, and for thoughts that are not signed: only its own does Anthropic take back.
fn block(part: Part) -> Result<Option<Value>, RequestError> {
    let (mut block, cache) = match part {
        Part::Text { text, .. } if text.trim().is_empty() => return Ok(None),
        Part::Text { text, cache } => (json!({"type": "text", "text": text}), cache),
        Part::Media { kind, source, name, cache } => (media(kind, source, name)?, cache),
        Part::ToolCall { id, name, arguments, cache } => {
            let input = input(arguments);
            (json!({"type": "tool_use", "id": plain(&id), "name": name, "input": input}), cache)
        }
        Part::ToolResult { id, parts, is_error, cache } => {
            let mut block = json!({"type": "tool_result", "tool_use_id": plain(&id)});
            let content = blocks(parts)?;
            if !content.is_empty() {
                block["content"] = content.into();
            }
            if is_error {
                block["is_error"] = true.into();
            }
            (block, cache)
        }
        Part::Reasoning { signature: None, .. } => return Ok(None),
        Part::Reasoning { text, signature } => {
            (json!({"type": "thinking", "thinking": text, "signature": signature}), None)
        }
        Part::HiddenReasoning(data) => (json!({"type": "redacted_thinking", "data": data}), None),
    };
    if let Some(mark) = cache {
        block["cache_control"] = cache_control(mark);
    }
    Ok(Some(block))
}

fn media(
    kind: MediaKind,
    source: MediaSource,
    name: Option<String>,
) -> Result<Value, RequestError> {
    let word = match kind {
        MediaKind::Image => "image",
        MediaKind::Document => "document",
        MediaKind::Audio => {
            let reason = "the provider of this model does not take sounds";
            return Err(RequestError::Invalid(reason.to_owned()));
        }
    };
    let source = match source {
        MediaSource::Base64 { media_type, data } if media_type.starts_with("text/") => {
            // A document that is text is told as text.
            let text = STANDARD.decode(&data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| {
                let reason = format!(
                    "invalid request body: a document of {media_type} is no UTF-8 in base64"
                );
                RequestError::Invalid(reason)
            })?;
            json!({"type": "text", "media_type": "text/plain", "data": text})
        }
        MediaSource::Base64 { media_type, data } => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        MediaSource::Url(url) => json!({"type": "url", "url": url}),
        MediaSource::FileId(id) => json!({"type": "file", "file_id": id}),
    };
    let mut block = json!({"type": word, "source": source});
    if let Some(name) = name
        && kind == MediaKind::Document
    {
        block["title"] = name.into();
    }
    Ok(block)
}

/// The arguments of a call as the object that Anthropic wants. What another model wrote that is none is kept as a text.
fn input(arguments: String) -> Value {
    match serde_json::from_str(&arguments) {
        Ok(Value::Object(input)) => input.into(),
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({"arguments": arguments}),
    }
}

/// An id of a call with only the characters that Anthropic takes; calls and results change alike.
fn plain(id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    id.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

/// The mark in Anthropic's words.
pub fn cache_control(mark: CacheMark) -> Value {
    match mark {
        CacheMark::Short => json!({"type": "ephemeral"}),
        CacheMark::Hour => json!({"type": "ephemeral", "ttl": "1h"}),
    }
}
