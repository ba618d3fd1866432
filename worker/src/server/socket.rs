//! The socket of a caller: tells the activity what happens on it, and gives back bytes that were read ahead.
//!
//! While nothing is in progress a connection is little more than this (see `connection`): it waits for bytes without a buffer of its own.
//!
//! A caller that was refused and told when to come back is not heard before that: of what it sends the beginning is kept here,
//! and the rest stays in the kernel. Only health is told at any time.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::activity::Activity;

/// What HTTP/2 begins with where it was not agreed upon before.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How requests begin that are always answered.
const HEALTH: [&[u8]; 8] = [
    b"GET /livez ",
    b"GET /livez?",
    b"GET /readyz ",
    b"GET /readyz?",
    b"HEAD /livez ",
    b"HEAD /livez?",
    b"HEAD /readyz ",
    b"HEAD /readyz?",
];
/// Bytes that are read ahead at a time, on the stack.
const AHEAD: usize = 2048;

/// The socket of one connection, in clear or TLS.
pub(super) struct Socket<S> {
    stream: S,
    activity: Rc<Activity>,
    /// Read, and not yet handed on.
    ahead: Bytes,
}

/// What the bytes that have come so far begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Http1,
    Http2,
    /// It depends on the next ones.
    Either,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S, activity: Rc<Activity>) -> Self {
        Self { stream, activity, ahead: Bytes::new() }
    }

    /// Bytes that were read of the socket, and are to be read again before any other.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.ahead = joined(&bytes, &self.ahead);
    }

    /// Whether the caller is not heard for now.
    pub(super) fn is_held(&self) -> bool {
        self.activity.is_held()
    }

    /// Whether bytes were read that are not handed on yet.
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether the whole head of a request was read ahead.
    pub(super) fn has_head(&self) -> bool {
        // Empty lines before it are no head.
        self.ahead.first().is_some_and(u8::is_ascii_alphabetic)
            && memchr::memmem::find(&self.ahead, b"\r\n\r\n").is_some()
    }

    /// Whether what was read ahead is a request that is always answered.
    pub(super) fn asks_for_health(&self) -> bool {
        HEALTH.iter().any(|health| self.ahead.starts_with(health))
    }

    /// What a connection that has just begun begins with.
    pub(super) fn begun(&self) -> Begun {
        if HTTP2_PREFACE.starts_with(&self.ahead) && self.ahead.len() < HTTP2_PREFACE.len() {
            Begun::Either
        } else if self.ahead.starts_with(HTTP2_PREFACE) {
            Begun::Http2
        } else {
            Begun::Http1
        }
    }
}

impl<S: AsyncRead + Unpin> Socket<S> {
    /// Waits for bytes, which are kept ahead. Returns whether any came: after the last one none do.
    pub(super) async fn more(&mut self) -> io::Result<bool> {
        poll_fn(|context| {
            if self.activity.is_held() {
                ready!(self.poll_heard(context))?;
                if self.has_ahead() {
                    return Poll::Ready(Ok(true));
                }
            }
            self.poll_ahead(context)
        })
        .await
    }

    /// Returns when the caller has gone. Of what it sends meanwhile the beginning is kept ahead.
    pub(super) async fn gone(&mut self) {
        poll_fn(|context| self.poll_gone(context)).await;
    }

    /// The same, for one look. A caller that is held is not seen to go before it is heard.
    pub(super) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.activity.poll_held(context));
        while self.ahead.len() < AHEAD {
            let came = ready!(self.poll_ahead(context));
            if !came.unwrap_or(false) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Adds what has come; zero bytes are the end of the connection.
    pub(super) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        inbox: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        if self.activity.is_held() {
            ready!(self.poll_heard(context))?;
        }
        let ahead = std::mem::take(&mut self.ahead);
        let read = match ahead.len() {
            0 => ready!(pin!(self.stream.read_buf(inbox)).poll(context))?,
            ahead_len => {
                if inbox.is_empty() {
                    *inbox = ahead.into();
                } else {
                    inbox.extend_from_slice(&ahead);
                }
                return Poll::Ready(Ok(ahead_len));
            }
        };
        if read > 0 {
            self.activity.bytes_arrived(Instant::now());
        }
        Poll::Ready(Ok(read))
    }

    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [const { MaybeUninit::uninit() }; AHEAD];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        ready!(self.poll_stream(context, &mut buffer))?;
        self.ahead = joined(&self.ahead, buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    /// Is ready when a caller that is held is to be heard.
    fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.asks_for_health() {
            self.activity.release();
        }
        while HEALTH.iter().any(|health| health.starts_with(&self.ahead)) {
            let Poll::Ready(came) = self.poll_ahead(context) else { break };
            if !came? || self.asks_for_health() {
                self.activity.release();
                break;
            }
        }
        self.activity.poll_held(context).map(Ok)
    }

    fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > filled {
            self.activity.bytes_arrived(Instant::now());
        }
        read
    }
}

