//! Anthropic's dialect.

mod error;

pub use error::Envelope;
