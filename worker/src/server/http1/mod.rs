//! HTTP/1.1 with a caller: one request after the other, each from its head to the last byte of its answer (RFC 9112).
//!
//! Of most requests nothing has to be read again: over one connection their heads are the same but for the length of the body.

mod answer;
mod head;
#[cfg(test)]
mod tests;
mod wire;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::request::Parts;
use http::{Response, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Body;
use super::activity::Activity;
use super::incoming::Incoming;
use crate::http1::Taken;
use crate::turn;
use answer::{Asked, Sending};
use head::Head;

pub use head::Kept;
pub use wire::{Source, Wire};

/// Reads requests one after the other as a connection does, and keeps nothing: for those who try what can be sent. A head that is
/// known from the one before is the same as one that is not.
pub fn look_at(bytes: &[u8]) {
    let (mut inbox, mut known) = (BytesMut::from(bytes), None::<Kept>);
    while let Some(end) = crate::http1::end(&inbox, 0) {
        let again = known.as_mut().and_then(|known| known.again(&mut inbox.clone()));
        let read = head::read(&inbox.split_to(end).freeze());
        if let Some(again) = again {
            let anew = read.as_ref().map(|(anew, _)| format!("{anew:?}"));
            assert!(anew == Ok(format!("{again:?}")), "{again:?} was read for {anew:?}");
        }
        let Ok((Head { mut framing, .. }, next)) = read else { return };
        known = next;
        loop {
            match framing.take(&mut inbox) {
                Ok(Taken::Data(_)) => {}
                Ok(Taken::End) => break,
                Ok(Taken::Nothing) | Err(_) => return,
            }
        }
    }
}

/// A request as it was read.
pub struct Asking {
    /// Its head.
    pub head: Rc<Parts>,
    /// Its body.
    pub body: Incoming,
    /// Whether it tells the length of its body more than once.
    pub is_ambiguous: bool,
}

/// Serves requests until the connection ends. Dropped while it waits for one, it has taken nothing.
///
/// # Errors
/// The connection has ended before an answer was complete, or an answer cannot be completed.
pub async fn talk<
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Future<Output = Response<Body>>,
>(
    wire: Rc<Wire<S>>,
    activity: Rc<Activity>,
    answer: impl Fn(Asking) -> F,
) -> io::Result<()> {
    loop {
        let head = match poll_fn(|context| wire.poll_head(context)).await {
            Ok(Some(head)) => head,
            Ok(None) => break,
            Err(unreadable) => {
                tracing::debug!(error = %unreadable, "a connection is ended");
                wire.refuse(unreadable.status());
                poll_fn(|context| wire.poll_flush(context)).await?;
                break;
            }
        };
        let busy = activity.busy(Version::HTTP_11);
        let asked = Asked { method: head.parts.method.clone(), version: head.parts.version };
        let keeps = head.keeps && !head.is_ambiguous;
        let asking =
            Asking { head: head.parts, body: wire.body(), is_ambiguous: head.is_ambiguous };
        let mut answering = pin!(answer(asking));
        let response = poll_fn(|context| match answering.as_mut().poll(context) {
            Poll::Ready(response) => Poll::Ready(Ok(response)),
            Poll::Pending => wire.poll_gone(context).map(|()| Err(gone())),
        });
        let (head, body) = response.await?.into_parts();
        poll_fn(|context| {
            wire.skip_body(context);
            Poll::Ready(())
        })
        .await;
        let (sending, keeps) = wire.answer(&head, body.size_hint().exact(), &asked, keeps);
        drop(head);
        send(&wire, body, sending).await?;
        turn::last().await;
        // Not before: an answer that is not written yet is not seen by whoever looks whether the connection is idle.
        drop(busy);
        poll_fn(|context| wire.poll_flush(context)).await?;
        if !keeps {
            break;
        }
        if wire.has_more() {
            activity.bytes_arrived(Instant::now());
        }
    }
    poll_fn(|context| wire.poll_shutdown(context)).await
}

/// Hands over the body of an answer, to its end.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &Wire<S>,
    mut body: Body,
    mut sending: Sending,
) -> io::Result<()> {
    if body.size_hint().exact().is_none() {
        wire.make_small();
    }
    poll_fn(|context| poll_send(wire, &mut body, &mut sending, context)).await
}

fn poll_send<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &Wire<S>,
    body: &mut Body,
    sending: &mut Sending,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let flushed = |context: &mut Context<'_>| match wire.poll_flush(context) {
        Poll::Pending => wire.poll_gone(context).map(|()| Err(gone())),
        ready => ready,
    };
    while !sending.is_complete() {
        if wire.is_full() {
            std::task::ready!(flushed(context))?;
        }
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    wire.put(|out| sending.piece(out, data));
                }
            }
            Poll::Ready(Some(Err(broken))) => {
                // What came before may go out still.
                let _ = wire.poll_flush(context);
                return Poll::Ready(Err(io::Error::other(broken)));
            }
            Poll::Ready(None) => break,
            Poll::Pending => {
                return match flushed(context) {
                    Poll::Ready(Ok(())) => wire.poll_gone(context).map(|()| Err(gone())),
                    other => other,
                };
            }
        }
    }
    let is_whole = wire.put(|out| sending.end(out));
    Poll::Ready(if is_whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) })
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the caller has gone")
}
