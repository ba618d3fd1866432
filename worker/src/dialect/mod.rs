//! What callers speak: how a request is read, how an answer and an error are told. All the work is in `request`.

pub mod anthropic;
pub mod fields;
pub mod openai;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::call::{Call, Operation};
use crate::chat::{Conversation, Encoder};
use crate::request::RequestError;

/// A dialect that callers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's, and whatever has no dialect of its own.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
}

impl Dialect {
    /// The word for it in usage and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// The body of an error answer, JSON.
    pub fn envelope(self, error: &RequestError) -> Vec<u8> {
        let envelope = match self {
            Self::OpenAi => serde_json::to_vec(&openai::Envelope::from(error)),
            Self::Anthropic => serde_json::to_vec(&anthropic::Envelope::from(error)),
        };
        // Nothing in an envelope can fail to serialize.
        envelope.unwrap_or_default()
    }
}

/// The conversation that a call is about, for a provider that speaks another dialect than the caller.
///
/// # Errors
/// What is wrong with it ([`RequestError::Invalid`]), or that this operation is about none ([`RequestError::NotOffered`]).
pub fn conversation(call: &Call) -> Result<Conversation, RequestError> {
    match call.operation {
        Operation::ChatCompletions => openai::conversation(call),
        Operation::Messages => anthropic::conversation(call),
        Operation::Responses => openai::responses::conversation(call),
        operation => Err(RequestError::NotOffered(operation)),
    }
}

/// Tells an answer in the words that the call's operation has for it. `None` if it is about no conversation.
pub fn encoder(call: &Call) -> Option<Box<dyn Encoder>> {
    let (id, model) = (Uuid::new_v4().simple(), call.model.clone());
    match call.operation {
        Operation::ChatCompletions => Some(Box::new(openai::ChatCompletions::new(
            format!("chatcmpl-{id}"),
            model,
            OffsetDateTime::now_utc().unix_timestamp(),
            call.wants_usage,
        ))),
        Operation::Messages => Some(Box::new(anthropic::Messages::new(format!("msg_{id}"), model))),
        Operation::Responses => Some(Box::new(openai::responses::Responses::new(
            call,
            id.to_string(),
            OffsetDateTime::now_utc().unix_timestamp(),
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
