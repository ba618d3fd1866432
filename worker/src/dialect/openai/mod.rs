//! OpenAI's dialect.

mod error;
mod request;

pub use error::Envelope;
pub use request::{completions_like, text_bytes};
