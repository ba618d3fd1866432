//! What is behind a model: which protocol its provider speaks, and what is learnt from an answer.

pub mod openai;

use shared::resource::{Adapter, DirectModel, ProviderKey};

/// What a provider's answer has told so far. Text that a provider chose is cut to [`TEXT_CHARS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Id of the answer.
    pub id: String,
    /// The model that the provider says it was.
    pub model: String,
    /// Why the answer ended.
    pub finish_reason: String,
    /// The provider's own count.
    pub usage: Option<TokenUsage>,
    /// UTF-8 bytes of generated text, for an estimate where there is no count.
    pub text_bytes: usize,
}

/// Longest text taken over from a provider into usage and logs, in characters.
pub const TEXT_CHARS_MAX: usize = 256;

/// Tokens as a provider counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens of the answer.
    pub completion: u32,
    /// Part of the prompt that was cached.
    pub cached_prompt: u32,
    /// Part of the answer spent on reasoning.
    pub reasoning: u32,
}

/// An error that a provider told in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderError {
    /// What it says.
    pub message: String,
    /// Its code, if any.
    pub code: Option<String>,
    /// The parameter that it complains of, if any.
    pub param: Option<String>,
    /// The HTTP status that it names itself, if any.
    pub status: Option<u16>,
}

/// The protocol of the provider: what the provider key says, else what follows from the vendor. Vendors without a
/// protocol of their own speak OpenAI's.
pub fn adapter(model: &DirectModel, provider_key: &ProviderKey) -> Adapter {
    if let Some(adapter) = provider_key.adapter {
        return adapter;
    }
    let vendor = if model.provider.is_empty() { &provider_key.provider } else { &model.provider };
    match vendor.as_str() {
        "anthropic" => Adapter::Anthropic,
        "bedrock" | "aws-bedrock" | "amazon-bedrock" => Adapter::Bedrock,
        "vertex" | "vertex-ai" | "google-vertex" => Adapter::Vertex,
        "azure" | "azure-openai" => Adapter::AzureOpenAi,
        _ => Adapter::OpenAi,
    }
}
