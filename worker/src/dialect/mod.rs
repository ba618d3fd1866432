//! What callers speak: how a request is read and how an error is told. All the work is in `request`.

mod anthropic;
pub mod openai;

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
