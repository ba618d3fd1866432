//! OpenAI, and every provider that is compatible with it.

mod convert;
mod decoder;
mod events;
mod lift;
mod native;
mod request;
mod response;
mod stream;

pub use decoder::ChatDecoder;
pub use events::Events;
pub use native::Native;
pub use request::{body, exchange, exchange_at, is_native, path, reading};
pub use response::{provider_error, read_answer, read_plain};
pub use stream::{Chunk, holes, read_chunk};
