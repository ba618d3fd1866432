//! A request in Anthropic's dialect, read only as far as the gateway acts on it.

use crate::call::{Call, Form, Operation};
use crate::json::{JsonBody, is_empty_after};
use crate::request::RequestError;

/// A body of `/v1/messages` or `/v1/messages/count_tokens`: a model, messages that must be there, perhaps a wish for a
/// stream.
///
/// # Errors
/// [`RequestError::Invalid`] with the reason.
pub fn messages_like(operation: Operation, body: JsonBody) -> Result<Call, RequestError> {
    let invalid = |reason: &str| RequestError::Invalid(format!("invalid request body: {reason}"));
    let model: Option<String> = body.read("model", "a string").map_err(RequestError::Invalid)?;
    let model = model.ok_or_else(|| invalid("missing field `model`"))?;
    let messages = body.get("messages").ok_or_else(|| invalid("missing field `messages`"))?;
    if !messages.starts_with('[') || is_empty_after(messages, '[', ']') {
        return Err(invalid("`messages` must be a non-empty array"));
    }
    let is_stream = body.read("stream", "a boolean").map_err(RequestError::Invalid)?;
    let parts = ["system", "messages", "tools"].into_iter().filter_map(|name| body.get(name));
    let prompt_bytes = parts.map(text_bytes).sum();
    Ok(Call {
        operation,
        model,
        is_stream: operation == Operation::Messages && is_stream.unwrap_or(false),
        wants_usage: true,
        prompt_bytes,
        form: Form::Json(body),
    })
}

/// What counting tokens brings where the provider does not count them: an estimate, a token for every four bytes of text.
pub fn estimate(call: &Call) -> Vec<u8> {
    format!(r#"{{"input_tokens":{}}}"#, call.prompt_bytes.div_ceil(4)).into_bytes()
}

/// Size of a part of the body without images and documents in it, which are no text: `data` in base64.
fn text_bytes(json: &str) -> usize {
    const DATA: &str = "\"data\"";
    let media = json.match_indices(DATA).map(|(start, _)| {
        let rest = json.get(start + DATA.len()..).unwrap_or_default().trim_start();
        let Some(rest) = rest.strip_prefix(':') else { return 0 };
        let Some(rest) = rest.trim_start().strip_prefix('"') else { return 0 };
        let value = rest.split('"').next().unwrap_or_default();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
        if value.bytes().all(is_base64) { value.len() } else { 0 }
    });
    json.len().saturating_sub(media.sum())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn parse(body: &str) -> Result<Call, String> {
        let body = JsonBody::parse(Bytes::copy_from_slice(body.as_bytes()))?;
        messages_like(Operation::Messages, body).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        for (body, reason) in [
            (r#"{"messages":[1]}"#, "missing field `model`"),
            (r#"{"model":"m"}"#, "missing field `messages`"),
            (r#"{"model":"m","messages":[]}"#, "non-empty array"),
            (r#"{"model":7,"messages":[1]}"#, "`model` must be a string"),
            (r#"{"model":"m","messages":[1],"stream":1}"#, "`stream` must be a boolean"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(reason), "{body}: {error}");
        }
        assert!(parse(r#"{"model":"m","messages":[1],"stream":true}"#).unwrap().is_stream);
    }

    #[test]
    fn the_estimate_counts_system_and_tools_but_no_image() {
        let text = r#"{"model":"m","messages":[1],"system":"abcdef","tools":[]}"#;
        let call = parse(text).unwrap();
        assert_eq!(call.prompt_bytes, "[1]".len() + "\"abcdef\"".len() + "[]".len());
        assert_eq!(estimate(&call), br#"{"input_tokens":4}"#);
        let image = format!(r#"{{"model":"m","messages":[{{"data" : "{}"}}]}}"#, "A".repeat(9999));
        assert_eq!(parse(&image).unwrap().prompt_bytes, r#"[{"data" : ""}]"#.len());
        let words = r#"{"model":"m","messages":[{"data":"not base64"}]}"#;
        assert_eq!(parse(words).unwrap().prompt_bytes, r#"[{"data":"not base64"}]"#.len());
    }
}