fn joined(first: &[u8], second: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(first.len().saturating_add(second.len()));
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    bytes.freeze()
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.is_held() {
            ready!(self.poll_heard(context))?;
        }
        if self.ahead.is_empty() {
            return self.poll_stream(context, buffer);
        }
        let taken = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(self.ahead.get(..taken).unwrap_or_default());
        self.ahead.advance(taken);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // `writev` is permitted whatever its arguments are; those of `send` the sandbox looks at each time.
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.written(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.activity.written(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Over TLS it may take a while.
        self.activity.written(false);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::tests::run;
    use futures_util::FutureExt;

    fn socket(bytes: &'static [u8]) -> Socket<&'static [u8]> {
        Socket::new(bytes, Rc::new(Activity::new(Duration::ZERO, Instant::now())))
    }

    #[test]
    fn bytes_that_were_read_ahead_are_read_again_first_and_in_order() {
        run(async {
            let mut socket = socket(b"three");
            socket.put_back(Bytes::from_static(b"two "));
            assert!(socket.more().await.unwrap());
            socket.put_back(Bytes::from_static(b"one "));
            let mut text = String::new();
            socket.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "one two three");
            assert!(!socket.more().await.unwrap());
        });
    }

    #[test]
    fn a_caller_that_is_held_is_heard_when_it_is_time_or_asks_for_health_or_has_gone() {
        run(async {
            for (bytes, expected) in [
                ("GET /livez HTTP/1.1", true),
                ("HEAD /readyz?verbose", true),
                ("GET /livezX", false),
                ("POST /v1", false),
                ("", true),
            ] {
                let mut socket = socket(bytes.as_bytes());
                let (end, ended) = tokio::sync::oneshot::channel::<()>();
                socket.activity.hold(async { drop(ended.await) });
                let heard = socket.more().now_or_never();
                assert_eq!(heard.is_some(), expected, "{bytes}");
                drop(end);
                let mut text = String::new();
                socket.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, bytes);
            }
        });
    }

    #[test]
    fn only_a_whole_head_is_one_and_health_is_seen_in_it() {
        for (bytes, expected) in [
            ("POST / HTTP/1.1\r\na: b\r\n\r\n", (true, false)),
            ("POST / HTTP/1.1\r\na: b\r\n\r\nbody", (true, false)),
            ("POST / HTTP/1.1\r\na: b\r\n\r", (false, false)),
            ("\r\n\r\nPOST /", (false, false)),
            ("GET /livez HTTP/1.1\r\n\r\n", (true, true)),
            ("GET /readyz?a HTTP/1.1\r\n\r\n", (true, true)),
            ("", (false, false)),
        ] {
            let mut socket = socket(b"");
            socket.put_back(Bytes::from_static(bytes.as_bytes()));
            assert_eq!((socket.has_head(), socket.asks_for_health()), expected, "{bytes}");
        }
    }

    #[test]
    fn who_waits_for_its_turn_has_gone_when_nothing_more_can_come_and_little_is_kept_of_what_does()
    {
        run(async {
            let mut gone = socket(b"the rest");
            gone.gone().await;
            let long: &'static [u8] = &[b'x'; 3 * AHEAD];
            let mut stays = socket(long);
            assert!(stays.gone().now_or_never().is_none());
            assert_eq!(stays.ahead.len(), AHEAD);
            let mut bytes = Vec::new();
            stays.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, long);
        });
    }

    #[test]
    fn only_the_whole_preface_begins_http2() {
        let begun = |bytes: &'static [u8]| {
            let mut socket = socket(b"");
            socket.put_back(Bytes::from_static(bytes));
            socket.begun()
        };
        assert_eq!(begun(b""), Begun::Either);
        assert_eq!(begun(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), Begun::Either);
        assert_eq!(begun(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Begun::Http2);
        assert_eq!(begun(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"), Begun::Http2);
        assert_eq!(begun(b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"), Begun::Http1);
        assert_eq!(begun(b"PUT / HTTP/1.1\r\n"), Begun::Http1);
    }
}
