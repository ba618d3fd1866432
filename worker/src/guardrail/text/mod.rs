//! The texts of requests and answers: found in what callers and providers say, and put back as they may go on.

mod body;
mod labels;
mod multipart;
mod shape;
mod stream;
mod strings;

pub use body::{Stop, answer, plain, request};
pub use multipart::multipart;
pub use shape::Shape;
pub use stream::StreamFilter;

#[cfg(test)]
mod tests;
