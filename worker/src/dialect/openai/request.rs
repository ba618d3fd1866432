//! A request in OpenAI's dialect, read only as far as the gateway acts on it.

use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;
use serde_json::Value;

use crate::call::{Call, Form, Operation};
use crate::json::{JsonBody, is_empty_after};
use crate::request::RequestError;

/// What every JSON body of OpenAI's has: a model, perhaps a wish for a stream, and a member `content`, which must be there
/// and not empty and is what tokens are estimated of.
pub fn completions_like(
    operation: Operation,
    content: &str,
    body: JsonBody,
) -> Result<Call, RequestError> {
    let invalid = RequestError::Invalid;
    let model: String =
        body.read_text("model", "a string").map_err(invalid)?.ok_or_else(|| missing("model"))?;
    let text = body.get(content).ok_or_else(|| missing(content))?;
    if content == "messages" && (!text.starts_with('[') || is_empty_after(text, '[', ']')) {
        let reason = "invalid request body: `messages` must be a non-empty array";
        return Err(invalid(reason.to_owned()));
    }
    let is_stream = body.read("stream", "a boolean").map_err(invalid)?.unwrap_or(false);
    let wants_usage = is_stream && wants_usage(&body).map_err(invalid)?;
    let prompt_bytes = text_bytes(text);
    Ok(Call { operation, model, is_stream, wants_usage, prompt_bytes, form: Form::Json(body) })
}

fn missing(name: &str) -> RequestError {
    RequestError::Invalid(format!("invalid request body: missing field `{name}`"))
}

/// Whether the caller asked for a count of tokens at the end of the stream.
fn wants_usage(body: &JsonBody) -> Result<bool, String> {
    let options: Option<Value> = body.read("stream_options", "an object")?;
    match options {
        None => Ok(false),
        Some(Value::Object(options)) => {
            Ok(options.get("include_usage") == Some(&Value::Bool(true)))
        }
        Some(_) => Err("invalid request body: `stream_options` must be an object".to_owned()),
    }
}

/// Size of the messages without images and sounds in them, which are no text: `"data:…"` URLs.
pub fn text_bytes(messages: &str) -> usize {
    static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"data:"));
    let media = DATA.find_iter(messages.as_bytes()).map(|start| {
        let rest = messages.as_bytes().get(start + DATA.needle().len()..).unwrap_or_default();
        memchr(b'"', rest).unwrap_or(rest.len())
    });
    messages.len().saturating_sub(media.sum())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn parse(body: &str) -> Result<Call, String> {
        let body = JsonBody::parse(Bytes::copy_from_slice(body.as_bytes()))?;
        completions_like(Operation::ChatCompletions, "messages", body)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_image_in_a_message_is_no_text() {
        let text = r#"[{"role":"user","content":[{"type":"text","text":"what is this?"}]}]"#;
        let url = format!(r#"{{"url":"data:image/png;base64,{}"}}"#, "A".repeat(100_000));
        let with_image =
            text.replace("]}]", &format!(r#",{{"type":"image_url","image_url":{url}}}]}}]"#));
        assert!(text_bytes(&with_image) < text.len() + 100);
        assert_eq!(text_bytes(text), text.len());
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        for (body, reason) in [
            ("", "not a JSON object"),
            (r#"["m",[1]]"#, "not a JSON object"),
            (r#"{"messages":[1]}"#, "missing field `model`"),
            (r#"{"model":"m"}"#, "missing field `messages`"),
            (r#"{"model":"m","messages":[ ]}"#, "`messages` must be a non-empty array"),
            (r#"{"model":"m","messages":{}}"#, "`messages` must be a non-empty array"),
            (r#"{"model":1,"messages":[1]}"#, "`model` must be a string"),
            (r#"{"model":"m","model":"n","messages":[1]}"#, "comes twice"),
            (r#"{"model":"m","messages":[1],"stream":"yes"}"#, "must be a boolean"),
            (r#"{"model":"m","messages":[1],"stream":true,"stream_options":1}"#, "stream_options"),
            (r#"{"model":"m","messages":[1]} x"#, "trailing characters"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(reason), "{body}: {error}");
        }
        assert!(parse(r#"{"model":"m","messages":[1],"stream":null}"#).is_ok());
    }
}
