//! The conversation in a body of `/v1/responses`.

use serde_json::Value;

use super::{HIDDEN, SIGNED};
use crate::call::Call;
use crate::chat::{
    Conversation, Effort, Format, MediaKind, MediaSource, Message, Part, Reasoning, Role, Tool,
    ToolChoice,
};
use crate::dialect::fields::Fields;
use crate::request::RequestError;

/// Reads the whole body.
///
/// # Errors
/// [`RequestError::Invalid`] with what is wrong and where, or what only OpenAI itself offers.
pub fn conversation(call: &Call) -> Result<Conversation, RequestError> {
    let mut body = Fields::of(call)?;
    for name in ["previous_response_id", "conversation", "prompt"] {
        if body.has(name) {
            let why = "the provider of this model keeps no responses; send the whole input";
            return Err(not_offered(name, why));
        }
    }
    for name in ["store", "background"] {
        if body.boolean(name)? == Some(true) {
            let why = "the provider of this model keeps no responses; send `false`";
            return Err(not_offered(name, why));
        }
    }
    let mut conversation = Conversation {
        tools: tools(&mut body)?,
        tool_choice: tool_choice(&mut body)?,
        parallel_tools: body.boolean("parallel_tool_calls")?,
        max_tokens: body.count("max_output_tokens")?,
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        format: format(&mut body)?,
        reasoning: reasoning(&mut body)?,
        user: body.text("user")?,
        ..Conversation::default()
    };
    if let Some(text) = body.text("instructions")? {
        conversation.system.push(Part::Text { text, cache: None });
    }
    match body.peek("input") {
        Some(Value::String(_)) => {
            let text = body.text("input")?.unwrap_or_default();
            push(&mut conversation, Role::User, vec![Part::Text { text, cache: None }]);
        }
        _ => {
            for item in body.objects("input")? {
                add(&mut conversation, item)?;
            }
        }
    }
    if conversation.messages.is_empty() {
        return Err(body.wrong("input", "a string or a non-empty array"));
    }
    Ok(conversation)
}

fn not_offered(name: &str, why: &str) -> RequestError {
    RequestError::Invalid(format!("invalid request body: `{name}` is not offered: {why}"))
}

/// Adds a part to the turn that goes on, or begins another.
fn push(conversation: &mut Conversation, role: Role, parts: Vec<Part>) {
    match conversation.messages.last_mut() {
        Some(last) if last.role == role => last.parts.extend(parts),
        _ => conversation.messages.push(Message { role, parts }),
    }
}

fn add(conversation: &mut Conversation, mut item: Fields) -> Result<(), RequestError> {
    let kind = item.text("type")?.unwrap_or_else(|| "message".to_owned());
    let (role, parts) = match kind.as_str() {
        "message" => return message(conversation, item),
        "function_call" => {
            let call = Part::ToolCall {
                id: item.required_text("call_id")?,
                name: item.required_text("name")?,
                arguments: item.text("arguments")?.unwrap_or_default(),
                cache: None,
            };
            (Role::Assistant, vec![call])
        }
        "function_call_output" => {
            let id = item.required_text("call_id")?;
            let parts = parts(&mut item, "output")?;
            (Role::User, vec![Part::ToolResult { id, parts, is_error: false, cache: None }])
        }
        "reasoning" => (Role::Assistant, thoughts(&mut item)?),
        _ => {
            let known = "message, function_call, function_call_output or reasoning for this model";
            return Err(item.wrong("type", known));
        }
    };
    push(conversation, role, parts);
    Ok(())
}

fn message(conversation: &mut Conversation, mut item: Fields) -> Result<(), RequestError> {
    let role = item.required_text("role")?;
    let parts = parts(&mut item, "content")?;
    match role.as_str() {
        "system" | "developer" => {
            if !parts.iter().all(|part| matches!(part, Part::Text { .. })) {
                return Err(item.wrong("content", "text in a message of this role"));
            }
            if conversation.messages.is_empty() {
                conversation.system.extend(parts);
            } else {
                push(conversation, Role::System, parts);
            }
        }
        "user" => push(conversation, Role::User, parts),
        "assistant" => push(conversation, Role::Assistant, parts),
        _ => return Err(item.wrong("role", "system, developer, user or assistant")),
    }
    Ok(())
}

