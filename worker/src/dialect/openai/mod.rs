//! OpenAI's dialect.

mod content;
mod conversation;
mod encoder;
mod error;
mod request;

pub use conversation::conversation;
pub use encoder::ChatCompletions;
pub use error::Envelope;
pub use request::{completions_like, text_bytes};
