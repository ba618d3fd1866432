//! What is sent to a caller, with what must live until the last byte of it.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

/// So much is handed over at a time. It is copied behind its head, so that both go out in one write of one piece of memory: for
/// what is small, nearly everything, that is less work than a list of pieces. What is large must not make a large copy.
const PIECE_BYTES_MAX: usize = 64 * 1024;

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
    /// What comes next of it, and what has come of it already.
    Stream(ByteStream, Bytes),
}

impl Body {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// Bytes that come over time.
    pub fn stream(stream: ByteStream) -> Self {
        Self { content: Content::Stream(stream, Bytes::new()), held: Vec::new() }
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
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(piece(bytes))))),
            Content::Stream(stream, bytes) => {
                if bytes.is_empty() {
                    match ready!(stream.as_mut().poll_next(context)) {
                        Some(Ok(next)) => *bytes = next,
                        Some(Err(broken)) => return Poll::Ready(Some(Err(broken))),
                        None => return Poll::Ready(None),
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(piece(bytes)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(..) => SizeHint::default(),
        }
    }
}

/// Takes the next piece off.
fn piece(bytes: &mut Bytes) -> Bytes {
    if bytes.len() <= PIECE_BYTES_MAX {
        return std::mem::take(bytes);
    }
    bytes.split_to(PIECE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;
    use crate::server::tests::run;

    #[test]
    fn what_is_large_is_handed_over_in_pieces_and_nothing_of_it_is_lost() {
        run(async {
            let large: Vec<u8> = (0..3 * PIECE_BYTES_MAX + 7).map(|n| (n % 251) as u8).collect();
            let large = Bytes::from(large);
            let parts = [large.clone(), Bytes::from_static(b"end")].map(Ok);
            let streamed = Body::stream(Box::pin(stream::iter(parts)));
            let expected = [&large[..], b"end"].concat();
            for (mut body, expected) in
                [(Body::from(large.clone()), large.to_vec()), (streamed, expected)]
            {
                let mut all = Vec::new();
                while let Some(frame) = body.frame().await {
                    let data = frame.unwrap().into_data().unwrap();
                    assert!(!data.is_empty() && data.len() <= PIECE_BYTES_MAX);
                    all.extend_from_slice(&data);
                }
                assert!(all == expected);
            }
        });
    }
}
