//! An answer that comes in pieces.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::{Answer, Stop};
use crate::provider::{ProviderError, TokenUsage};
use crate::request::UpstreamError;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The answer begins.
    Start {
        /// The provider's id of it; empty if it gives none.
        id: String,
        /// The model that the provider says it is; empty if it says nothing.
        model: String,
    },
    /// A piece of text.
    Text(String),
    /// A piece of what the model thinks.
    Reasoning(String),
    /// The provider's signature of what the model has thought since it began to.
    Signature(String),
    /// What the model has thought and does not show; opaque.
    HiddenReasoning(String),
    /// A call of a tool begins. Until the next one begins, pieces of arguments are its own.
    ToolCall {
        /// By what the result will refer to it.
        id: String,
        /// Which tool.
        name: String,
    },
    /// A piece of the JSON text of a call's arguments.
    Arguments(String),
    /// The answer is complete as far as it goes; only its count may still come.
    Stop(Stop),
    /// The provider's count so far; a later one takes its place.
    Usage(TokenUsage),
    /// The provider says that it cannot go on.
    Error(ProviderError),
    /// The provider has said its last word.
    End,
}

/// Understands a provider's answer. One value reads one answer.
pub trait Decoder {
    /// Whether an answer of this content type is a stream.
    fn is_stream(&self, content_type: &HeaderValue) -> bool;

    /// What the body of an answer with an error's status tells; `None` if that is not understood.
    fn error(&self, body: &[u8]) -> Option<ProviderError>;

    /// Reads an answer that is no stream.
    ///
    /// # Errors
    /// [`UpstreamError::Decode`] if it is no answer.
    fn whole(&mut self, body: &[u8]) -> Result<Answer, UpstreamError>;

    /// Reads the next bytes of a stream, cut anywhere, and adds what they tell.
    ///
    /// # Errors
    /// [`UpstreamError::Decode`] if the stream cannot be understood any further.
    fn portion(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), UpstreamError>;

    /// The provider has ended its answer. Whether it was complete is told by what was told before: [`Event::Stop`].
    ///
    /// # Errors
    /// [`UpstreamError::Decode`] if what was left cannot be understood.
    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), UpstreamError>;
}

/// Tells an answer in a caller's dialect. One value tells one answer.
pub trait Encoder {
    /// The body of an answer that is no stream.
    fn whole(&mut self, answer: &Answer) -> Bytes;

    /// Adds what the caller is sent for a piece of a stream, if anything. Of [`Event::Error`] it is told by the relay.
    fn event(&mut self, event: &Event, out: &mut BytesMut);
}
