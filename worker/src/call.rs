//! What a caller asks for, understood as far as the gateway acts on it.

use bytes::Bytes;

use crate::json::JsonBody;

/// A request that spends tokens, on its way to a provider.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it asks for.
    pub operation: Operation,
    /// The model's name as the caller sent it.
    pub model: String,
    /// Whether the answer should be a stream.
    pub is_stream: bool,
    /// Whether the caller asked for a count of tokens at the end of the stream (OpenAI's `stream_options`).
    pub wants_usage: bool,
    /// Bytes of text in it, for estimates.
    pub prompt_bytes: usize,
    /// The body, as it came.
    pub form: Form,
}

/// The body of a call.
#[derive(Clone, Debug)]
pub enum Form {
    /// A JSON object.
    Json(JsonBody),
    /// `multipart/form-data`, with its content type; for endpoints that take files.
    Multipart {
        /// The header, boundary included.
        content_type: String,
        /// The bytes.
        bytes: Bytes,
    },
}

/// What a call asks for: one endpoint each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `/v1/chat/completions`, OpenAI's.
    ChatCompletions,
    /// `/v1/messages`, Anthropic's.
    Messages,
    /// `/v1/messages/count_tokens`, Anthropic's.
    CountTokens,
    /// `/v1/responses`, OpenAI's.
    Responses,
    /// `/v1/completions`, OpenAI's.
    Completions,
    /// `/v1/embeddings`, OpenAI's.
    Embeddings,
    /// `/v1/rerank`, Cohere's.
    Rerank,
    /// `/v1/images/generations`, OpenAI's.
    ImageGenerations,
    /// `/v1/images/edits`, OpenAI's.
    ImageEdits,
    /// `/v1/audio/speech`, OpenAI's.
    Speech,
    /// `/v1/audio/transcriptions`, OpenAI's.
    Transcriptions,
    /// `/v1/audio/translations`, OpenAI's.
    Translations,
}

impl Operation {
    /// The path of its endpoint.
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Responses => "/v1/responses",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::ImageGenerations => "/v1/images/generations",
            Self::ImageEdits => "/v1/images/edits",
            Self::Speech => "/v1/audio/speech",
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
        }
    }
}

impl Call {
    /// The body, if it is JSON.
    pub fn json(&self) -> Option<&JsonBody> {
        match &self.form {
            Form::Json(body) => Some(body),
            Form::Multipart { .. } => None,
        }
    }
}