/// What was thought, as the encoder has told it.
fn thoughts(item: &mut Fields) -> Result<Vec<Part>, RequestError> {
    let mut text = String::new();
    for name in ["summary", "content"] {
        for mut part in item.objects(name)? {
            text.push_str(&part.text("text")?.unwrap_or_default());
        }
    }
    let sealed = item.text("encrypted_content")?.unwrap_or_default();
    if let Some(hidden) = sealed.strip_prefix(HIDDEN) {
        return Ok(vec![Part::HiddenReasoning(hidden.to_owned())]);
    }
    let signature = sealed.strip_prefix(SIGNED).map(str::to_owned);
    // What another provider has sealed says nothing to this one.
    let is_empty = text.is_empty() && signature.is_none();
    Ok(if is_empty { Vec::new() } else { vec![Part::Reasoning { text, signature }] })
}

/// A text, or a list of parts.
fn parts(item: &mut Fields, name: &str) -> Result<Vec<Part>, RequestError> {
    match item.peek(name) {
        Some(Value::String(_)) => {
            let text = item.text(name)?.unwrap_or_default();
            Ok(vec![Part::Text { text, cache: None }])
        }
        _ => item.objects(name)?.into_iter().map(part).collect(),
    }
}

fn part(mut part: Fields) -> Result<Part, RequestError> {
    let cache = part.cache_mark()?;
    let kind = part.required_text("type")?;
    let (kind, source, name) = match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" => {
            return Ok(Part::Text { text: part.required_text("text")?, cache });
        }
        "refusal" => return Ok(Part::Text { text: part.required_text("refusal")?, cache }),
        "input_image" => (MediaKind::Image, source(&mut part, "image_url", None)?, None),
        "input_file" => {
            let name = part.text("filename")?;
            (MediaKind::Document, source(&mut part, "file_url", Some("file_data"))?, name)
        }
        "input_audio" => {
            let Some(mut audio) = part.object("input_audio")? else {
                return Err(part.wrong("input_audio", "an object"));
            };
            let media_type = match audio.required_text("format")?.as_str() {
                "mp3" => "audio/mpeg".to_owned(),
                format => format!("audio/{format}"),
            };
            let source = MediaSource::Base64 { media_type, data: audio.required_text("data")? };
            (MediaKind::Audio, source, None)
        }
        _ => return Err(part.wrong("type", "input_text, input_image, input_file or input_audio")),
    };
    Ok(Part::Media { kind, source, name, cache })
}

fn source(part: &mut Fields, url: &str, data: Option<&str>) -> Result<MediaSource, RequestError> {
    if let Some(id) = part.text("file_id")? {
        return Ok(MediaSource::FileId(id));
    }
    let given = match data {
        Some(data) => part.text(data)?,
        None => None,
    };
    let given = match given {
        Some(given) => Some(given),
        None => part.text(url)?,
    };
    given
        .and_then(super::super::content::source)
        .ok_or_else(|| part.wrong(url, "an http, https or base64 data URL"))
}

fn tools(body: &mut Fields) -> Result<Vec<Tool>, RequestError> {
    let tools = body.objects("tools")?.into_iter().map(|mut tool| {
        if tool.required_text("type")? != "function" {
            let what = "function: the provider of this model has no built-in tools";
            return Err(tool.wrong("type", what));
        }
        Ok(Tool {
            name: tool.required_text("name")?,
            description: tool.text("description")?,
            parameters: tool.object_value("parameters")?,
            strict: tool.boolean("strict")?,
            cache: tool.cache_mark()?,
        })
    });
    tools.collect()
}

