//! One connection to a provider: a request goes out and its answer comes in, driven by whoever waits for it. Nobody else has to have
//! a turn for it, and an idle connection has no task.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::head::{self, AnswerHead, HEAD_BYTES_MAX, Malformed, Outgoing, Read};
use crate::http1::{self, Framing, Taken};

/// Room for what comes at a time, in bytes: at first, and at most, where as much as there is room for keeps coming.
const READ_BYTES: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Room for the head of a request, in bytes.
const HEAD_BYTES_EXPECTED: usize = 1024;

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Before a byte of an answer.
    #[error("the connection ended before an answer came")]
    Closed,
    /// After that.
    #[error("the connection ended in the middle of the answer")]
    Cut,
    /// The connection broke before a byte of an answer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The connection broke after that.
    #[error("the connection broke in the middle of the answer: {0}")]
    Broken(io::Error),
    /// What came is no answer.
    #[error("what came is no HTTP/1.1 answer: {0}")]
    Malformed(#[from] Malformed),
}

impl TransportError {
    /// Whether a connection that had been idle was closed by the other side: then nothing of an answer has come.
    pub fn is_death(&self) -> bool {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        let broken = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
        match self {
            Self::Closed => true,
            Self::Io(error) => broken.contains(&error.kind()),
            Self::Cut | Self::Broken(_) | Self::Malformed(_) => false,
        }
    }
}

/// What bytes go through, TLS or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection, which carries one request at a time.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// What has come and was not taken.
    inbox: BytesMut,
    /// As far as that was looked at for the end of a head.
    looked_at: usize,
    /// Room for the next read.
    room: usize,
    /// What of the request has still to go out: its head, in which a credential may be, and its body.
    head: Zeroizing<Vec<u8>>,
    head_sent: usize,
    body: Bytes,
    body_sent: usize,
    /// Nothing of it has.
    is_flushed: bool,
    method: Method,
    /// Something of the answer has come.
    has_begun: bool,
    /// It can be used for another request, as far as is known.
    keeps: bool,
}

