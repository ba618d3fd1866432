//! OpenAI, and every provider that is compatible with it.

mod convert;
mod decoder;
mod native;
mod request;
mod response;
mod stream;

pub use decoder::ChatDecoder;
pub use native::Native;
pub use request::exchange;
pub use response::{provider_error, read_answer};
pub use stream::{Chunk, read_chunk};
