//! The bytes of one connection: what has come and is not taken, what is to go out, and the body in between.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http::response::Parts;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::incoming::{Incoming, Remaining, Unread};
use super::super::socket::Socket;
use super::answer::{self, Asked, Sending};
use super::head::{self, HEAD_BYTES_MAX, Head, Kept, Unreadable};
use crate::http1::{self, Framing, Taken};

/// Room for what comes at a time, in bytes: at first, and at most, where as much as there is room for keeps coming.
const READ_BYTES: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Of what goes out so much is gathered before it is written, in bytes. Twice the memory is kept for the next: a piece may come on top.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// Tells a caller to send the body (RFC 9110, 10.1.1).
const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection that carries one request at a time. Borrowed for one look at a time, by the connection's task and by whoever reads
/// the body of a request.
pub struct Wire<S>(RefCell<Inner<S>>);

struct Inner<S> {
    socket: Socket<S>,
    /// What has come and was not taken, and as far as that was looked at for the end of a head.
    inbox: BytesMut,
    looked_at: usize,
    /// Room for the next read.
    room: usize,
    /// What is to go out, and how much of it has.
    outbox: Vec<u8>,
    sent: usize,
    /// The last head.
    kept: Option<Box<Kept>>,
    /// Which request is served, and what of its body is still to come.
    number: u64,
    framing: Framing,
    /// The caller waits to be told that its body is wanted.
    expects: bool,
    /// No further request is taken.
    is_ending: bool,
}

impl<S> Wire<S> {
    /// `kept` is the last head that came over it, if that is known still.
    pub fn new(socket: Socket<S>, kept: Option<Box<Kept>>) -> Self {
        Self(RefCell::new(Inner {
            socket,
            inbox: BytesMut::new(),
            looked_at: 0,
            room: READ_BYTES,
            outbox: Vec::new(),
            sent: 0,
            kept,
            number: 0,
            framing: Framing::Length(0),
            expects: false,
            is_ending: false,
        }))
    }

    /// No further request is taken than the one that has begun.
    pub fn end(&self) {
        self.0.borrow_mut().is_ending = true;
    }

    /// The socket of a connection that waits for a request, with what has come, and the last head.
    pub fn into_socket(self) -> (Socket<S>, Option<Box<Kept>>) {
        let mut inner = self.0.into_inner();
        if !inner.inbox.is_empty() {
            inner.socket.put_back(inner.inbox.freeze());
        }
        (inner.socket, inner.kept)
    }

    /// Whether bytes have come that are not part of this request.
    pub fn has_more(&self) -> bool {
        let inner = self.0.borrow();
        !inner.inbox.is_empty() || inner.socket.has_ahead()
    }

    /// Adds the head of an answer: how its body goes out, and whether another request may follow.
    pub fn answer(
        &self,
        head: &Parts,
        length: Option<u64>,
        asked: &Asked,
        keeps: bool,
    ) -> (Sending, bool) {
        let inner = &mut *self.0.borrow_mut();
        let keeps = keeps && !inner.is_ending && inner.framing.is_end();
        answer::head(&mut inner.outbox, head, length, asked, keeps)
    }

    /// Adds to what goes out.
    pub fn put<T>(&self, put: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        put(&mut self.0.borrow_mut().outbox)
    }

    /// Adds the answer to what is no request.
    pub fn refuse(&self, status: StatusCode) {
        self.put(|out| answer::refusal(out, status));
    }

    /// Whether so much is gathered that it should go out.
    pub fn is_full(&self) -> bool {
        self.0.borrow().outbox.len() >= OUT_BYTES_MAX
    }

    /// Gives back what is not needed while an answer goes out that takes its time.
    pub fn make_small(&self) {
        let inner = &mut *self.0.borrow_mut();
        inner.kept = None;
        inner.empty_inbox();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The head of the next request; `None` where none comes any more.
    pub fn poll_head(&self, context: &mut Context<'_>) -> Poll<Result<Option<Head>, Unreadable>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.socket.is_held() && !inner.inbox.is_empty() {
            // What has come already is not heard either.
            inner.socket.put_back(std::mem::take(&mut inner.inbox).freeze());
            inner.looked_at = 0;
        }
        loop {
            if let Some(head) = inner.take_head()? {
                inner.number = inner.number.wrapping_add(1);
                inner.framing = head.framing.clone();
                inner.expects = head.expects;
                return Poll::Ready(Ok(Some(head)));
            }
            if inner.is_ending && inner.inbox.is_empty() {
                return Poll::Ready(Ok(None));
            }
            match ready!(inner.poll_receive(context)) {
                Ok(0) | Err(_) => return Poll::Ready(Ok(None)),
                Ok(_) => {}
            }
        }
    }

    /// The body of the request whose head was taken last.
    pub fn body(self: &Rc<Self>) -> Incoming
    where
        S: 'static,
    {
        let inner = &mut *self.0.borrow_mut();
        if let Framing::Length(length) = inner.framing
            && let Ok(length) = usize::try_from(length)
            && length <= inner.inbox.len()
        {
            // Most bodies come with their heads.
            inner.framing = Framing::Length(0);
            return Incoming::Whole(inner.inbox.split_to(length).freeze());
        }
        Incoming::Remaining(Remaining::new(Rc::<Self>::clone(self), inner.number))
    }