impl Connection {
    /// A connection that nothing has gone over.
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            inbox: BytesMut::new(),
            looked_at: 0,
            room: READ_BYTES,
            head: Zeroizing::default(),
            head_sent: 0,
            body: Bytes::new(),
            body_sent: 0,
            is_flushed: true,
            method: Method::GET,
            has_begun: false,
            keeps: true,
        }
    }

    /// Takes a request, with its body, which goes out while its answer is waited for.
    pub fn begin(&mut self, request: &mut Outgoing) {
        self.head.clear();
        // Where it grew it would leave copies of what is secret in it behind.
        self.head.reserve(HEAD_BYTES_EXPECTED);
        head::write(&mut self.head, request);
        self.head_sent = 0;
        self.method = request.method();
        (self.body, self.body_sent) = (std::mem::take(request.body_mut()), 0);
        (self.is_flushed, self.has_begun) = (false, false);
        self.looked_at = 0;
    }

    /// The head of the answer, and where its body ends.
    pub fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(AnswerHead, Framing), TransportError>> {
        loop {
            self.poll_send(context);
            while let Some(end) = http1::end(&self.inbox, self.looked_at) {
                let bytes = self.inbox.split_to(end).freeze();
                self.looked_at = 0;
                if let Some(Read { head, framing, keeps }) = head::read(bytes, &self.method)? {
                    if self.is_flushed {
                        // Nobody sends it again.
                        self.take_body();
                    }
                    self.keeps &= keeps && !framing.ends_with_connection();
                    return Poll::Ready(Ok((head, framing)));
                }
            }
            self.looked_at = self.inbox.len();
            if self.looked_at > HEAD_BYTES_MAX {
                return Poll::Ready(Err(Malformed::TooLong.into()));
            }
            match ready!(self.poll_receive(context)) {
                Ok(0) if !self.has_begun => return Poll::Ready(Err(TransportError::Closed)),
                Ok(0) => return Poll::Ready(Err(TransportError::Cut)),
                Err(error) if !self.has_begun => return Poll::Ready(Err(error.into())),
                Err(error) => return Poll::Ready(Err(TransportError::Broken(error))),
                Ok(_) => self.has_begun = true,
            }
        }
    }

    /// The body of the request, where it is not needed here any more.
    pub fn take_body(&mut self) -> Bytes {
        std::mem::take(&mut self.body)
    }

    /// The next bytes of the body; `None` at its end.
    pub fn poll_body(
        &mut self,
        framing: &mut Framing,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, TransportError>>> {
        loop {
            match framing.take(&mut self.inbox) {
                Ok(Taken::Data(bytes)) => {
                    // What has come already is work, too: tiny chunks leave others their turn.
                    if let Poll::Ready(turn) = tokio::task::coop::poll_proceed(context) {
                        turn.made_progress();
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::Nothing) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(Malformed::from(error).into())));
                }
            }
            // An answer may come while the request is still going out.
            self.poll_send(context);
            match ready!(self.poll_receive(context)) {
                Ok(0) if framing.ends_with_connection() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(TransportError::Cut))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(TransportError::Broken(error)))),
            }
        }
    }

    /// After a whole answer: whether another request may go over the connection. Its memory is given back.
    pub fn rest(&mut self) -> bool {
        let is_at_end = self.is_flushed && self.inbox.is_empty();
        (self.inbox, self.body) = (BytesMut::new(), Bytes::new());
        self.room = READ_BYTES;
        self.keeps && is_at_end
    }

    /// While it is idle: whether the other side has ended it, or said what nobody asked for. Wakes when either happens.
    pub fn is_gone(&mut self, context: &mut Context<'_>) -> bool {
        // No memory is held for what should not come.
        let mut byte = [0];
        let mut came = ReadBuf::new(&mut byte);
        Pin::new(&mut self.stream).poll_read(context, &mut came).is_ready()
    }

    /// Tells the other side, as far as that goes without waiting, that nothing more comes.
    pub fn close(mut self, context: &mut Context<'_>) {
        // Whoever does not hear it sees the connection end.
        let _ = Pin::new(&mut self.stream).poll_shutdown(context);
    }

    /// Sends what can be sent. Where the other side takes no more, its answer may be there all the same: what becomes of the
    /// connection is seen when that is read.
    fn poll_send(&mut self, context: &mut Context<'_>) {
        if self.is_flushed {
            return;
        }
        match self.poll_flush(context) {
            Poll::Pending => {}
            Poll::Ready(result) => {
                self.is_flushed = true;
                self.keeps &= result.is_ok();
            }
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.stream;
        loop {
            let head = self.head.get(self.head_sent..).unwrap_or_default();
            let body = self.body.get(self.body_sent..).unwrap_or_default();
            if head.is_empty() && body.is_empty() {
                return Pin::new(stream).poll_flush(context);
            }
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let slices = if head.is_empty() { &slices[1..] } else { &slices[..] };
            let sent = ready!(Pin::new(&mut *stream).poll_write_vectored(context, slices))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(head.len());
            self.head_sent += of_head;
            self.body_sent += sent - of_head;
        }
    }

    /// Receives what has come; zero bytes are the end of the connection.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let spare = self.inbox.capacity() - self.inbox.len();
        if spare < self.room / 2 {
            self.inbox.reserve(self.room);
        }
        let spare = self.inbox.capacity() - self.inbox.len();
        let read = ready!(pin!(self.stream.read_buf(&mut self.inbox)).poll(context))?;
        if read == spare {
            self.room = READ_BYTES_MAX.min(self.room * 2);
        }
        Poll::Ready(Ok(read))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{HeaderMap, Request, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::LocalSet;

    use super::*;

    /// Status, headers in their order, and body.
    type Told = (u16, Vec<(String, Vec<u8>)>, Vec<u8>);

    fn told(status: StatusCode, headers: &HeaderMap, body: Vec<u8>) -> Told {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        (status.as_u16(), headers.collect(), body)
    }

    fn run<T>(test: impl AsyncFnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, test())
    }

    fn request(method: &str, body: &[u8]) -> Request<Bytes> {
        let body = Bytes::copy_from_slice(body);
        Request::builder().method(method).uri("/").header("host", "h").body(body).unwrap()
    }

    /// The other side, which sends this in pieces of that size and ends.
    fn answer(bytes: Vec<u8>, size: usize, mut stream: DuplexStream) {
        tokio::task::spawn_local(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            for piece in bytes.chunks(size) {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }

    async fn ours(stream: DuplexStream, method: &str) -> Result<Told, TransportError> {
        let mut connection = Connection::new(stream);
        connection.begin(&mut request(method, b"{}").into());
        let (head, mut framing) = poll_fn(|context| connection.poll_head(context)).await?;
        let mut body = Vec::new();
        while let Some(chunk) = poll_fn(|context| connection.poll_body(&mut framing, context)).await
        {
            body.extend_from_slice(&chunk?);
        }
        Ok(told(head.status, &head.headers(), body))
    }

    async fn hypers(stream: DuplexStream, method: &str) -> hyper::Result<Told> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        let (parts, body) =
            sender.send_request(request(method, b"{}").map(Full::new)).await?.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        Ok(told(parts.status, &parts.headers, body))
    }

    /// An answer, and whether a byte of it is another than it should be.
    fn answers() -> impl Strategy<Value = (Vec<u8>, bool)> {
        let first = prop::sample::select(vec![
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200",
            "HTTP/1.0 200 OK",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 304 Not Modified",
            "HTTP/1.1 500 Oh",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created",
            "HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 400 Bad",
        ]);
        let header = prop::sample::select(vec![
            "content-type: text/plain",
            "Content-Length: 5",
            "content-length: 0",
            "content-length: 5, 5",
            "Transfer-Encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: gzip",
            "connection: close",
            "Connection: keep-alive",
            "X-Empty:",
            "x-high: \u{e9}",
            "set-cookie: a",
            "set-cookie: b",
        ]);
        let body = prop::sample::select(vec![
            "",
            "hello",
            "hello there",
            "5\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n1;x=y\r\n!\r\n0\r\na: b\r\n\r\n",
            "A\r\n0123456789\r\n00\r\n\r\n",
            "5\r\nhel",
        ]);
        let damage = prop::option::weighted(
            0.5,
            (any::<prop::sample::Index>(), prop::sample::select(&b"\r\n 0;:,a\x00\xff"[..])),
        );
        (first, prop::collection::vec(header, 0..4), body, damage).prop_map(
            |(first, headers, body, damage)| {
                let headers: String =
                    headers.iter().map(|header| format!("{header}\r\n")).collect();
                let mut bytes = format!("{first}\r\n{headers}\r\n{body}").into_bytes();
                if let Some((place, byte)) = &damage {
                    let place = place.index(bytes.len());
                    bytes[place] = *byte;
                }
                (bytes, damage.is_some())
            },
        )
    }

    proptest! {
        #[test]
        fn an_answer_is_read_as_hyper_reads_it(
            (bytes, is_damaged) in answers(),
            size in 1..80_usize,
            method in prop::sample::select(vec!["POST", "HEAD", "CONNECT"]),
        ) {
            let (ours, hypers) = run(async || {
                let (near, far) = duplex(4096);
                answer(bytes.clone(), size, far);
                let ours = ours(near, method).await;
                let (near, far) = duplex(4096);
                answer(bytes, size, far);
                (ours, hypers(near, method).await)
            });
            match (ours, hypers) {
                (Ok(ours), Ok(hypers)) => prop_assert_eq!(ours, hypers),
                (Err(_), Err(_)) => {}
                // Of what is none hyper takes some.
                (Err(_), Ok(_)) if is_damaged => {}
                (ours, hypers) => prop_assert!(false, "{ours:?} {hypers:?}"),
            }
        }
    }

    #[test]
    fn an_answer_that_comes_before_the_request_has_gone_out_is_read_and_the_connection_not_used_again()
     {
        run(async || {
            let (near, mut far) = duplex(64);
            far.write_all(b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let mut connection = Connection::new(near);
            connection.begin(&mut request("POST", &[b'x'; 1000]).into());
            let head = poll_fn(|context| connection.poll_head(context)).await;
            let (head, framing) = head.unwrap();
            assert_eq!((head.status.as_u16(), framing), (413, Framing::Length(0)));
            assert!(!connection.rest());
        });
    }

    #[test]
    fn a_request_goes_out_while_its_answer_comes() {
        run(async || {
            let (near, mut far) = duplex(64);
            tokio::task::spawn_local(async move {
                let mut heard = Vec::new();
                far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
                while !heard.ends_with(b"xyz") {
                    far.read_buf(&mut heard).await.unwrap();
                }
                far.write_all(b"done").await.unwrap();
                far
            });
            let mut connection = Connection::new(near);
            let body = [&[b'x'; 1000], &b"xyz"[..]].concat();
            connection.begin(&mut request("POST", &body).into());
            let head = poll_fn(|context| connection.poll_head(context)).await;
            let mut framing = head.unwrap().1;
            let chunk = poll_fn(|context| connection.poll_body(&mut framing, context)).await;
            assert_eq!(chunk.unwrap().unwrap(), "done");
            assert!(connection.rest());
        });
    }

    #[test]
    fn what_comes_behind_an_answer_is_nobody_s_and_ends_the_connection() {
        run(async || {
            let (near, far) = duplex(4096);
            answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP".to_vec(), 100, far);
            let mut connection = Connection::new(near);
            connection.begin(&mut request("POST", b"{}").into());
            let head = poll_fn(|context| connection.poll_head(context)).await;
            let mut framing = head.unwrap().1;
            let chunk = poll_fn(|context| connection.poll_body(&mut framing, context)).await;
            assert_eq!(chunk.unwrap().unwrap(), "ok");
            assert!(framing.is_end() && !connection.rest());
        });
    }

    #[test]
    fn nothing_of_a_request_is_held_once_it_has_gone_out() {
        run(async || {
            let (near, far) = duplex(4096);
            answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), 100, far);
            let body = Bytes::from(vec![b'x'; 1000]);
            let request = Request::post("/").header("host", "h").body(body.clone()).unwrap();
            let mut connection = Connection::new(near);
            connection.begin(&mut request.into());
            poll_fn(|context| connection.poll_head(context)).await.unwrap();
            assert!(connection.rest() && body.is_unique());
        });
    }

    #[test]
    fn a_connection_that_ends_after_an_interim_answer_or_half_a_head_has_not_died_unused() {
        run(async || {
            for (bytes, is_death) in
                [("", true), ("HTTP/1.1 102 Processing\r\n\r\n", false), ("HTTP/1.1 200", false)]
            {
                let (near, far) = duplex(4096);
                answer(bytes.as_bytes().to_vec(), 100, far);
                assert_eq!(ours(near, "POST").await.unwrap_err().is_death(), is_death, "{bytes}");
            }
        });
    }

    #[test]
    fn a_head_without_end_is_refused() {
        run(async || {
            let (near, far) = duplex(64 * 1024);
            let endless = [b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'x'; HEAD_BYTES_MAX]].concat();
            answer(endless, 64 * 1024, far);
            let error = ours(near, "POST").await.unwrap_err();
            assert!(matches!(error, TransportError::Malformed(Malformed::TooLong)), "{error}");
        });
    }
}
