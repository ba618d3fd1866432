//! Streams, put together as the clients of either dialect do.

use harness::sse::Event;
use serde_json::{Value, json};

/// The chunks of a complete stream of chat completions.
pub fn chunks(events: &[Event]) -> Vec<Value> {
    assert_eq!(events.last().unwrap().data, "[DONE]");
    let chunks = events[..events.len() - 1].iter();
    chunks.map(|event| serde_json::from_str(&event.data).unwrap()).collect()
}

/// The pieces of the choice's delta, put together as OpenAI's clients do.
pub fn assembled(chunks: &[Value]) -> Value {
    let mut message =
        json!({"content": "", "reasoning_content": "", "tool_calls": [], "thinking_blocks": []});
    for chunk in chunks {
        let delta = &chunk["choices"][0]["delta"];
        for name in ["content", "reasoning_content"] {
            if let Some(text) = delta[name].as_str() {
                message[name] = json!(format!("{}{text}", message[name].as_str().unwrap()));
            }
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            let calls = message["tool_calls"].as_array_mut().unwrap();
            if calls.len() == index {
                calls.push(call.clone());
            } else {
                let before = calls[index]["function"]["arguments"].as_str().unwrap().to_owned();
                let piece = call["function"]["arguments"].as_str().unwrap();
                calls[index]["function"]["arguments"] = json!(before + piece);
            }
        }
        let blocks = delta["thinking_blocks"].as_array().into_iter().flatten().cloned();
        message["thinking_blocks"].as_array_mut().unwrap().extend(blocks);
    }
    message
}

/// The message that the events of Messages tell, put together as Anthropic's clients do.
pub fn told(events: &[Event]) -> Value {
    let mut message = Value::Null;
    for event in events {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(data["type"], event.name.as_str());
        let index = usize::try_from(data["index"].as_u64().unwrap_or(0)).unwrap();
        match event.name.as_str() {
            "message_start" => message = data["message"].clone(),
            "content_block_start" => {
                let blocks = message["content"].as_array_mut().unwrap();
                assert_eq!(blocks.len(), index);
                blocks.push(data["content_block"].clone());
            }
            "content_block_delta" => {
                for (piece, whole) in [
                    ("text", "text"),
                    ("thinking", "thinking"),
                    ("signature", "signature"),
                    ("partial_json", "json"),
                ] {
                    if let Some(text) = data["delta"][piece].as_str() {
                        let block = &mut message["content"][index];
                        let before = block[whole].as_str().unwrap_or_default().to_owned();
                        block[whole] = json!(before + text);
                    }
                }
            }
            "content_block_stop" => {
                let block = message["content"][index].as_object_mut().unwrap();
                if let Some(json) = block.remove("json") {
                    let input = serde_json::from_str(json.as_str().unwrap()).unwrap();
                    block.insert("input".to_owned(), input);
                }
            }
            "message_delta" => {
                message["stop_reason"] = data["delta"]["stop_reason"].clone();
                message["stop_sequence"] = data["delta"]["stop_sequence"].clone();
                for (name, count) in data["usage"].as_object().unwrap() {
                    message["usage"][name] = count.clone();
                }
            }
            _ => {}
        }
    }
    assert_eq!(events.last().unwrap().name, "message_stop");
    message
}

/// A stream of chat completions that ended with an error.
pub fn is_broken_chat(events: &[Event]) {
    let last = events.last().unwrap();
    let data: Value = serde_json::from_str(&last.data).unwrap();
    assert_eq!(last.name, "error", "{events:?}");
    assert!(data["error"]["type"].is_string(), "{data}");
    assert!(events.iter().all(|event| event.data != "[DONE]"), "{events:?}");
}

/// A stream of Messages that ended with an error.
pub fn is_broken_message(events: &[Event]) {
    let last = events.last().unwrap();
    let data: Value = serde_json::from_str(&last.data).unwrap();
    assert_eq!((last.name.as_str(), &data["type"]), ("error", &json!("error")));
    assert!(events.iter().all(|event| event.name != "message_stop"), "{events:?}");
}
