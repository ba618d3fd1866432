//! The conversation in a body of chat completions.
//!
//! Beside what OpenAI documents, it knows what clients of this dialect send for models of others: `reasoning_content` and
//! `thinking_blocks` of an earlier answer, `thinking`, `top_k`, and `cache_control` on parts, messages and tools. What only
//! concerns how an answer is scored or stored (`logprobs`, `store`, …) has no meaning elsewhere and is passed over.

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
    for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if body.has(old) {
            let reason = format!("invalid request body: `{old}` is not offered; use `{new}`");
            return Err(RequestError::Invalid(reason));
        }
    }
    let max_tokens = body.count("max_tokens")?;
    let mut conversation = Conversation {
        tools: tools(&mut body)?,
        tool_choice: tool_choice(&mut body)?,
        parallel_tools: body.boolean("parallel_tool_calls")?,
        max_tokens: body.count("max_completion_tokens")?.or(max_tokens),
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        top_k: body.count("top_k")?,
        frequency_penalty: body.number("frequency_penalty")?,
        presence_penalty: body.number("presence_penalty")?,
        seed: body.integer("seed")?,
        stop: stop(&mut body)?,
        n: body.count("n")?,
        format: format(&mut body)?,
        reasoning: reasoning(&mut body)?,
        user: body.text("user")?,
        ..Conversation::default()
    };
    for message in body.objects("messages")? {
        add(&mut conversation, message)?;
    }
    Ok(conversation)
}

fn add(conversation: &mut Conversation, mut message: Fields) -> Result<(), RequestError> {
    let role = message.required_text("role")?;
    let (role, parts) = match role.as_str() {
        "system" | "developer" => {
            let parts = content::parts(&mut message)?;
            if !parts.iter().all(|part| matches!(part, Part::Text { .. })) {
                return Err(message.wrong("content", "text in a message of this role"));
            }
            if conversation.messages.is_empty() {
                conversation.system.extend(parts);
                return Ok(());
            }
            (Role::System, parts)
        }
        "user" => (Role::User, content::parts(&mut message)?),
        "assistant" => (Role::Assistant, assistant(&mut message)?),
        "tool" => (Role::User, vec![tool_result(&mut message)?]),
        _ => {
            let expected = "system, developer, user, assistant or tool";
            return Err(message.wrong("role", expected));
        }
    };
    conversation.messages.push(Message { role, parts });
    Ok(())
}

/// What the model has thought comes first, as it did.
fn assistant(message: &mut Fields) -> Result<Vec<Part>, RequestError> {
    let mut parts = Vec::new();
    for mut block in message.objects("thinking_blocks")? {
        match block.required_text("type")?.as_str() {
            "thinking" => parts.push(Part::Reasoning {
                text: block.text("thinking")?.unwrap_or_default(),
                signature: block.text("signature")?.filter(|signature| !signature.is_empty()),
            }),
            "redacted_thinking" => parts.push(Part::HiddenReasoning(block.required_text("data")?)),
            _ => return Err(block.wrong("type", "thinking or redacted_thinking")),
        }
    }
    if let Some(text) = message.text("reasoning_content")?
        && parts.is_empty()
        && !text.is_empty()
    {
        parts.push(Part::Reasoning { text, signature: None });
    }
    parts.extend(content::parts(message)?);
    if let Some(text) = message.text("refusal")?.filter(|text| !text.is_empty()) {
        parts.push(Part::Text { text, cache: None });
    }
    for mut call in message.objects("tool_calls")? {
        let id = call.required_text("id")?;
        let Some(mut function) = call.object("function")? else {
            return Err(call.wrong("function", "an object: only calls of functions are offered"));
        };
        parts.push(Part::ToolCall {
            id,
            name: function.required_text("name")?,
            arguments: function.text("arguments")?.unwrap_or_default(),
            cache: call.cache_mark()?,
        });
    }
    Ok(parts)
}

fn tool_result(message: &mut Fields) -> Result<Part, RequestError> {
    let cache = message.cache_mark()?;
    Ok(Part::ToolResult {
        id: message.required_text("tool_call_id")?,
        parts: content::parts(message)?,
        is_error: false,
        cache,
    })
}

fn tools(body: &mut Fields) -> Result<Vec<Tool>, RequestError> {
    let tools = body.objects("tools")?.into_iter().map(|mut tool| {
        let kind = tool.required_text("type")?;
        let function = tool.object("function")?;
        let (true, Some(mut function)) = (kind == "function", function) else {
            return Err(tool.wrong("type", "function, with `function`, for this model"));
        };
        let mark = tool.cache_mark()?;
        let parameters = function.object_value("parameters")?;
        Ok(Tool {
            name: function.required_text("name")?,
            description: function.text("description")?,
            parameters,
            strict: function.boolean("strict")?,
            cache: function.cache_mark()?.or(mark),
        })
    });
    tools.collect()
}

fn tool_choice(body: &mut Fields) -> Result<Option<ToolChoice>, RequestError> {
    let expected = "auto, none, required, or a function";
    match body.take("tool_choice") {
        None => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Any)),
            _ => Err(body.wrong("tool_choice", expected)),
        },
        Some(value) => {
            let mut choice = Fields::at("tool_choice".to_owned(), value)?;
            match choice.object("function")? {
                Some(mut function) => Ok(Some(ToolChoice::Tool(function.required_text("name")?))),
                None => Err(body.wrong("tool_choice", expected)),
            }
        }
    }
}

fn stop(body: &mut Fields) -> Result<Vec<String>, RequestError> {
    if let Some(Value::String(text)) = body.peek("stop") {
        return Ok(vec![text.clone()]);
    }
    body.texts("stop")
}

fn format(body: &mut Fields) -> Result<Option<Format>, RequestError> {
    let Some(mut format) = body.object("response_format")? else { return Ok(None) };
    match format.required_text("type")?.as_str() {
        "text" => Ok(Some(Format::Text)),
        "json_object" => Ok(Some(Format::Json)),
        "json_schema" => {
            let Some(mut schema) = format.object("json_schema")? else {
                return Err(format.wrong("json_schema", "an object"));
            };
            let name = schema.text("name")?.unwrap_or_else(|| "answer".to_owned());
            let strict = schema.boolean("strict")?;
            match schema.object_value("schema")? {
                Some(schema) => Ok(Some(Format::Schema { name, schema, strict })),
                // A schema is not required there; JSON it must be.
                None => Ok(Some(Format::Json)),
            }
        }
        _ => Err(format.wrong("type", "text, json_object or json_schema")),
    }
}

fn reasoning(body: &mut Fields) -> Result<Option<Reasoning>, RequestError> {
    if let Some(mut thinking) = body.object("thinking")? {
        match thinking.required_text("type")?.as_str() {
            "disabled" => return Ok(Some(Reasoning::Off)),
            "enabled" => {
                if let Some(budget) = thinking.count("budget_tokens")? {
                    return Ok(Some(Reasoning::Budget(budget)));
                }
            }
            _ => {}
        }
        let effort = effort(body)?.unwrap_or(Reasoning::Effort(Effort::Medium));
        return Ok(Some(effort));
    }
    effort(body)
}

fn effort(body: &mut Fields) -> Result<Option<Reasoning>, RequestError> {
    let Some(word) = body.text("reasoning_effort")? else { return Ok(None) };
    if word == "none" {
        return Ok(Some(Reasoning::Off));
    }
    let expected = "none, minimal, low, medium, high or xhigh";
    let effort = Effort::of_word(&word).ok_or_else(|| body.wrong("reasoning_effort", expected))?;
    Ok(Some(Reasoning::Effort(effort)))
}
