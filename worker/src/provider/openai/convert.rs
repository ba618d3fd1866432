//! A conversation as a request for chat completions, for a caller who speaks another dialect.
//!
//! Left out, since OpenAI has no words for it: marks for a cache, what the model has thought before, `top_k`, and that a tool
//! has failed (its text says so). Refused: media that lies where OpenAI does not look for it.

use serde_json::{Map, Value, json};
use shared::resource::ResponseOverrides;

use crate::chat::{
    Conversation, Effort, Format, MediaKind, MediaSource, Message, Part, Reasoning, Role, Tool,
    ToolChoice,
};
use crate::request::RequestError;

/// Families of OpenAI's own models that do not reason, and answer the wish for it with an error.
const WITHOUT_REASONING: [&str; 3] = ["gpt-3.5", "gpt-4", "chatgpt-"];
/// Families of OpenAI's own models that know `max_completion_tokens` only.
const REASONING: [&str; 4] = ["o1", "o3", "o4", "gpt-5"];

/// The body of the request.
///
/// # Errors
/// [`RequestError::Invalid`] with what OpenAI has no words for.
pub fn body(
    conversation: &Conversation,
    model: &str,
    is_stream: bool,
    overrides: &ResponseOverrides,
) -> Result<Value, RequestError> {
    let mut messages = Vec::with_capacity(conversation.messages.len() + 1);
    if !conversation.system.is_empty() {
        let content = content(&conversation.system, overrides)?;
        messages.push(json!({"role": "system", "content": content}));
    }
    for message in &conversation.messages {
        add_message(message, model, overrides, &mut messages)?;
    }
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    body.insert("messages".to_owned(), messages.into());
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    let limit = if of_family(model, &REASONING) { "max_completion_tokens" } else { "max_tokens" };
    set(limit, conversation.max_tokens.map(Value::from));
    set("temperature", conversation.temperature.map(Value::from));
    set("top_p", conversation.top_p.map(Value::from));
    set("frequency_penalty", conversation.frequency_penalty.map(Value::from));
    set("presence_penalty", conversation.presence_penalty.map(Value::from));
    set("seed", conversation.seed.map(Value::from));
    set("n", conversation.n.filter(|n| *n != 1).map(Value::from));
    set("user", conversation.user.clone().map(Value::from));
    set("stop", (!conversation.stop.is_empty()).then(|| json!(conversation.stop)));
    set("response_format", conversation.format.as_ref().and_then(format));
    set("reasoning_effort", effort(conversation.reasoning, model).map(Value::from));
    if !conversation.tools.is_empty() {
        set("tools", Some(conversation.tools.iter().map(tool).collect()));
        set("tool_choice", conversation.tool_choice.as_ref().map(tool_choice));
        set("parallel_tool_calls", conversation.parallel_tools.map(Value::from));
    }
    if is_stream {
        set("stream", Some(true.into()));
        set("stream_options", Some(json!({"include_usage": true})));
    }
    Ok(body.into())
}

/// One turn: results of tools are messages of their own, and come first, right behind the calls.
fn add_message(
    message: &Message,
    model: &str,
    overrides: &ResponseOverrides,
    messages: &mut Vec<Value>,
) -> Result<(), RequestError> {
    match message.role {
        Role::System => {
            let content = content(&message.parts, overrides)?;
            messages.push(json!({"role": "system", "content": content}));
        }
        Role::User => {
            let mut rest = Vec::new();
            for part in &message.parts {
                let Part::ToolResult { id, parts, .. } = part else {
                    rest.push(part);
                    continue;
                };
                let text = texts(parts).collect::<Vec<_>>().join("\n");
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
                // A result can only be text: a picture in it is shown by the user.
                rest.extend(parts.iter().filter(|part| matches!(part, Part::Media { .. })));
            }
            if !rest.is_empty() {
                let content = content(rest, overrides)?;
                messages.push(json!({"role": "user", "content": content}));
            }
        }
        Role::Assistant => {
            let text = texts(&message.parts).collect::<Vec<_>>().join("");
            let calls: Vec<_> = message.parts.iter().filter_map(tool_call).collect();
            if text.is_empty() && calls.is_empty() {
                // Only thoughts, which cannot be told.
                return Ok(());
            }
            let content = if text.is_empty() { Value::Null } else { text.into() };
            let mut told = json!({"role": "assistant", "content": content});
            if let (Some(told), false) = (told.as_object_mut(), calls.is_empty()) {
                told.insert("tool_calls".to_owned(), calls.into());
                // Who thinks in the open wants to be told of it while it calls tools (DeepSeek).
                let thoughts = thoughts(&message.parts);
                if !thoughts.is_empty()
                    && !of_family(model, &REASONING)
                    && !of_family(model, &WITHOUT_REASONING)
                {
                    told.insert("reasoning_content".to_owned(), thoughts.into());
                }
            }
            messages.push(told);
        }
    }
    Ok(())
}