    /// Takes what there is of a body that nobody has read.
    pub fn skip_body(&self, context: &mut Context<'_>) {
        let inner = &mut *self.0.borrow_mut();
        // Its sender has not been told to send it.
        while !inner.framing.is_end() && !inner.expects {
            match inner.framing.take(&mut inner.inbox) {
                Ok(Taken::Data(_) | Taken::End) => {}
                Ok(Taken::Nothing)
                    if matches!(inner.poll_receive(context), Poll::Ready(Ok(1..))) => {}
                // Where the next request would begin is not known.
                _ => {
                    inner.is_ending = true;
                    return;
                }
            }
        }
    }

    /// Is ready when the caller has gone, while nothing is expected of it.
    pub fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        if !inner.framing.is_end() || !inner.inbox.is_empty() {
            return Poll::Pending;
        }
        inner.socket.poll_gone(context)
    }

    /// Sends what is to go out.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(context)
    }

    /// Tells the caller that nothing more comes.
    pub fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().socket).poll_shutdown(context)
    }
}

impl<S> Inner<S> {
    /// Gives back the memory for what comes, if nothing is in it.
    fn empty_inbox(&mut self) {
        if self.inbox.is_empty() {
            (self.inbox, self.room) = (BytesMut::new(), READ_BYTES);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    /// The next head, as far as it has come.
    fn take_head(&mut self) -> Result<Option<Head>, Unreadable> {
        // RFC 9112 (2.2): empty lines before it are none of it.
        while let [b'\n', ..] | [b'\r', b'\n', ..] = self.inbox[..] {
            self.inbox.advance(if self.inbox.starts_with(b"\n") { 1 } else { 2 });
        }
        if let Some(head) = self.kept.as_mut().and_then(|kept| kept.again(&mut self.inbox)) {
            self.looked_at = 0;
            return Ok(Some(head));
        }
        let Some(end) = http1::end(&self.inbox, self.looked_at) else {
            if self.inbox.len() > HEAD_BYTES_MAX {
                return Err(Unreadable::TooLarge);
            }
            if self.looked_at == 0 && !self.inbox.is_empty() {
                head::begins(&self.inbox)?;
            }
            self.looked_at = self.inbox.len();
            return Ok(None);
        };
        if end > HEAD_BYTES_MAX {
            return Err(Unreadable::TooLarge);
        }
        self.looked_at = 0;
        let bytes = Bytes::copy_from_slice(&self.inbox[..end]);
        self.inbox.advance(end);
        let (head, kept) = head::read(&bytes)?;
        self.kept = kept.map(Box::new);
        Ok(Some(head))
    }

    /// Receives what has come; zero bytes are the end of the connection.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let spare = self.inbox.capacity() - self.inbox.len();
        // What lies ahead has its own memory.
        if spare < self.room / 2 && !self.socket.has_ahead() {
            self.inbox.reserve(self.room);
        }
        let spare = self.inbox.capacity() - self.inbox.len();
        let read = ready!(self.socket.poll_receive(context, &mut self.inbox))?;
        if read == spare {
            self.room = READ_BYTES_MAX.min(self.room * 2);
        }
        Poll::Ready(Ok(read))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.outbox.get(self.sent..) {
            match ready!(Pin::new(&mut self.socket).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        self.outbox.clear();
        self.outbox.shrink_to(2 * OUT_BYTES_MAX);
        Pin::new(&mut self.socket).poll_flush(context)
    }
}

/// What is left of the body of a request, for whoever reads it.
pub trait Source {
    /// The next bytes of the body of that request.
    fn poll_data(
        &self,
        number: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unread>>>;

    /// What of the body of that request is still to come.
    fn left(&self, number: u64) -> Framing;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source for Wire<S> {
    fn poll_data(
        &self,
        number: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unread>>> {
        let inner = &mut *self.0.borrow_mut();
        if number != inner.number {
            return Poll::Ready(Some(Err(Unread::Over)));
        }
        loop {
            // What has come already is work, too: tiny chunks leave others their turn.
            let turn = ready!(tokio::task::coop::poll_proceed(context));
            match inner.framing.take(&mut inner.inbox) {
                Ok(Taken::Data(bytes)) => {
                    turn.made_progress();
                    inner.expects = false;
                    if inner.framing.is_end() && inner.room > READ_BYTES {
                        // So large a body is not followed by another soon.
                        inner.empty_inbox();
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::Nothing) => {}
                Err(error) => {
                    // Where the next request would begin is not known.
                    inner.is_ending = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            if std::mem::take(&mut inner.expects) {
                inner.outbox.extend_from_slice(GO_ON);
            }
            if !inner.outbox.is_empty()
                && let Poll::Ready(Err(error)) = inner.poll_flush(context)
            {
                return Poll::Ready(Some(Err(error.into())));
            }
            match ready!(inner.poll_receive(context)) {
                Ok(0) => return Poll::Ready(Some(Err(Unread::Cut))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn left(&self, number: u64) -> Framing {
        let inner = self.0.borrow();
        if number == inner.number { inner.framing.clone() } else { Framing::UntilClose }
    }
}
