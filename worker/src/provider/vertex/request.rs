//! A conversation as the body of `generateContent`.
//!
//! Left out, since Gemini has no words for it: marks for a cache, the caller's word for its end user, and the words of
//! earlier thoughts. Their signatures go back with the part that they were told for, without which newer models refuse to go
//! on: with the next call of a tool, else with the next text.

use serde_json::{Map, Value, json};

use super::schema;
use crate::chat::{
    Conversation, Effort, Format, MediaKind, MediaSource, Message, Part, Reasoning, Role, Tool,
    ToolChoice,
};
use crate::provider::value::object;
use crate::request::RequestError;

/// Takes the place of a signature that nobody has kept, as Google documents for conversations from elsewhere.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// The body of the request.
///
/// # Errors
/// [`RequestError::Invalid`] with what Gemini has no words for.
pub fn body(conversation: &Conversation, model: &str) -> Result<Value, RequestError> {
    if conversation.n.is_some_and(|n| n > 1) {
        let reason = "`n` must be 1: the provider of this model is asked for one answer at a time";
        return Err(RequestError::Invalid(reason.to_owned()));
    }
    let mut body = Map::new();
    let mut contents = Vec::new();
    for message in &conversation.messages {
        let (role, parts) = turn(message, conversation, model);
        add(&mut contents, role, parts);
    }
    let system: Vec<_> = conversation.system.iter().filter_map(plain).collect();
    if contents.is_empty() {
        // There has to be a turn.
        add(&mut contents, "user", system);
    } else if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    body.insert("contents".to_owned(), contents.into());
    if !conversation.tools.is_empty() {
        let tools: Vec<_> = conversation.tools.iter().map(declaration).collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": tools}]));
        if let Some(choice) = &conversation.tool_choice {
            let config = json!({"functionCallingConfig": calling(choice)});
            body.insert("toolConfig".to_owned(), config);
        }
    }
    let generation = generation(conversation, model);
    if !generation.is_empty() {
        body.insert("generationConfig".to_owned(), generation.into());
    }
    Ok(body.into())
}

/// Turns of one role in a row are one.
fn add(contents: &mut Vec<Value>, role: &str, parts: Vec<Value>) {
    if parts.is_empty() {
        return;
    }
    if let Some(last) = contents.last_mut()
        && last.get("role").is_some_and(|last| last == role)
        && let Some(there) = last.get_mut("parts").and_then(Value::as_array_mut)
    {
        return there.extend(parts);
    }
    contents.push(json!({"role": role, "parts": parts}));
}

fn turn(message: &Message, conversation: &Conversation, model: &str) -> (&'static str, Vec<Value>) {
    if message.role != Role::Assistant {
        let parts = message.parts.iter().flat_map(|part| said(part, conversation));
        return ("user", parts.collect());
    }
    let has_calls = message.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
    let mut signature = None;
    let mut is_first_call = true;
    let mut parts = Vec::new();
    for part in &message.parts {
        let mut told = match part {
            Part::Reasoning { signature: Some(new), .. } => {
                signature = Some(new.as_str());
                continue;
            }
            Part::ToolCall { name, arguments, .. } => {
                json!({"functionCall": {"name": name, "args": object(arguments)}})
            }
            part => match plain(part) {
                Some(told) => told,
                None => continue,
            },
        };
        let is_call = matches!(part, Part::ToolCall { .. });
        let mut signed = if is_call || !has_calls { signature.take() } else { None };
        if is_call && std::mem::take(&mut is_first_call) && asks_for_signatures(model) {
            signed = signed.or(Some(NO_SIGNATURE));
        }
        if let (Some(told), Some(signed)) = (told.as_object_mut(), signed) {
            told.insert("thoughtSignature".to_owned(), signed.into());
        }
        parts.push(told);
    }
    ("model", parts)
}

/// What the caller says; results of tools are called by the tool's name.
fn said(part: &Part, conversation: &Conversation) -> Vec<Value> {
    let Part::ToolResult { id, parts, is_error, .. } = part else {
        return plain(part).into_iter().collect();
    };
    let text: Vec<_> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let text = text.join("\n");
    let response = match serde_json::from_str::<Value>(&text) {
        Ok(value @ Value::Object(_)) if !is_error => value,
        _ if *is_error => json!({"error": text}),
        _ => json!({"result": text}),
    };
    let name =
        conversation.messages.iter().flat_map(|message| &message.parts).find_map(
            |part| match part {
                Part::ToolCall { id: other, name, .. } if other == id => Some(name.as_str()),
                _ => None,
            },
        );
    let result = json!({"functionResponse": {"name": name.unwrap_or(id), "response": response}});
    let media = parts.iter().filter(|part| matches!(part, Part::Media { .. })).filter_map(plain);
    std::iter::once(result).chain(media).collect()
}

