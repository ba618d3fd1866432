//! Anthropic's dialect, Messages. As documented at <https://docs.anthropic.com/en/api/messages>.

mod content;
mod conversation;
mod encoder;
mod error;
mod request;

pub use conversation::conversation;
pub use encoder::Messages;
pub use error::Envelope;
pub use request::{estimate, messages_like};
