//! What is sent to a caller, with what must live until the last byte of it.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

/// Bytes that come over time. Dropped before its end, it means that the caller has gone.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Broken>>>>;

/// An answer that cannot go on: the caller's connection (HTTP/2: its stream) breaks, so that nobody takes it for complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot go on")]
pub struct Broken;

/// The body of an answer.
pub struct Body {
    content: Content,
    held: Vec<Box<dyn Any>>,
}

enum Content {
    Whole(Bytes),
    Stream(ByteStream),
}

impl Body {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// Bytes that come over time.
    pub fn stream(stream: ByteStream) -> Self {
        Self { content: Content::Stream(stream), held: Vec::new() }
    }

    /// Keeps `guard` until the last byte is handed over, or the caller has gone.
    pub fn hold(&mut self, guard: impl Any) {
        self.held.push(Box::new(guard));
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self { content: Content::Whole(bytes.into()), held: Vec::new() }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(stream) => {
                let next = stream.as_mut().poll_next(context);
                next.map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}