/// Text or media; nothing for an empty text, which Gemini does not take.
fn plain(part: &Part) -> Option<Value> {
    match part {
        Part::Text { text, .. } => (!text.is_empty()).then(|| json!({"text": text})),
        Part::Media { kind, source, .. } => Some(match source {
            MediaSource::Base64 { media_type, data } => {
                json!({"inlineData": {"mimeType": media_type, "data": data}})
            }
            MediaSource::Url(uri) | MediaSource::FileId(uri) => {
                json!({"fileData": {"mimeType": media_type(*kind, uri), "fileUri": uri}})
            }
        }),
        Part::ToolCall { .. }
        | Part::ToolResult { .. }
        | Part::Reasoning { .. }
        | Part::HiddenReasoning(_) => None,
    }
}

/// What is probably there: Gemini wants to be told.
fn media_type(kind: MediaKind, uri: &str) -> &'static str {
    let path = uri.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let ending = path.rsplit('.').next().unwrap_or_default();
    match (kind, ending) {
        (MediaKind::Image, "png") => "image/png",
        (MediaKind::Image, "webp") => "image/webp",
        (MediaKind::Image, "gif") => "image/gif",
        (MediaKind::Image, "heic") => "image/heic",
        (MediaKind::Image, _) => "image/jpeg",
        (MediaKind::Document, "txt" | "md") => "text/plain",
        (MediaKind::Document, "html" | "htm") => "text/html",
        (MediaKind::Document, "csv") => "text/csv",
        (MediaKind::Document, _) => "application/pdf",
        (MediaKind::Audio, "wav") => "audio/wav",
        (MediaKind::Audio, "flac") => "audio/flac",
        (MediaKind::Audio, "ogg") => "audio/ogg",
        (MediaKind::Audio, _) => "audio/mpeg",
    }
}

fn declaration(tool: &Tool) -> Value {
    let mut told = Map::new();
    told.insert("name".to_owned(), tool.name.clone().into());
    if let Some(description) = &tool.description {
        told.insert("description".to_owned(), description.clone().into());
    }
    // An object without properties is an error there.
    let parameters = tool.parameters.as_ref().map(schema::cleaned);
    let has_properties = |schema: &Value| {
        schema.get("properties").and_then(Value::as_object).is_some_and(|all| !all.is_empty())
    };
    if let Some(parameters) = parameters.filter(has_properties) {
        told.insert("parameters".to_owned(), parameters);
    }
    told.into()
}

fn calling(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({"mode": "AUTO"}),
        ToolChoice::None => json!({"mode": "NONE"}),
        ToolChoice::Any => json!({"mode": "ANY"}),
        ToolChoice::Tool(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    }
}

fn generation(conversation: &Conversation, model: &str) -> Map<String, Value> {
    let mut config = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    set("maxOutputTokens", conversation.max_tokens.map(Value::from));
    set("temperature", conversation.temperature.map(Value::from));
    set("topP", conversation.top_p.map(Value::from));
    set("topK", conversation.top_k.map(Value::from));
    set("frequencyPenalty", conversation.frequency_penalty.map(Value::from));
    set("presencePenalty", conversation.presence_penalty.map(Value::from));
    set("seed", conversation.seed.map(Value::from));
    set("stopSequences", (!conversation.stop.is_empty()).then(|| json!(conversation.stop)));
    // Before the third generation an answer of a certain form and tools exclude each other.
    let may_have_form = conversation.tools.is_empty() || asks_for_signatures(model);
    match conversation.format.as_ref().filter(|_| may_have_form) {
        Some(Format::Json) => set("responseMimeType", Some("application/json".into())),
        Some(Format::Schema { schema, .. }) => {
            set("responseMimeType", Some("application/json".into()));
            set("responseSchema", Some(schema::cleaned(schema)));
        }
        Some(Format::Text) | None => {}
    }
    set("thinkingConfig", thinking(conversation.reasoning, model));
    config
}

/// What all models that are told a budget take.
const BUDGET_MAX: u64 = 24_576;

fn thinking(reasoning: Option<Reasoning>, model: &str) -> Option<Value> {
    // These do not think, and answer the wish for it with an error.
    if model.contains("gemini-1") || model.contains("gemini-2.0") {
        return None;
    }
    match reasoning? {
        // The large ones cannot do without.
        Reasoning::Off if model.contains("pro") || asks_for_signatures(model) => None,
        Reasoning::Off => Some(json!({"thinkingBudget": 0})),
        Reasoning::Effort(effort) if asks_for_signatures(model) => {
            let level = if effort < Effort::Medium { "low" } else { "high" };
            Some(json!({"includeThoughts": true, "thinkingLevel": level}))
        }
        Reasoning::Effort(effort) => {
            Some(json!({"includeThoughts": true, "thinkingBudget": effort.budget()}))
        }
        Reasoning::Budget(tokens) => {
            Some(json!({"includeThoughts": true, "thinkingBudget": tokens.min(BUDGET_MAX)}))
        }
    }
}

