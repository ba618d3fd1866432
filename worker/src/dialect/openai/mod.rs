//! OpenAI's dialect.

mod content;
mod conversation;
mod encoder;
mod error;
mod endpoint;
mod request;
pub mod responses;

pub use conversation::conversation;
pub use encoder::ChatCompletions;
pub use error::Envelope;
pub use endpoint::{form, plain, response};
pub use request::{completions_like, text_bytes};
