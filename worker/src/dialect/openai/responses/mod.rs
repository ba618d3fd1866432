//! The Responses API for providers that do not speak it: a request is read as a conversation, an answer told as output items.
//!
//! It keeps nothing: what refers to an earlier response, or asks for one to be kept, is refused, and so are the tools that
//! only OpenAI has. What a model has thought comes as items of type `reasoning`, whose `encrypted_content` a caller sends back.

mod encoder;
mod input;
mod items;

pub use encoder::Responses;
pub use input::conversation;

/// Before what a provider has signed, in `encrypted_content`.
const SIGNED: &str = "signed:";
/// Before what a provider does not show.
const HIDDEN: &str = "hidden:";
