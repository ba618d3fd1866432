//! What the upstream says to a request of Anthropic's Messages, and what it refuses as Anthropic does.
//!
//! The answer is a function of the request alone:
//! - it thinks first if `thinking` asks for it, and signs that; a text with the word `secret` also brings a thought that is
//!   not shown;
//! - it calls every tool that it may if it has to, or if the last text begins with `call`: with `{"said": <text>}`;
//! - else it says `You said: …`, or after a result of a tool `The tool said: …`.
//!
//! A token is a word. Each mark for the prompt cache is a token written to it, each word `cached` one read from it.

use serde_json::{Value, json};

/// Signs what was thought.
pub const SIGNATURE: &str = "c2lnbmVkIGJ5IHRlc3Rz";
/// A thought that is not shown.
pub const REDACTED: &str = "bm90IHNob3du";

/// What is wrong with a request, in Anthropic's words; empty if nothing is.
pub fn complaint(request: &Value, is_count: bool) -> &'static str {
    let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return "messages: at least one message is required";
    }
    if !is_count && request["max_tokens"].as_u64().unwrap_or(0) == 0 {
        return "max_tokens: Field required";
    }
    let is_thinking = is_thinking(request);
    let budget = request["thinking"]["budget_tokens"].as_u64();
    if budget.is_some_and(|budget| {
        budget < 1024 || budget >= request["max_tokens"].as_u64().unwrap_or(0)
    }) {
        return "thinking.budget_tokens: out of bounds";
    }
    if is_thinking && request.get("temperature").is_some_and(|value| value != 1) {
        return "`temperature` may only be set to 1 when thinking is enabled";
    }
    let forced = matches!(request["tool_choice"]["type"].as_str(), Some("any" | "tool"));
    if is_thinking && forced {
        return "Thinking may not be enabled when tool_choice forces tool use.";
    }
    for message in messages {
        if !matches!(message["role"].as_str(), Some("user" | "assistant")) {
            return "messages: Unexpected role";
        }
        let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
        for block in blocks {
            if block["type"] == "text" && block["text"].as_str().unwrap_or_default().is_empty() {
                return "messages: text content blocks must be non-empty";
            }
            if block["type"] == "thinking" && block["signature"] != SIGNATURE {
                return "messages: Invalid `signature` in `thinking` block";
            }
            if block["type"] == "tool_use" && !block["input"].is_object() {
                return "messages: tool_use.input: Input should be a valid dictionary";
            }
        }
    }
    pairs(messages, is_thinking)
}

/// Calls and results belong together, and to a call in progress belongs what was thought before it.
fn pairs(messages: &[Value], is_thinking: bool) -> &'static str {
    let of = |message: &Value, kind: &str, id: &str| -> Vec<String> {
        let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
        let found = blocks.iter().filter(|block| block["type"] == kind);
        found.map(|block| block[id].as_str().unwrap_or_default().to_owned()).collect()
    };
    for (index, message) in messages.iter().enumerate() {
        let calls = of(message, "tool_use", "id");
        let results = messages
            .get(index + 1)
            .map(|next| of(next, "tool_result", "tool_use_id"))
            .unwrap_or_default();
        if calls != results {
            return "messages: `tool_use` ids were found without `tool_result` blocks immediately after";
        }
        let first = message["content"][0]["type"].as_str().unwrap_or_default();
        let is_last_pair = index + 2 == messages.len() && !calls.is_empty();
        if is_last_pair && is_thinking && !matches!(first, "thinking" | "redacted_thinking") {
            return "messages: Expected `thinking` or `redacted_thinking`, but found `tool_use`";
        }
    }
    ""
}

fn is_thinking(request: &Value) -> bool {
    matches!(request["thinking"]["type"].as_str(), Some("enabled" | "adaptive"))
}

