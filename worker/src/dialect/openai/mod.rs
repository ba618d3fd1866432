//! OpenAI's dialect.

mod content;
mod conversation;
mod encoder;
mod endpoint;
mod error;
mod request;
pub mod responses;

pub use conversation::conversation;
pub use encoder::ChatCompletions;
pub use endpoint::{form, plain, response};
pub use error::Envelope;
pub use request::{completions_like, text_bytes};