/// Whether the model goes on after a call of a tool only with a signature of its thoughts.
fn asks_for_signatures(model: &str) -> bool {
    model.contains("gemini-3")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text { text: text.to_owned(), cache: None }
    }

    fn call(id: &str) -> Part {
        let arguments = "{\"x\":1}".to_owned();
        Part::ToolCall { id: id.to_owned(), name: format!("tool-{id}"), arguments, cache: None }
    }

    fn signed(signature: &str) -> Part {
        Part::Reasoning { text: "hm".to_owned(), signature: Some(signature.to_owned()) }
    }

    fn message(role: Role, parts: Vec<Part>) -> Message {
        Message { role, parts }
    }

    fn result(id: &str, text_of_it: &str, is_error: bool) -> Part {
        Part::ToolResult { id: id.to_owned(), parts: vec![text(text_of_it)], is_error, cache: None }
    }

    #[test]
    fn every_part_of_a_conversation_has_gemini_s_words() {
        let source =
            MediaSource::Base64 { media_type: "image/png".to_owned(), data: "AAAA".to_owned() };
        let picture = Part::Media { kind: MediaKind::Image, source, name: None, cache: None };
        let conversation = Conversation {
            system: vec![text("be brief")],
            messages: vec![
                message(Role::User, vec![text("look"), picture]),
                message(Role::Assistant, vec![signed("s"), text("so"), call("1"), call("2")]),
                message(Role::User, vec![result("1", "{\"a\":2}", false)]),
                message(Role::User, vec![result("2", "broken", true), text("go on")]),
            ],
            tools: vec![Tool {
                name: "tool-1".to_owned(),
                description: Some("d".to_owned()),
                parameters: Some(
                    json!({"type": "object", "properties": {"x": {"type": "integer"}}}),
                ),
                strict: Some(true),
                cache: None,
            }],
            tool_choice: Some(ToolChoice::Tool("tool-1".to_owned())),
            max_tokens: Some(9),
            format: Some(Format::Json),
            reasoning: Some(Reasoning::Budget(100)),
            ..Conversation::default()
        };
        assert_eq!(
            body(&conversation, "gemini-2.5-flash").unwrap(),
            json!({
                "systemInstruction": {"parts": [{"text": "be brief"}]},
                "contents": [
                    {"role": "user", "parts": [
                        {"text": "look"}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                    ]},
                    {"role": "model", "parts": [
                        {"text": "so"},
                        {"functionCall": {"name": "tool-1", "args": {"x": 1}}, "thoughtSignature": "s"},
                        {"functionCall": {"name": "tool-2", "args": {"x": 1}}},
                    ]},
                    {"role": "user", "parts": [
                        {"functionResponse": {"name": "tool-1", "response": {"a": 2}}},
                        {"functionResponse": {"name": "tool-2", "response": {"error": "broken"}}},
                        {"text": "go on"},
                    ]},
                ],
                "tools": [{"functionDeclarations": [{
                    "name": "tool-1", "description": "d",
                    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
                }]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["tool-1"]}},
                "generationConfig": {
                    "maxOutputTokens": 9,
                    "thinkingConfig": {"includeThoughts": true, "thinkingBudget": 100},
                },
            })
        );
    }

    #[test]
    fn a_model_that_asks_for_signatures_is_told_where_there_is_none() {
        let conversation = Conversation {
            messages: vec![message(Role::Assistant, vec![call("1"), call("2")])],
            reasoning: Some(Reasoning::Effort(Effort::Low)),
            ..Conversation::default()
        };
        let told = body(&conversation, "gemini-3-pro-preview").unwrap();
        let parts = &told["contents"][0]["parts"];
        assert_eq!(parts[0]["thoughtSignature"], NO_SIGNATURE);
        assert_eq!(parts[1].get("thoughtSignature"), None);
        assert_eq!(told["generationConfig"]["thinkingConfig"]["thinkingLevel"], "low");
    }

    #[test]
    fn a_conversation_of_nothing_but_a_system_text_has_a_turn() {
        let conversation = Conversation { system: vec![text("hi")], ..Conversation::default() };
        let told = body(&conversation, "m").unwrap();
        assert_eq!(told, json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}));
    }
}
