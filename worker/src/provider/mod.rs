//! What is behind a model: how its provider is asked, and what is learnt from an answer. A folder for each protocol.
//!
//! A new protocol: a folder with a function that makes an [`Exchange`], a line in [`exchange`], and its adapter in `shared`.

mod alike;
mod anthropic;
mod azure;
#[cfg(feature = "bedrock")]
mod bedrock;
mod gather;
pub mod openai;
mod outgoing;
mod overrides;
mod value;
pub mod vertex;

use std::net::IpAddr;

pub use outgoing::Template;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use shared::resource::{Adapter, ApiKey, DirectModel, ProviderKey};

use crate::call::Call;
use crate::request::{RequestError, Target, UpstreamError};
use crate::server::Proxy;
use crate::upstream::Outgoing;

/// What a provider's answer has told so far. Text that a provider chose is cut to [`TEXT_CHARS_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Id of the answer.
    pub id: String,
    /// The model that the provider says it was.
    pub model: String,
    /// Why the answer ended; empty until it has.
    pub finish_reason: String,
    /// The provider's own count.
    pub usage: Option<TokenUsage>,
    /// UTF-8 bytes of generated text, for an estimate where there is no count.
    pub text_bytes: usize,
    /// Whether anything of the answer itself has come.
    pub has_begun: bool,
    /// Seconds of sound that were worked on, where the provider says so.
    pub audio_seconds: f64,
}

/// Longest text taken over from a provider into usage and logs, in characters.
pub const TEXT_CHARS_MAX: usize = 256;

/// Tokens as a provider counts them. The prompt's are those that the caller is charged for in full: what an Anthropic cache
/// has written or read is beside them, what an OpenAI cache has read is among them.
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
    /// Written to the provider's cache, beside the prompt.
    pub cache_creation: u32,
    /// Read from the provider's cache, beside the prompt.
    pub cache_read: u32,
    /// Part of the prompt that was sound.
    pub audio_prompt: u32,
    /// Part of the answer that was sound.
    pub audio_completion: u32,
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

/// What is known of a request beside the call, while it is written for a provider.
pub struct Context<'a> {
    /// The worker.
    pub proxy: &'a Proxy,
    /// The id of the request.
    pub request_id: &'a HeaderValue,
    /// The caller's headers.
    pub headers: &'a HeaderMap,
    /// Who calls.
    pub caller: Option<&'a ApiKey>,
    /// From where.
    pub client_ip: IpAddr,
}

/// A request to a provider, and how its answer is read.
pub struct Exchange {
    /// What is sent.
    pub request: Outgoing,
    /// Reads what comes back.
    pub reading: Box<dyn Reading>,
}

/// Reads one answer of a provider and makes of it what the caller is sent. One value reads one answer.
pub trait Reading {
    /// Whether an answer of this content type is the stream that was asked for.
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        is_event_stream(content_type)
    }

    /// What the stream is for the caller; `None` = what the provider says.
    fn stream_type(&self) -> Option<HeaderValue> {
        None
    }

    /// Whether the stream consists of server-sent events. To one that does not nothing is added, and where it fails it is
    /// broken off.
    fn is_events(&self) -> bool {
        true
    }

    /// An answer that is no stream.
    ///
    /// # Errors
    /// [`UpstreamError::Decode`] if it is no answer; [`UpstreamError::InBand`] if it is an error with a good status.
    fn whole(&mut self, body: Bytes, seen: &mut Seen) -> Result<Whole, UpstreamError>;

    /// How many of the next bytes of a stream, cut anywhere, are whole events that the caller is sent as they came, as far as
    /// that is seen without reading them. They are taken with it; the others are for [`Reading::portion`].
    fn alike(&mut self, bytes: &[u8], seen: &mut Seen) -> usize {
        let _ = (bytes, seen);
        0
    }

    /// Takes the next bytes of a stream, cut anywhere, and adds what the caller is sent.
    ///
    /// # Errors
    /// [`UpstreamError::Decode`] if it cannot be understood, [`UpstreamError::InBand`] if the provider tells an error in it.
    fn portion(
        &mut self,
        bytes: &[u8],
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<Progress, UpstreamError>;

    /// The provider has ended the stream.
    ///
    /// # Errors
    /// [`UpstreamError::Cut`] if it was not complete.
    fn end(&mut self, seen: &mut Seen, out: &mut BytesMut) -> Result<(), UpstreamError>;

    /// What the body of an answer with an error's status tells; `None` if that is not understood.
    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        openai::provider_error(body)
    }
}

/// An answer for the caller.
pub struct Whole {
    /// Its body.
    pub body: Bytes,
    /// What it is; `None` = what the provider says.
    pub content_type: Option<HeaderValue>,
}

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More may come.
    More,
    /// It is complete, and so is what the caller is sent. What still comes is not for the caller.
    Done,
}

/// The request to the provider of the target, for a call.
///
/// # Errors
/// That this provider does not offer such a thing, that the caller asks for what it has no words for, or that model or
/// provider key are not usable as they are configured.
pub async fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    match target.adapter {
        Adapter::OpenAi => openai::exchange(call, target, context),
        Adapter::Anthropic => anthropic::exchange(call, target, context),
        Adapter::AzureOpenAi => azure::exchange(call, target, context),
        Adapter::Vertex => vertex::exchange(call, target, context).await,
        #[cfg(feature = "bedrock")]
        Adapter::Bedrock => bedrock::exchange(call, target, context),
        #[cfg(not(feature = "bedrock"))]
        Adapter::Bedrock => Err(RequestError::NoBridge(target.provider.clone())),
    }
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

/// Whether an answer is a stream of server-sent events.
pub fn is_event_stream(content_type: &HeaderValue) -> bool {
    let value = content_type.to_str().unwrap_or_default().trim_start().to_ascii_lowercase();
    value.starts_with("text/event-stream")
}

/// Whether a text is of visible ASCII and blanks, and no longer than that: there is nothing to leave out of it.
pub fn is_plain(text: &str, chars_max: usize) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~');
    // Over all bytes, without a way out: many are looked at at a time.
    text.len() <= chars_max && text.bytes().fold(true, |all, byte| all & is_plain(byte))
}

/// A provider's text, fit for usage and logs.
pub fn short(text: &str) -> String {
    if is_plain(text, TEXT_CHARS_MAX) {
        return text.to_owned();
    }
    text.chars().filter(|character| !character.is_control()).take(TEXT_CHARS_MAX).collect()
}
