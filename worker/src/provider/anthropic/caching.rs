//! Marks for the provider's prompt cache in a request that has none of its own.
//!
//! Two of them: behind what is the same in every request of an application (tools and system prompt), and behind the last
//! turn, so that the next request of a conversation finds everything before its own last turn.
//! <https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching>

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::resource::PromptCaching;

use crate::json::{Edit, JsonBody};

/// Adds the marks, unless the caller has set any.
pub fn mark(body: &JsonBody, edit: &mut Edit<'_>, lifetime: PromptCaching) {
    // Inside of a text the quotes would be escaped.
    if memchr::memmem::find(body.bytes(), b"\"cache_control\"").is_some() {
        return;
    }
    let mark = match lifetime {
        PromptCaching::FiveMinutes => r#"{"type":"ephemeral"}"#,
        PromptCaching::OneHour => r#"{"type":"ephemeral","ttl":"1h"}"#,
    };
    let is_marked = body.get("system").is_some_and(|system| mark_content(system, edit, mark));
    if !is_marked && let Some(tool) = body.get("tools").and_then(last) {
        mark_block(tool, edit, mark);
    }
    if let Some(message) = body.get("messages").and_then(last)
        && let Ok(message) = serde_json::from_str::<Message<'_>>(message)
    {
        mark_content(message.content.get(), edit, mark);
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

/// Marks the last block of a content, which may be only a text. Whether there is a mark now.
fn mark_content(content: &str, edit: &mut Edit<'_>, mark: &str) -> bool {
    if content.starts_with('"') {
        if content == r#""""# {
            return false;
        }
        let block = format!(r#"[{{"type":"text","text":{content},"cache_control":{mark}}}]"#);
        edit.splice(content, block);
        return true;
    }
    let Some(block) = last(content) else { return false };
    let Ok(read) = serde_json::from_str::<Block<'_>>(block) else { return false };
    // Thoughts cannot be marked, nor can an empty text.
    let can_be = match &*read.kind {
        "text" => read.text.is_some_and(|text| !text.is_empty()),
        kind => matches!(kind, "image" | "document" | "tool_use" | "tool_result"),
    };
    can_be && mark_block(block, edit, mark)
}

fn mark_block(block: &str, edit: &mut Edit<'_>, mark: &str) -> bool {
    let is_object = block.starts_with('{') && block.contains(':');
    if is_object {
        edit.insert_into(block, format!(r#""cache_control":{mark},"#));
    }
    is_object
}

/// The last item of a list, as it is written.
fn last(list: &str) -> Option<&str> {
    let items: Vec<&RawValue> = serde_json::from_str(list).ok()?;
    items.last().map(|item| item.get())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn marked(body: &Value, lifetime: PromptCaching) -> Value {
        let body = JsonBody::parse(Bytes::from(body.to_string())).unwrap();
        let mut edit = body.edit();
        mark(&body, &mut edit, lifetime);
        serde_json::from_slice(&edit.finish()).unwrap()
    }

    #[test]
    fn the_end_of_the_system_prompt_and_of_the_conversation_are_marked() {
        let mark = json!({"type": "ephemeral"});
        let body = json!({"system": "be brief", "tools": [{"name": "t"}],
            "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [
                {"type": "text", "text": "b"}, {"type": "tool_result", "tool_use_id": "x"}]}]});
        let told = marked(&body, PromptCaching::FiveMinutes);
        assert_eq!(
            told["system"],
            json!([{"type": "text", "text": "be brief", "cache_control": mark}])
        );
        assert_eq!(told["tools"], body["tools"]);
        assert_eq!(told["messages"][0], body["messages"][0]);
        assert_eq!(told["messages"][1]["content"][0], body["messages"][1]["content"][0]);
        assert_eq!(told["messages"][1]["content"][1]["cache_control"], mark);
    }

    #[test]
    fn without_a_system_prompt_the_tools_are_marked_and_the_lifetime_is_told() {
        let body = json!({"tools": [{"name": "s"}, {"name": "t"}],
            "messages": [{"role": "user", "content": "a"}]});
        let told = marked(&body, PromptCaching::OneHour);
        let mark = json!({"type": "ephemeral", "ttl": "1h"});
        assert_eq!(told["tools"][0], json!({"name": "s"}));
        assert_eq!(told["tools"][1], json!({"name": "t", "cache_control": mark}));
        assert_eq!(told["messages"][0]["content"][0]["cache_control"], mark);
    }

    #[test]
    fn a_request_with_a_mark_of_its_own_stays_as_it_is() {
        let own = json!({"system": "s", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}]});
        assert_eq!(marked(&own, PromptCaching::OneHour), own);
        let spoken_of = json!({"messages": [{"role": "user", "content": "\"cache_control\""}]});
        assert_ne!(marked(&spoken_of, PromptCaching::OneHour), spoken_of);
        let thoughts = json!({"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "a", "signature": "b"}]}]});
        assert_eq!(marked(&thoughts, PromptCaching::OneHour), thoughts);
    }

    proptest! {
        #[test]
        fn whatever_the_members_are_the_body_stays_json(
            system in "(\"[a]{0,2}\"|\\[\\]|\\[1\\]|\\[\\{\\}\\]|7|\\{\\})",
            tools in "(\\[\\]|\\[\\{\\}\\]|\\[\\{\"a\":1\\}\\]|1)",
            content in "(\"\"|\"a\"|\\[\\]|\\[\\{\"type\":\"text\"\\}\\]|\\[\\{ \"type\" : \"image\" \\}\\]|null)",
        ) {
            let text = format!(r#"{{"system":{system},"tools":{tools},"messages":[{{"content":{content}}}]}}"#);
            let body: Value = serde_json::from_str(&text).unwrap();
            let _ = marked(&body, PromptCaching::FiveMinutes);
        }
    }
}
