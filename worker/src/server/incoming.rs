//! The body of a request, however it comes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::http1::Source;
use crate::http1::{Framing, NotChunked};

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The caller has gone, or has ended its side.
    #[error("the connection ended in the middle of it")]
    Cut,
    /// Its request is over.
    #[error("its request has been answered")]
    Over,
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is no body.
    #[error(transparent)]
    NotChunked(#[from] NotChunked),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// The body of a request.
pub enum Incoming {
    /// All of it is there.
    Whole(Bytes),
    /// It comes over HTTP/1.1.
    Remaining(Remaining),
    /// It comes over HTTP/2.
    Http2(hyper::body::Incoming),
}

/// What is still to come over HTTP/1.1.
pub struct Remaining {
    source: Rc<dyn Source>,
    /// Of which request of the connection it is.
    number: u64,
}

impl Remaining {
    pub(super) fn new(source: Rc<dyn Source>, number: u64) -> Self {
        Self { source, number }
    }

    fn left(&self) -> Framing {
        self.source.left(self.number)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        let next = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Self::Remaining(Remaining { source, number }) => {
                ready!(source.poll_data(*number, context)).map(|data| data.map(Frame::data))
            }
            Self::Http2(body) => {
                ready!(Pin::new(body).poll_frame(context)).map(|frame| frame.map_err(Unread::Http2))
            }
        };
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Remaining(remaining) => remaining.left().is_end(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Remaining(remaining) => match remaining.left() {
                Framing::Length(length) => SizeHint::with_exact(length),
                Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
            },
            Self::Http2(body) => body.size_hint(),
        }
    }
}
