//! OpenAI, and every provider that is compatible with it.

mod request;
mod response;
mod stream;

pub use request::{RequestBuildError, chat};
pub use response::{provider_error, read_answer};
pub use stream::{Chunk, read_chunk};
