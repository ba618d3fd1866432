//! A conversation as the body of Converse.
//!
//! Left out, since Converse has no words for it: penalties, `seed`, the caller's word for its end user, thoughts without a
//! signature, and marks for a cache where the model has none. A wish for JSON is told to the model as an instruction.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::chat::{
    CacheMark, Conversation, Format, MediaKind, MediaSource, Message, Part, Reasoning, Role, Tool,
    ToolChoice,
};
use crate::provider::anthropic::continues_without_thoughts;
use crate::provider::value::object;
use crate::request::RequestError;

/// Anthropic's models take no smaller budget of reasoning.
const BUDGET_MIN: u64 = 1024;

/// What is known of a model by its name.
#[derive(Clone, Copy)]
struct Family {
    is_claude: bool,
    is_nova: bool,
    takes_effort: bool,
}

impl Family {
    fn of(model: &str) -> Self {
        Self {
            is_claude: model.contains("anthropic") || model.contains("claude"),
            is_nova: model.contains("nova"),
            takes_effort: model.contains("gpt-oss"),
        }
    }

    fn caches(self) -> bool {
        self.is_claude || self.is_nova
    }
}

/// The body of the request.
///
/// # Errors
/// [`RequestError::Invalid`] with what Converse has no words for.
pub fn body(conversation: &Conversation, model: &str) -> Result<Value, RequestError> {
    if conversation.n.is_some_and(|n| n > 1) {
        let reason = "`n` must be 1: the provider of this model gives one answer at a time";
        return Err(RequestError::Invalid(reason.to_owned()));
    }
    let family = Family::of(model);
    let mut messages = Vec::new();
    for message in &conversation.messages {
        let role = if message.role == Role::Assistant { "assistant" } else { "user" };
        add(&mut messages, role, turn(message, family)?);
    }
    let mut system = blocks(&conversation.system, family)?;
    if let Some(instruction) = conversation.format.as_ref().and_then(instruction) {
        system.push(json!({"text": instruction}));
    }
    let mut body = Map::new();
    if messages.is_empty() {
        // There has to be a turn.
        add(&mut messages, "user", std::mem::take(&mut system));
    }
    body.insert("messages".to_owned(), messages.into());
    if !system.is_empty() {
        body.insert("system".to_owned(), system.into());
    }
    let thinking = thinking(conversation, family);
    let inference = inference(conversation, thinking.is_some());
    if !inference.is_empty() {
        body.insert("inferenceConfig".to_owned(), inference.into());
    }
    if let Some(tools) = tools(conversation, family) {
        body.insert("toolConfig".to_owned(), tools);
    }
    let more = additional(conversation, family, thinking);
    if !more.is_empty() {
        body.insert("additionalModelRequestFields".to_owned(), more.into());
    }
    Ok(body.into())
}

/// Turns of one role in a row are one: Converse takes no other.
fn add(messages: &mut Vec<Value>, role: &str, blocks: Vec<Value>) {
    if blocks.is_empty() {
        return;
    }
    if let Some(last) = messages.last_mut()
        && last.get("role").is_some_and(|last| last == role)
        && let Some(there) = last.get_mut("content").and_then(Value::as_array_mut)
    {
        return there.extend(blocks);
    }
    messages.push(json!({"role": role, "content": blocks}));
}

fn turn(message: &Message, family: Family) -> Result<Vec<Value>, RequestError> {
    blocks(&message.parts, family)
}

fn blocks(parts: &[Part], family: Family) -> Result<Vec<Value>, RequestError> {
    let mut blocks = Vec::new();
    for part in parts {
        let Some(block) = block(part)? else { continue };
        blocks.push(block);
        blocks.extend(cache_point(mark(part), family));
    }
    Ok(blocks)
}