fn tool_choice(body: &mut Fields) -> Result<Option<ToolChoice>, RequestError> {
    match body.peek("tool_choice") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Any)),
            _ => Err(body.wrong("tool_choice", "auto, none, required or a function")),
        },
        Some(_) => {
            let choice = body.object("tool_choice")?;
            let mut choice = choice.ok_or_else(|| body.wrong("tool_choice", "a function"))?;
            if choice.required_text("type")? != "function" {
                return Err(choice.wrong("type", "function"));
            }
            Ok(Some(ToolChoice::Tool(choice.required_text("name")?)))
        }
    }
}

fn format(body: &mut Fields) -> Result<Option<Format>, RequestError> {
    let Some(mut text) = body.object("text")? else { return Ok(None) };
    let Some(mut format) = text.object("format")? else { return Ok(None) };
    match format.required_text("type")?.as_str() {
        "text" => Ok(Some(Format::Text)),
        "json_object" => Ok(Some(Format::Json)),
        "json_schema" => Ok(Some(Format::Schema {
            name: format.required_text("name")?,
            schema: format
                .object_value("schema")?
                .ok_or_else(|| format.wrong("schema", "an object"))?,
            strict: format.boolean("strict")?,
        })),
        _ => Err(format.wrong("type", "text, json_object or json_schema")),
    }
}

fn reasoning(body: &mut Fields) -> Result<Option<Reasoning>, RequestError> {
    let Some(mut reasoning) = body.object("reasoning")? else { return Ok(None) };
    let Some(word) = reasoning.text("effort")? else { return Ok(None) };
    if word == "none" {
        return Ok(Some(Reasoning::Off));
    }
    match Effort::of_word(&word) {
        Some(effort) => Ok(Some(Reasoning::Effort(effort))),
        None => Err(reasoning.wrong("effort", "none, minimal, low, medium, high or xhigh")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::dialect::openai::response;
    use crate::json::JsonBody;

    fn read(body: &Value) -> Result<Conversation, String> {
        let body = JsonBody::parse(Bytes::from(body.to_string())).unwrap();
        let call = response(body).map_err(|error| error.to_string())?;
        conversation(&call).map_err(|error| error.to_string())
    }

    fn text(text: &str) -> Part {
        Part::Text { text: text.to_owned(), cache: None }
    }

    #[test]
    fn an_input_is_read_as_turns() {
        let read = read(&json!({"model": "m", "instructions": "be brief", "max_output_tokens": 9,
        "store": false, "reasoning": {"effort": "low"}, "text": {"format": {"type": "json_object"}},
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "f"},
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "id": "rs", "encrypted_content": "signed:S",
                "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "reasoning", "encrypted_content": "hidden:H", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "42"},
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]},
        ]}));
        let read = read.unwrap();
        assert_eq!(read.system, [text("be brief")]);
        assert_eq!((read.max_tokens, read.tools.len()), (Some(9), 1));
        assert_eq!(read.tool_choice, Some(ToolChoice::Tool("f".to_owned())));
        assert_eq!(read.reasoning, Some(Reasoning::Effort(Effort::Low)));
        let roles: Vec<_> = read.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant, Role::User]);
        let thought = Part::Reasoning { text: "hm".to_owned(), signature: Some("S".to_owned()) };
        let assistant = &read.messages[1].parts;
        assert_eq!(assistant[..2], [thought, Part::HiddenReasoning("H".to_owned())]);
        assert_eq!(read.messages[2].parts.len(), 2);
    }

    #[test]
    fn what_only_openai_keeps_or_has_is_refused() {
        for (more, reason) in [
            (json!({"previous_response_id": "r"}), "`previous_response_id` is not offered"),
            (json!({"store": true}), "`store` is not offered"),
            (json!({"background": true}), "`background` is not offered"),
            (json!({"tools": [{"type": "web_search"}]}), "`tools[0].type` must be function"),
            (json!({"input": [{"type": "item_reference", "id": "x"}]}), "`input[0].type`"),
            (json!({"input": []}), "`input` must be"),
        ] {
            let mut body = json!({"model": "m", "input": "hi"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let error = read(&body).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
