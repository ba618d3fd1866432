//! Which texts in JSON are content, and which only say what something is: those are not looked at, and never masked.

use super::strings::{Id, Kind, Strings};

/// Members whose text is no content: what something is called, where it is, or bytes in base64.
const LABELS: &[&str] = &[
    "b64_json",
    "call_id",
    "container_id",
    "detail",
    "encoding",
    "encrypted_content",
    "file_data",
    "file_id",
    "file_url",
    "finish_reason",
    "format",
    "id",
    "image_url",
    "item_id",
    "media_type",
    "mime_type",
    "model",
    "name",
    "obfuscation",
    "object",
    "partial_image_b64",
    "response_id",
    "role",
    "signature",
    "status",
    "stop_reason",
    "stop_sequence",
    "thought_signature",
    "tool_call_id",
    "tool_use_id",
    "type",
    "url",
];

/// Members in which nothing is content.
const LABELLED: &[&str] = &["cache_control", "logprobs"];

/// Members that are content of anybody's making, where they are objects: nothing in them is a label.
const FREE: &[&str] = &["arguments", "input", "variables"];

/// Whether a text is content.
pub fn is_content(strings: &Strings<'_>, id: Id) -> bool {
    let mut is_label = None;
    let mut value = Some(id);
    while let Some(id) = value {
        let name = strings.name(id);
        if strings.kind(id) == Kind::Object && FREE.contains(&name) {
            return true;
        }
        if LABELLED.contains(&name) {
            is_label = Some(true);
        }
        // A text in a list is called as the list is.
        if is_label.is_none() && !name.is_empty() {
            let is_base64 = name == "data" && !is_text_source(strings, id);
            is_label = Some(is_base64 || LABELS.contains(&name));
        }
        value = strings.parent(id);
    }
    !is_label.unwrap_or(false)
}

/// Whether the text is JSON itself, which must stay so.
pub fn is_json(strings: &Strings<'_>, id: Id) -> bool {
    matches!(strings.name(id), "arguments" | "partial_json")
}

/// Anthropic's documents have plain text where others have base64.
fn is_text_source(strings: &Strings<'_>, data: Id) -> bool {
    let kind = strings.parent(data).and_then(|parent| strings.member(parent, "type"));
    kind.is_some_and(|kind| strings.raw(kind) == "\"text\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(json: &str) -> Vec<String> {
        let strings = Strings::find(json).unwrap();
        let contents = strings.texts().filter(|id| is_content(&strings, *id));
        contents.map(|id| strings.text(id)).collect()
    }

    #[test]
    fn content_is_told_from_labels() {
        assert_eq!(
            contents(
                r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:x"}}]},
                {"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"b"}}]},
                {"role":"tool","tool_call_id":"1","content":"c"}]"#
            ),
            ["a", "b", "c"]
        );
        assert_eq!(
            contents(
                r#"[{"type":"tool_use","id":"1","name":"f","input":{"name":"a","list":["b",{"id":"c"}]}},
                {"type":"document","source":{"type":"text","media_type":"text/plain","data":"d"}},
                {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},
                {"type":"tool_result","tool_use_id":"1","content":["e"]},
                {"type":"thinking","thinking":"f","signature":"x"}]"#
            ),
            ["a", "b", "c", "d", "e", "f"]
        );
        assert_eq!(contents(r#"{"logprobs":{"content":[{"token":"x"}]},"text":"a"}"#), ["a"]);
    }
}