/// The message that answers the request.
pub fn answer(request: &Value) -> Value {
    let text = last_text(request);
    let mut content = Vec::new();
    if is_thinking(request) {
        let thought = format!("The user says: {text}");
        content.push(json!({"type": "thinking", "thinking": thought, "signature": SIGNATURE}));
        if text.contains("secret") {
            content.push(json!({"type": "redacted_thinking", "data": REDACTED}));
        }
    }
    let calls = calls(request, &text);
    let (mut stop_reason, mut stop_sequence) = ("end_turn", Value::Null);
    if calls.is_empty() {
        let mut said = match result(request) {
            Some(result) => format!("The tool said: {result}"),
            None => format!("You said: {text}"),
        };
        for stop in request["stop_sequences"].as_array().into_iter().flatten() {
            if let Some((before, _)) = said.split_once(stop.as_str().unwrap_or("\0")) {
                said = before.to_owned();
                (stop_reason, stop_sequence) = ("stop_sequence", stop.clone());
            }
        }
        let words: Vec<_> = said.split(' ').collect();
        let limit = usize::try_from(request["max_tokens"].as_u64().unwrap_or(0)).unwrap_or(0);
        if words.len() > limit {
            said = words.get(..limit).unwrap_or_default().join(" ");
            stop_reason = "max_tokens";
        }
        content.push(json!({"type": "text", "text": said}));
    } else {
        stop_reason = "tool_use";
        content.push(json!({"type": "text", "text": "I call."}));
        content.extend(calls);
    }
    let output = content.iter().map(|block| words(&block.to_string())).sum::<usize>();
    let body = request.to_string();
    json!({
        "id": format!("msg_{}", words(&text)),
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": {
            "input_tokens": input_tokens(request),
            "cache_creation_input_tokens": body.matches("\"cache_control\"").count(),
            "cache_read_input_tokens": body.matches("cached").count(),
            "output_tokens": output,
        },
    })
}

/// Words of system prompt and messages.
pub fn input_tokens(request: &Value) -> usize {
    let messages = request["messages"].as_array().into_iter().flatten();
    let said = messages.map(|message| words(&texts(&message["content"]))).sum::<usize>();
    words(&texts(&request["system"])) + said
}

fn calls(request: &Value, text: &str) -> Vec<Value> {
    let choice = &request["tool_choice"];
    let must = matches!(choice["type"].as_str(), Some("any" | "tool"));
    if choice["type"] == "none" || !(must || text.starts_with("call")) {
        return Vec::new();
    }
    let tools = request["tools"].as_array().into_iter().flatten();
    let chosen = tools.filter(|tool| choice["type"] != "tool" || tool["name"] == choice["name"]);
    let most = if choice["disable_parallel_tool_use"] == true { 1 } else { usize::MAX };
    let call = |(index, tool): (usize, &Value)| {
        json!({"type": "tool_use", "id": format!("toolu_{index}"), "name": tool["name"],
            "input": {"said": text}})
    };
    chosen.take(most).enumerate().map(call).collect()
}

/// The text of the last result of a tool, if the last turn has one.
fn result(request: &Value) -> Option<String> {
    let blocks = request["messages"].as_array()?.last()?["content"].as_array()?;
    let result = blocks.iter().rfind(|block| block["type"] == "tool_result")?;
    Some(texts(&result["content"]))
}

/// The text of the last turn.
fn last_text(request: &Value) -> String {
    let messages = request["messages"].as_array();
    messages
        .and_then(|messages| messages.last())
        .map(|last| texts(&last["content"]))
        .unwrap_or_default()
}

fn texts(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts = blocks.iter().filter_map(|block| block["text"].as_str());
            texts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The message as the events of a stream.
pub fn events(message: &Value) -> Vec<Value> {
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["stop_sequence"] = Value::Null;
    start["usage"]["output_tokens"] = json!(1);
    let mut events =
        vec![json!({"type": "message_start", "message": start}), json!({"type": "ping"})];
    for (index, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        let (begun, deltas) = pieces(block);
        events.push(json!({"type": "content_block_start", "index": index, "content_block": begun}));
        let delta = |delta| json!({"type": "content_block_delta", "index": index, "delta": delta});
        events.extend(deltas.into_iter().map(delta));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]},
        "usage": {"output_tokens": message["usage"]["output_tokens"]},
    }));
    events.push(json!({"type": "message_stop"}));
    events
}

/// How a block begins, and what comes after that.
fn pieces(block: &Value) -> (Value, Vec<Value>) {
    let split = |text: &str, kind: &str, member: &str| -> Vec<Value> {
        let pieces = text.split_inclusive(' ');
        pieces.map(|piece| json!({"type": kind, member: piece})).collect()
    };
    let text = |name: &str| block[name].as_str().unwrap_or_default();
    match text("type") {
        "text" => (json!({"type": "text", "text": ""}), split(text("text"), "text_delta", "text")),
        "thinking" => {
            let mut deltas = split(text("thinking"), "thinking_delta", "thinking");
            deltas.push(json!({"type": "signature_delta", "signature": block["signature"]}));
            (json!({"type": "thinking", "thinking": "", "signature": ""}), deltas)
        }
        "tool_use" => {
            let mut begun = block.clone();
            begun["input"] = json!({});
            let mut deltas = vec![json!({"type": "input_json_delta", "partial_json": ""})];
            let input = block["input"].to_string();
            deltas.extend(split(&input, "input_json_delta", "partial_json"));
            (begun, deltas)
        }
        _ => (block.clone(), Vec::new()),
    }
}

/// An error in Anthropic's words.
pub fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}