/// What the model thought and nobody has signed.
fn thoughts(parts: &[Part]) -> String {
    let unsigned = parts.iter().filter_map(|part| match part {
        Part::Reasoning { text, signature: None } => Some(text.as_str()),
        _ => None,
    });
    unsigned.collect()
}

/// The content of a message: a text where it is one, else a list.
fn content<'a>(
    parts: impl IntoIterator<Item = &'a Part>,
    overrides: &ResponseOverrides,
) -> Result<Value, RequestError> {
    let parts: Vec<_> = parts.into_iter().collect();
    let texts: Vec<_> = texts(parts.iter().copied()).collect();
    if texts.len() == parts.len() && (texts.len() < 2 || overrides.content_list_to_string) {
        return Ok(texts.join("\n").into());
    }
    parts.into_iter().filter_map(content_part).collect()
}

fn content_part(part: &Part) -> Option<Result<Value, RequestError>> {
    match part {
        Part::Text { text, .. } => Some(Ok(json!({"type": "text", "text": text}))),
        Part::Media { kind, source, name, .. } => Some(media(*kind, source, name.as_deref())),
        Part::ToolCall { .. }
        | Part::ToolResult { .. }
        | Part::Reasoning { .. }
        | Part::HiddenReasoning(_) => None,
    }
}

fn media(kind: MediaKind, source: &MediaSource, name: Option<&str>) -> Result<Value, RequestError> {
    let data_url = |media_type: &str, data: &str| format!("data:{media_type};base64,{data}");
    Ok(match (kind, source) {
        (MediaKind::Image, MediaSource::Base64 { media_type, data }) => {
            json!({"type": "image_url", "image_url": {"url": data_url(media_type, data)}})
        }
        (MediaKind::Image, MediaSource::Url(url)) => {
            json!({"type": "image_url", "image_url": {"url": url}})
        }
        (MediaKind::Document, MediaSource::Base64 { media_type, data }) => {
            let name = name.unwrap_or("document.pdf");
            let file = json!({"filename": name, "file_data": data_url(media_type, data)});
            json!({"type": "file", "file": file})
        }
        (MediaKind::Document, MediaSource::FileId(id)) => {
            json!({"type": "file", "file": {"file_id": id}})
        }
        (MediaKind::Audio, MediaSource::Base64 { media_type, data }) => {
            let format = match media_type.rsplit_once('/').map_or("", |(_, format)| format) {
                "mpeg" | "mp3" => "mp3",
                "x-wav" | "wave" | "wav" | "" => "wav",
                format => format,
            };
            json!({"type": "input_audio", "input_audio": {"data": data, "format": format}})
        }
        (MediaKind::Image, MediaSource::FileId(_)) => {
            return Err(cannot(
                "a picture by the id of a file; send the picture itself or its URL",
            ));
        }
        (MediaKind::Document, MediaSource::Url(_)) => {
            return Err(cannot("a document by its URL; send the document itself"));
        }
        (MediaKind::Audio, MediaSource::Url(_) | MediaSource::FileId(_)) => {
            return Err(cannot("a sound that is elsewhere; send the sound itself"));
        }
    })
}

fn cannot(what: &str) -> RequestError {
    RequestError::Invalid(format!("the provider of this model cannot be given {what}"))
}

fn texts<'a>(parts: impl IntoIterator<Item = &'a Part>) -> impl Iterator<Item = &'a str> {
    parts.into_iter().filter_map(|part| match part {
        Part::Text { text, .. } => Some(text.as_str()),
        _ => None,
    })
}

fn tool_call(part: &Part) -> Option<Value> {
    let Part::ToolCall { id, name, arguments, .. } = part else { return None };
    let arguments = if arguments.is_empty() { "{}" } else { arguments };
    let function = json!({"name": name, "arguments": arguments});
    Some(json!({"id": id, "type": "function", "function": function}))
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), tool.name.clone().into());
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), description.clone().into());
    }
    let nothing = || json!({"type": "object", "properties": {}});
    function.insert("parameters".to_owned(), tool.parameters.clone().unwrap_or_else(nothing));
    if let Some(strict) = tool.strict {
        function.insert("strict".to_owned(), strict.into());
    }
    json!({"type": "function", "function": function})
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Any => "required".into(),
        ToolChoice::Tool(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

fn format(format: &Format) -> Option<Value> {
    match format {
        Format::Text => None,
        Format::Json => Some(json!({"type": "json_object"})),
        Format::Schema { name, schema, strict } => {
            let mut told = json!({"name": name, "schema": schema});
            if let (Some(told), Some(strict)) = (told.as_object_mut(), strict) {
                told.insert("strict".to_owned(), (*strict).into());
            }
            Some(json!({"type": "json_schema", "json_schema": told}))
        }
    }
}

fn effort(reasoning: Option<Reasoning>, model: &str) -> Option<&'static str> {
    match reasoning? {
        Reasoning::Off => None,
        _ if of_family(model, &WITHOUT_REASONING) => None,
        Reasoning::Effort(effort) => Some(effort.word()),
        Reasoning::Budget(tokens) => Some(Effort::of_budget(tokens).max(Effort::Low).word()),
    }
}

