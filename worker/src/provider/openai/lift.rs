//! Reasoning that a provider has in a place of its own, put where this dialect's clients look for it: `reasoning_content`.

use serde_json::Value;

/// The answer or chunk with what is at `path` of each choice, such as `delta.reasoning`, in `reasoning_content` as well; `None`
/// if there is nothing to be put there.
pub fn lifted(json: &[u8], path: &str) -> Option<Value> {
    let mut answer: Value = serde_json::from_slice(json).ok()?;
    let path =
        path.strip_prefix("delta.").or_else(|| path.strip_prefix("message.")).unwrap_or(path);
    let mut is_changed = false;
    for choice in answer.get_mut("choices")?.as_array_mut()? {
        for name in ["delta", "message"] {
            let Some(message) = choice.get_mut(name) else { continue };
            let found = path.split('.').try_fold(&*message, |value, name| value.get(name));
            let found = found.filter(|value| value.is_string()).cloned();
            if let (Some(found), Some(members)) = (found, message.as_object_mut())
                && members.get("reasoning_content").is_none_or(Value::is_null)
            {
                members.insert("reasoning_content".to_owned(), found);
                is_changed = true;
            }
        }
    }
    is_changed.then_some(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasoning_is_found_in_chunks_and_in_whole_answers() {
        for name in ["delta", "message"] {
            let answer =
                json!({"choices": [{name: {"content": "a", "reasoning": {"text": "hm"}}}]});
            let lifted = lifted(answer.to_string().as_bytes(), "delta.reasoning.text").unwrap();
            assert_eq!(lifted["choices"][0][name]["reasoning_content"], "hm");
        }
        let own = br#"{"choices":[{"delta":{"reasoning_content":"a","reasoning":"b"}}]}"#;
        for json in [&own[..], br#"{"choices":[{"delta":{"content":"a"}}]}"#, b"{", b"[DONE]"] {
            assert_eq!(lifted(json, "delta.reasoning"), None);
        }
    }
}
