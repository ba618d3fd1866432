//! The conversation in a body of Messages.
//!
//! What only Anthropic itself can do — its server tools and what they leave in a conversation, containers, MCP servers — is
//! refused: another provider's answer without it would be an answer to another question.

use serde_json::Value;

use super::content;
use crate::call::Call;
use crate::chat::{Conversation, Effort, Format, Message, Part, Reasoning, Role, Tool, ToolChoice};
use crate::dialect::fields::Fields;
use crate::request::RequestError;

/// Reads the whole body.
///
/// # Errors
/// [`RequestError::Invalid`] with what is wrong and where.
pub fn conversation(call: &Call) -> Result<Conversation, RequestError> {
    let mut body = Fields::of(call)?;
    if !body.list("mcp_servers")?.is_empty() || body.has("container") {
        let reason = "`mcp_servers` and `container` are not offered by the provider of this model";
        return Err(RequestError::Invalid(reason.to_owned()));
    }
    let (tool_choice, parallel_tools) = tool_choice(&mut body)?;
    let mut output = body.object("output_config")?;
    let format = match &mut output {
        Some(output) => output.object("format")?,
        None => None,
    };
    let format = match format {
        Some(format) => Some(format),
        None => body.object("output_format")?,
    };
    let effort = match &mut output {
        Some(output) => output.text("effort")?,
        None => None,
    };
    let user = match body.object("metadata")? {
        Some(mut metadata) => metadata.text("user_id")?,
        None => None,
    };
    let mut conversation = Conversation {
        system: system(&mut body)?,
        tools: tools(&mut body)?,
        tool_choice,
        parallel_tools,
        max_tokens: body.count("max_tokens")?,
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        top_k: body.count("top_k")?,
        stop: body.texts("stop_sequences")?,
        format: format.map(read_format).transpose()?,
        reasoning: reasoning(&mut body, effort.as_deref())?,
        user,
        ..Conversation::default()
    };
    for mut message in body.objects("messages")? {
        let role = match message.required_text("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(message.wrong("role", "user or assistant")),
        };
        let parts = content::parts(&mut message, "content")?;
        if role == Role::System {
            only_text(&message, &parts)?;
        }
        conversation.messages.push(Message { role, parts });
    }
    Ok(conversation)
}

fn system(body: &mut Fields) -> Result<Vec<Part>, RequestError> {
    let parts = content::parts(body, "system")?;
    if parts.iter().all(|part| matches!(part, Part::Text { .. })) {
        Ok(parts)
    } else {
        Err(body.wrong("system", "text"))
    }
}

fn only_text(message: &Fields, parts: &[Part]) -> Result<(), RequestError> {
    if parts.iter().all(|part| matches!(part, Part::Text { .. })) {
        return Ok(());
    }
    Err(message.wrong("content", "text in a message of this role"))
}

fn tools(body: &mut Fields) -> Result<Vec<Tool>, RequestError> {
    let tools = body.objects("tools")?.into_iter().map(|mut tool| {
        if tool.text("type")?.is_some_and(|kind| kind != "custom") {
            let expected =
                "custom: the provider of this model does not offer Anthropic's own tools";
            return Err(tool.wrong("type", expected));
        }
        Ok(Tool {
            name: tool.required_text("name")?,
            description: tool.text("description")?,
            parameters: tool.object_value("input_schema")?,
            strict: tool.boolean("strict")?,
            cache: tool.cache_mark()?,
        })
    });
    tools.collect()
}

fn tool_choice(body: &mut Fields) -> Result<(Option<ToolChoice>, Option<bool>), RequestError> {
    let Some(mut choice) = body.object("tool_choice")? else { return Ok((None, None)) };
    let parallel = choice.boolean("disable_parallel_tool_use")?.map(|is_disabled| !is_disabled);
    let choice = match choice.required_text("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Any,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Tool(choice.required_text("name")?),
        _ => return Err(choice.wrong("type", "auto, any, tool or none")),
    };
    Ok((Some(choice), parallel))
}

fn read_format(mut format: Fields) -> Result<Format, RequestError> {
    match (format.required_text("type")?.as_str(), format.object_value("schema")?) {
        ("json_schema", Some(schema)) => {
            Ok(Format::Schema { name: "answer".to_owned(), schema, strict: Some(true) })
        }
        _ => Err(format.wrong("type", "json_schema, with a `schema`")),
    }
}

fn reasoning(body: &mut Fields, effort: Option<&str>) -> Result<Option<Reasoning>, RequestError> {
    let Some(mut thinking) = body.object("thinking")? else { return Ok(None) };
    match thinking.required_text("type")?.as_str() {
        "disabled" => Ok(Some(Reasoning::Off)),
        "enabled" => match thinking.count("budget_tokens")? {
            Some(budget) => Ok(Some(Reasoning::Budget(budget))),
            None => Err(thinking.wrong("budget_tokens", "a whole number")),
        },
        // As much as the model likes, `effort` being its measure; `high` is the default of that.
        "adaptive" => {
            let effort = effort.and_then(Effort::of_word).unwrap_or(Effort::High);
            Ok(Some(Reasoning::Effort(effort)))
        }
        _ => Err(thinking.wrong("type", "enabled, adaptive or disabled")),
    }
}

/// The JSON text of a tool's input.
pub(super) fn arguments(input: Option<Value>) -> String {
    input.map_or_else(String::new, |input| input.to_string())
}
