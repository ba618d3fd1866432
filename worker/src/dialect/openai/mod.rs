//! OpenAI's dialect.

mod error;
mod endpoint;
mod request;

pub use error::Envelope;
pub use endpoint::{form, plain, response};
pub use request::{completions_like, text_bytes};
