//! How the body of a request is understood, by what the endpoint offers.
//!
//! A new endpoint: an operation in `call.rs`, its path in `request/route.rs`, and how it is read here.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::call::{Call, Operation};
use crate::dialect::{anthropic, openai};
use crate::json::JsonBody;
use crate::request::{RequestError, is_json};

/// Whether the body is said to be what the endpoint takes.
///
/// # Errors
/// [`RequestError::Invalid`] if it is not.
pub fn content_type(operation: Operation, head: &Parts) -> Result<(), RequestError> {
    match operation {
        Operation::ImageEdits | Operation::Transcriptions | Operation::Translations => Ok(()),
        _ => is_json(head),
    }
}

/// Understands the body.
///
/// # Errors
/// [`RequestError::Invalid`] with the reason.
pub fn read(operation: Operation, head: &Parts, bytes: Bytes) -> Result<Call, RequestError> {
    match operation {
        Operation::ChatCompletions => openai::completions_like(operation, "messages", json(bytes)?),
        Operation::Responses => openai::response(json(bytes)?),
        Operation::Completions | Operation::ImageGenerations => {
            openai::plain(operation, "prompt", json(bytes)?)
        }
        Operation::Embeddings | Operation::Speech => {
            openai::plain(operation, "input", json(bytes)?)
        }
        Operation::Rerank => openai::plain(operation, "query", json(bytes)?),
        Operation::ImageEdits | Operation::Transcriptions | Operation::Translations => {
            let content_type = head.headers.get(CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            openai::form(operation, content_type.unwrap_or_default(), bytes)
        }
        Operation::Messages | Operation::CountTokens => {
            anthropic::messages_like(operation, json(bytes)?)
        }
    }
}

fn json(bytes: Bytes) -> Result<JsonBody, RequestError> {
    JsonBody::parse(bytes).map_err(RequestError::Invalid)
}