/// Whether the model is of one of these families; a vendor in front of its name does not count.
fn of_family(model: &str, families: &[&str]) -> bool {
    let name = model.rsplit('/').next().unwrap_or_default();
    families.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text { text: text.to_owned(), cache: None }
    }

    fn message(role: Role, parts: Vec<Part>) -> Message {
        Message { role, parts }
    }

    fn picture() -> Part {
        let source =
            MediaSource::Base64 { media_type: "image/png".to_owned(), data: "AAAA".to_owned() };
        Part::Media { kind: MediaKind::Image, source, name: None, cache: None }
    }

    fn told(conversation: &Conversation, model: &str) -> Value {
        body(conversation, model, false, &ResponseOverrides::default()).unwrap()
    }

    #[test]
    fn every_part_of_a_conversation_has_openai_s_words() {
        let conversation = Conversation {
            system: vec![text("be brief")],
            messages: vec![
                message(Role::User, vec![text("look"), picture()]),
                message(
                    Role::Assistant,
                    vec![
                        Part::Reasoning { text: "hm".to_owned(), signature: Some("s".to_owned()) },
                        text("let me see"),
                        Part::ToolCall {
                            id: "c1".to_owned(),
                            name: "find".to_owned(),
                            arguments: String::new(),
                            cache: None,
                        },
                    ],
                ),
                message(
                    Role::User,
                    vec![
                        text("and then?"),
                        Part::ToolResult {
                            id: "c1".to_owned(),
                            parts: vec![text("found"), picture()],
                            is_error: false,
                            cache: None,
                        },
                    ],
                ),
            ],
            tools: vec![Tool {
                name: "find".to_owned(),
                description: None,
                parameters: None,
                strict: Some(true),
                cache: None,
            }],
            tool_choice: Some(ToolChoice::Any),
            max_tokens: Some(9),
            stop: vec!["x".to_owned()],
            format: Some(Format::Json),
            reasoning: Some(Reasoning::Budget(5000)),
            ..Conversation::default()
        };
        let image =
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
        assert_eq!(
            told(&conversation, "some-model"),
            json!({
                "model": "some-model",
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
                    {"role": "assistant", "content": "let me see", "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}},
                    ]},
                    {"role": "tool", "tool_call_id": "c1", "content": "found"},
                    {"role": "user", "content": [{"type": "text", "text": "and then?"}, image]},
                ],
                "tools": [{"type": "function", "function": {
                    "name": "find", "strict": true, "parameters": {"type": "object", "properties": {}},
                }}],
                "tool_choice": "required",
                "max_tokens": 9,
                "stop": ["x"],
                "response_format": {"type": "json_object"},
                "reasoning_effort": "medium",
            })
        );
    }

    #[test]
    fn what_only_some_models_know_depends_on_the_model() {
        let conversation = Conversation {
            max_tokens: Some(5),
            reasoning: Some(Reasoning::Budget(1)),
            ..Conversation::default()
        };
        let body = told(&conversation, "gpt-4o");
        assert_eq!((&body["max_tokens"], body.get("reasoning_effort")), (&json!(5), None));
        let body = told(&conversation, "openai/gpt-5-mini");
        assert_eq!(body["max_completion_tokens"], 5);
        assert_eq!(body["reasoning_effort"], "low");
    }

    #[test]
    fn lists_of_texts_are_one_text_where_the_provider_asks_for_that() {
        let conversation =
            Conversation { system: vec![text("a"), text("b")], ..Conversation::default() };
        assert!(told(&conversation, "m")["messages"][0]["content"].is_array());
        let overrides =
            ResponseOverrides { content_list_to_string: true, ..ResponseOverrides::default() };
        let body = body(&conversation, "m", true, &overrides).unwrap();
        assert_eq!(body["messages"][0]["content"], "a\nb");
        assert_eq!(body["stream_options"]["include_usage"], true);
    }

    #[test]
    fn media_that_openai_does_not_fetch_is_refused_with_what_to_do() {
        let source = MediaSource::Url("https://x.example/a.pdf".to_owned());
        let part = Part::Media { kind: MediaKind::Document, source, name: None, cache: None };
        let conversation =
            Conversation { messages: vec![message(Role::User, vec![part])], ..Default::default() };
        let error = body(&conversation, "m", false, &ResponseOverrides::default()).unwrap_err();
        assert!(error.to_string().contains("send the document itself"), "{error}");
    }
}