fn block(part: &Part) -> Result<Option<Value>, RequestError> {
    Ok(Some(match part {
        // Blank texts are an error there.
        Part::Text { text, .. } if text.trim().is_empty() => return Ok(None),
        Part::Text { text, .. } => json!({"text": text}),
        Part::Media { kind, source, name, .. } => media(*kind, source, name.as_deref())?,
        Part::ToolCall { id, name, arguments, .. } => {
            json!({"toolUse": {"toolUseId": id, "name": name, "input": object(arguments)}})
        }
        Part::ToolResult { id, parts, is_error, .. } => {
            let mut content = Vec::new();
            for part in parts {
                content.extend(block(part)?);
            }
            if content.is_empty() {
                content.push(json!({"text": "(nothing)"}));
            }
            let mut result = json!({"toolUseId": id, "content": content});
            if let (Some(result), true) = (result.as_object_mut(), is_error) {
                result.insert("status".to_owned(), "error".into());
            }
            json!({"toolResult": result})
        }
        Part::Reasoning { text, signature: Some(signature) } => {
            let told = json!({"text": text, "signature": signature});
            json!({"reasoningContent": {"reasoningText": told}})
        }
        Part::Reasoning { signature: None, .. } => return Ok(None),
        Part::HiddenReasoning(data) => json!({"reasoningContent": {"redactedContent": data}}),
    }))
}

fn mark(part: &Part) -> Option<CacheMark> {
    match part {
        Part::Text { cache, .. }
        | Part::Media { cache, .. }
        | Part::ToolCall { cache, .. }
        | Part::ToolResult { cache, .. } => *cache,
        Part::Reasoning { .. } | Part::HiddenReasoning(_) => None,
    }
}

fn cache_point(mark: Option<CacheMark>, family: Family) -> Option<Value> {
    match mark.filter(|_| family.caches())? {
        CacheMark::Short => Some(json!({"cachePoint": {"type": "default"}})),
        CacheMark::Hour => Some(json!({"cachePoint": {"type": "default", "ttl": "1h"}})),
    }
}

fn media(kind: MediaKind, source: &MediaSource, name: Option<&str>) -> Result<Value, RequestError> {
    let cannot = |what: &str| {
        let reason = format!("the provider of this model cannot be given {what}");
        Err(RequestError::Invalid(reason))
    };
    let (media_type, source) = match source {
        MediaSource::Base64 { media_type, data } => (media_type.as_str(), json!({"bytes": data})),
        MediaSource::Url(uri) if uri.starts_with("s3://") => {
            let ending = uri.rsplit('.').next().unwrap_or_default();
            (ending, json!({"s3Location": {"uri": uri}}))
        }
        MediaSource::Url(_) => return cannot("media by its URL; send the media itself"),
        MediaSource::FileId(_) => return cannot("the id of a file; send the file itself"),
    };
    let format = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let format = format.rsplit(['/', '.']).next().unwrap_or_default();
    match kind {
        MediaKind::Image => {
            let format = if format == "jpg" { "jpeg" } else { format };
            Ok(json!({"image": {"format": format, "source": source}}))
        }
        MediaKind::Document => {
            let format = match format {
                "plain" | "text" => "txt",
                "markdown" => "md",
                "msword" => "doc",
                "document" => "docx",
                "ms-excel" => "xls",
                "sheet" => "xlsx",
                format => format,
            };
            let name = document_name(name);
            Ok(json!({"document": {"format": format, "name": name, "source": source}}))
        }
        MediaKind::Audio => cannot("sounds"),
    }
}

/// A name of the few characters that Converse takes, no two blanks in a row.
fn document_name(name: Option<&str>) -> String {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-()[]".contains(c);
    let name = name.unwrap_or_default();
    let name: String = name.chars().map(|c| if is_fine(c) { c } else { ' ' }).take(200).collect();
    let words: Vec<_> = name.split_whitespace().collect();
    if words.is_empty() { "document".to_owned() } else { words.join(" ") }
}

fn inference(conversation: &Conversation, is_thinking: bool) -> Map<String, Value> {
    let mut config = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    set("maxTokens", conversation.max_tokens.map(Value::from));
    if !is_thinking {
        // Who thinks takes no other temperature than its own.
        set("temperature", conversation.temperature.map(|it| it.min(1.0)).map(Value::from));
    }
    set("topP", conversation.top_p.map(Value::from));
    set("stopSequences", (!conversation.stop.is_empty()).then(|| json!(conversation.stop)));
    config
}

