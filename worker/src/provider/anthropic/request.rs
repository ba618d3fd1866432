//! A conversation as a request of Messages.
//!
//! What Anthropic has no word for and only shapes chance (penalties, a seed) is left out, as Anthropic does itself for callers
//! of OpenAI's dialect: <https://docs.anthropic.com/en/api/openai-sdk>. Several answers at once are refused.

use serde_json::{Map, Value, json};

use super::turns::{self, Turns, cache_control};
use super::{forced_json, thinking};
use crate::chat::{Conversation, Tool, ToolChoice};
use crate::request::RequestError;

/// Longest name of an end user. <https://docs.anthropic.com/en/api/messages>
const USER_CHARS_MAX: usize = 256;

/// What is sent.
pub struct Written {
    /// The body.
    pub body: Value,
    /// Whether the answer will be the input of a tool that the caller does not know.
    pub forces_json: bool,
}

/// Writes the request.
///
/// # Errors
/// [`RequestError::Invalid`] for what Anthropic has no words for.
pub fn write(
    mut conversation: Conversation,
    model: &str,
    is_stream: bool,
) -> Result<Written, RequestError> {
    if conversation.n.is_some_and(|n| n != 1) {
        let reason = "the provider of this model gives one answer at a time: `n` must be 1";
        return Err(RequestError::Invalid(reason.to_owned()));
    }
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    if is_stream {
        body.insert("stream".to_owned(), true.into());
    }
    let json_tool = forced_json::tool(&conversation);
    let forces_json = json_tool.is_some();
    let must_call = forces_json
        || matches!(conversation.tool_choice, Some(ToolChoice::Any | ToolChoice::Tool(_)));
    thinking::write(&conversation, model, must_call, &mut body);
    let choice = match &json_tool {
        Some(_) => Some(forced_json::choice(&conversation)),
        None => tool_choice(&conversation),
    };
    let tools: Vec<_> = conversation.tools.drain(..).map(tool).chain(json_tool).collect();
    if !tools.is_empty() {
        body.insert("tools".to_owned(), tools.into());
        if let Some(choice) = choice {
            body.insert("tool_choice".to_owned(), choice);
        }
    }
    // White space alone ends nothing there.
    conversation.stop.retain(|text| !text.trim().is_empty());
    if !conversation.stop.is_empty() {
        body.insert("stop_sequences".to_owned(), conversation.stop.into());
    }
    if let Some(user) = conversation.user
        && user.chars().count() <= USER_CHARS_MAX
    {
        body.insert("metadata".to_owned(), json!({"user_id": user}));
    }
    let Turns { system, messages } = turns::write(conversation.system, conversation.messages)?;
    if !system.is_empty() {
        body.insert("system".to_owned(), compact(system));
    }
    body.insert("messages".to_owned(), messages.into());
    Ok(Written { body: body.into(), forces_json })
}

fn tool(tool: Tool) -> Value {
    let schema = tool.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    let mut written = json!({"name": tool.name, "input_schema": schema});
    if let Some(description) = tool.description {
        written["description"] = description.into();
    }
    // OpenAI takes a schema without it.
    if let Some(schema) = written.get_mut("input_schema").and_then(Value::as_object_mut) {
        schema.entry("type").or_insert("object".into());
    }
    if let Some(mark) = tool.cache {
        written["cache_control"] = cache_control(mark);
    }
    written
}

fn tool_choice(conversation: &Conversation) -> Option<Value> {
    let is_single = conversation.parallel_tools == Some(false);
    let mut choice = match &conversation.tool_choice {
        None if !is_single => return None,
        None | Some(ToolChoice::Auto) => json!({"type": "auto"}),
        Some(ToolChoice::None) => return Some(json!({"type": "none"})),
        Some(ToolChoice::Any) => json!({"type": "any"}),
        Some(ToolChoice::Tool(name)) => json!({"type": "tool", "name": name}),
    };
    if is_single {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

/// One text without a mark is told as a text.
fn compact(blocks: Vec<Value>) -> Value {
    match &blocks[..] {
        [block] if block.get("cache_control").is_none() => {
            block.get("text").cloned().unwrap_or_default()
        }
        _ => blocks.into(),
    }
}
