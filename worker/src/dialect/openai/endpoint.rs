//! Requests to OpenAI's endpoints other than chat, read only as far as the gateway acts on them.

use bytes::Bytes;

use super::{completions_like, text_bytes};
use crate::call::{Call, Form, Operation};
use crate::json::JsonBody;
use crate::multipart::Fields;
use crate::request::RequestError;

/// A JSON body with a model, and a member `content` that must be there.
///
/// # Errors
/// [`RequestError::Invalid`] with the reason.
pub fn plain(operation: Operation, content: &str, body: JsonBody) -> Result<Call, RequestError> {
    let call = completions_like(operation, content, body)?;
    let is_stream = match operation {
        // Sound comes as it is made.
        Operation::Speech => true,
        Operation::Embeddings | Operation::Rerank => false,
        _ => call.is_stream,
    };
    Ok(Call { is_stream, ..call })
}

/// A body of `/v1/responses`: what is asked may be in `input`, or in a template that the provider keeps.
///
/// # Errors
/// [`RequestError::Invalid`] with the reason.
pub fn response(body: JsonBody) -> Result<Call, RequestError> {
    let content = ["input", "prompt"].into_iter().find(|name| body.get(name).is_some());
    let call = completions_like(Operation::Responses, content.unwrap_or("input"), body)?;
    let instructions = call.json().and_then(|body| body.get("instructions"));
    let prompt_bytes = call.prompt_bytes + instructions.map_or(0, text_bytes);
    Ok(Call { wants_usage: false, prompt_bytes, ..call })
}

/// A form with a model.
///
/// # Errors
/// [`RequestError::Invalid`] with the reason.
pub fn form(operation: Operation, content_type: &str, bytes: Bytes) -> Result<Call, RequestError> {
    let invalid = RequestError::Invalid;
    let fields = Fields::parse(content_type, &bytes).map_err(invalid)?;
    let model = fields.text("model").map_err(invalid)?.unwrap_or_default().to_owned();
    if model.is_empty() {
        return Err(invalid("invalid request body: missing field `model`".to_owned()));
    }
    let is_stream = fields.text("stream").map_err(invalid)? == Some("true");
    let prompt_bytes = fields.text("prompt").map_err(invalid)?.map_or(0, str::len);
    let form = Form::Multipart { content_type: content_type.to_owned(), bytes };
    Ok(Call { operation, model, is_stream, wants_usage: false, prompt_bytes, form })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &'static str) -> JsonBody {
        JsonBody::parse(Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn an_endpoint_asks_for_what_it_is_about_and_nothing_else() {
        let call = plain(
            Operation::Embeddings,
            "input",
            json(r#"{"model":"m","input":[1],"stream":true}"#),
        );
        assert!(!call.unwrap().is_stream);
        let error = plain(Operation::Rerank, "query", json(r#"{"model":"m"}"#)).unwrap_err();
        assert!(error.to_string().contains("missing field `query`"), "{error}");
        let call = response(json(r#"{"model":"m","prompt":{"id":"p"},"instructions":"abcd"}"#));
        assert!(call.unwrap().prompt_bytes > 5);
        assert!(response(json(r#"{"model":"m"}"#)).is_err());
    }

    #[test]
    fn a_form_tells_its_model_and_whether_it_wants_a_stream() {
        let part = |name: &str, value: &str| {
            format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let read = |parts: &[String]| {
            let body = parts.concat() + "--b--";
            form(Operation::Transcriptions, "multipart/form-data; boundary=b", body.into())
        };
        let call = read(&[part("model", "whisper"), part("stream", "true"), part("prompt", "abc")]);
        let call = call.unwrap();
        assert_eq!((call.model.as_str(), call.is_stream, call.prompt_bytes), ("whisper", true, 3));
        assert!(read(&[part("stream", "true")]).is_err());
        assert!(read(&[part("model", "")]).is_err());
    }
}