/// How many tokens a model of Anthropic's may think: fewer than it may say.
fn thinking(conversation: &Conversation, family: Family) -> Option<u64> {
    let wanted = match conversation.reasoning? {
        Reasoning::Off => return None,
        Reasoning::Effort(effort) => effort.budget(),
        Reasoning::Budget(tokens) => tokens,
    };
    // Anthropic refuses to think where a tool must be called, and to think on where its thoughts were lost.
    let must_call = matches!(conversation.tool_choice, Some(ToolChoice::Any | ToolChoice::Tool(_)));
    if must_call || continues_without_thoughts(&conversation.messages) {
        return None;
    }
    let budget = match conversation.max_tokens {
        Some(max) if max <= wanted => max / 2,
        _ => wanted,
    };
    let budget = budget.max(BUDGET_MIN);
    let fits = conversation.max_tokens.is_none_or(|max| budget < max);
    (family.is_claude && fits).then_some(budget)
}

fn additional(
    conversation: &Conversation,
    family: Family,
    thinking: Option<u64>,
) -> Map<String, Value> {
    let mut more = Map::new();
    if let Some(budget) = thinking {
        let thinking = json!({"type": "enabled", "budget_tokens": budget});
        more.insert("thinking".to_owned(), thinking);
    }
    if let (Some(Reasoning::Effort(effort)), true) = (conversation.reasoning, family.takes_effort) {
        more.insert("reasoning_effort".to_owned(), effort.word().into());
    }
    match conversation.top_k {
        Some(top_k) if family.is_claude && thinking.is_none() => {
            more.insert("top_k".to_owned(), top_k.into());
        }
        Some(top_k) if family.is_nova => {
            more.insert("inferenceConfig".to_owned(), json!({"topK": top_k}));
        }
        Some(_) | None => {}
    }
    more
}

fn tools(conversation: &Conversation, family: Family) -> Option<Value> {
    let has_calls = || {
        let mut parts = conversation.messages.iter().flat_map(|message| &message.parts);
        parts.any(|part| matches!(part, Part::ToolCall { .. } | Part::ToolResult { .. }))
    };
    let is_without = conversation.tool_choice == Some(ToolChoice::None);
    // There is no word for "none", and what was called before must be there.
    if conversation.tools.is_empty() {
        return called_before(conversation);
    }
    if is_without && !has_calls() {
        return None;
    }
    let mut tools = Vec::new();
    for tool in &conversation.tools {
        tools.push(json!({"toolSpec": specification(tool)}));
        tools.extend(cache_point(tool.cache, family));
    }
    let choice = match &conversation.tool_choice {
        Some(ToolChoice::Any) => Some(json!({"any": {}})),
        Some(ToolChoice::Tool(name)) => Some(json!({"tool": {"name": name}})),
        Some(ToolChoice::Auto) => Some(json!({"auto": {}})),
        Some(ToolChoice::None) | None => None,
    };
    let mut config = Map::new();
    config.insert("tools".to_owned(), tools.into());
    if let Some(choice) = choice {
        config.insert("toolChoice".to_owned(), choice);
    }
    Some(config.into())
}

/// The tools that were called before, where the caller names none any more: the results need them.
fn called_before(conversation: &Conversation) -> Option<Value> {
    let parts = conversation.messages.iter().flat_map(|message| &message.parts);
    let names: BTreeSet<&str> = parts
        .filter_map(|part| match part {
            Part::ToolCall { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let tool = |name| {
        let schema = json!({"json": {"type": "object", "properties": {}}});
        json!({"toolSpec": {"name": name, "inputSchema": schema}})
    };
    (!names.is_empty()).then(|| json!({"tools": names.into_iter().map(tool).collect::<Vec<_>>()}))
}

fn specification(tool: &Tool) -> Value {
    let nothing = || json!({"type": "object", "properties": {}});
    let mut schema = tool.parameters.clone().unwrap_or_else(nothing);
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("type").or_insert_with(|| "object".into());
    }
    let mut told = json!({"name": tool.name, "inputSchema": {"json": schema}});
    let description = tool.description.as_ref().filter(|text| !text.is_empty());
    if let (Some(told), Some(description)) = (told.as_object_mut(), description) {
        told.insert("description".to_owned(), description.clone().into());
    }
    told
}

fn instruction(format: &Format) -> Option<String> {
    const ALONE: &str = "Answer with nothing but a JSON object, without a code fence around it";
    match format {
        Format::Text => None,
        Format::Json => Some(format!("{ALONE}.")),
        Format::Schema { schema, .. } => {
            Some(format!("{ALONE}. It must be valid against this JSON schema: {schema}"))
        }
    }
}

#[cfg(test)]
mod tests;
