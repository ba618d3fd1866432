//! Connections to providers, kept for the next request.
//!
//! An idle connection is used again only for the endpoint and the trust settings it was made with, the most recently used
//! first, so that what is not needed ages and is closed. A connection carries one request at a time. Who drops an
//! [`AnswerBody`] before its end has ended the connection with it: the provider notices at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use shared::egress::Key;
use shared::resource::{Endpoint, UpstreamTls};
use tokio::time::Instant;

use super::connect::{ConnectError, Connection, Connector};
use super::work::Worker;
use crate::Map;

/// A reused connection that ends so soon after a request was already closed by the other side: some round trips.
const DEAD_WITHIN: Duration = Duration::from_millis(500);
/// How long a connection may take to be ready for another request after the answer to the last one.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended, or what came over it was not an answer.
    #[error("no answer over the connection: {0}")]
    Transport(#[from] hyper::Error),
}

/// Where a request is sent: an entry of the destination table, and how it is spoken to there.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The entry by which egress knows it.
    pub key: Key,
    /// Host and port, which must be those of the entry, and whether it is TLS.
    pub endpoint: Endpoint,
    /// Whom to trust there.
    pub tls: UpstreamTls,
    /// Host and port as a header; `None` if no header can carry them.
    pub host: Option<HeaderValue>,
}

impl Place {
    /// The place of that entry.
    pub fn new(key: Key, endpoint: Endpoint, tls: UpstreamTls) -> Self {
        let host = HeaderValue::try_from(endpoint.authority()).ok();
        Self { key, endpoint, tls, host }
    }
}

/// The connections of one worker to all its upstreams.
pub struct Upstreams {
    connector: Connector,
    idle_limit: Duration,
    idle_max: usize,
    idle: RefCell<Map<Key, Idle>>,
    is_reaping: Cell<bool>,
}

/// The idle connections to one place, the longest idle first.
struct Idle {
    place: Rc<Place>,
    connections: VecDeque<(Instant, Connection)>,
}

/// A provider's answer.
pub struct Answer {
    /// Status and headers.
    pub head: http::response::Parts,
    /// The body, still to come.
    pub body: AnswerBody,
}

/// The body of an answer, with the connection it comes over.
pub struct AnswerBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

/// A connection in use. Dropped, it ends the connection.
struct Lease {
    pool: Weak<Upstreams>,
    place: Rc<Place>,
    connection: Option<Connection>,
    /// Who waits for the answer does the work.
    worker: Worker,
}

impl Upstreams {
    /// An empty pool. Connections idle for longer than `idle_limit` (zero: for ever) are closed, and so are the oldest
    /// beyond `idle_max` for one place.
    pub fn new(connector: Connector, idle_limit: Duration, idle_max: Option<u64>) -> Rc<Self> {
        let idle_max =
            idle_max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        Rc::new(Self {
            connector,
            idle_limit,
            idle_max,
            idle: RefCell::default(),
            is_reaping: Cell::new(false),
        })
    }

    /// Sends a request to a place and waits for the head of the answer.
    ///
    /// A connection that was idle may have been closed by the provider in this very moment. If it ends at once, the
    /// request goes out once more, over a new connection. If it ends later the provider may have worked on it: sending it
    /// again could be charged twice.
    pub async fn send(
        self: &Rc<Self>,
        place: &Rc<Place>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, SendError> {
        match self.send_once(place, request.clone()).await? {
            Some(answer) => Ok(answer),
            None => self.send_anew(place, request).await,
        }
    }

    /// The same without a copy of the request: `None` where it should go out once more, by [`Self::send_anew`].
    pub async fn send_once(
        self: &Rc<Self>,
        place: &Rc<Place>,
        request: Request<Full<Bytes>>,
    ) -> Result<Option<Answer>, SendError> {
        let now = Instant::now();
        let Some(connection) = self.take_idle(place, now) else {
            return Ok(Some(self.send_anew(place, request).await?));
        };
        match self.lease(place, connection).send(request).await {
            Err(error) if has_died(&error) && now.elapsed() < DEAD_WITHIN => {
                tracing::debug!(%error, "an idle connection had died; trying a new one");
                Ok(None)
            }
            result => Ok(Some(result?)),
        }
    }

    /// Sends a request over a new connection.
    pub async fn send_anew(
        self: &Rc<Self>,
        place: &Rc<Place>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, SendError> {
        let connection = self.connector.connect(place).await?;
        Ok(self.lease(place, connection).send(request).await?)
    }

    fn lease(self: &Rc<Self>, place: &Rc<Place>, connection: Connection) -> Lease {
        let (pool, worker) = (Rc::downgrade(self), connection.work.lend());
        Lease { pool, place: place.clone(), connection: Some(connection), worker }
    }

    /// The idle connection used last, if one is still usable.
    fn take_idle(&self, place: &Rc<Place>, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let of_key = idle.get_mut(&place.key)?;
        if !is_same(&of_key.place, place) {
            idle.remove(&place.key);
            return None;
        }
        while let Some((since, connection)) = of_key.connections.pop_back() {
            if connection.sender.is_ready() && !self.is_expired(since, now) {
                return Some(connection);
            }
        }
        None
    }

    fn is_expired(&self, since: Instant, now: Instant) -> bool {
        self.idle_limit > Duration::ZERO && now.duration_since(since) >= self.idle_limit
    }

    fn put_idle(self: &Rc<Self>, place: &Rc<Place>, connection: Connection) {
        if self.idle_max == 0 || connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let of_key = match idle.get_mut(&place.key) {
            Some(of_key) => of_key,
            None => idle
                .entry(place.key.clone())
                .or_insert_with(|| Idle { place: place.clone(), connections: VecDeque::new() }),
        };
        if !is_same(&of_key.place, place) {
            // The place has changed while this connection was in use.
            return;
        }
        if of_key.connections.len() >= self.idle_max {
            of_key.connections.pop_front();
        }
        of_key.connections.push_back((Instant::now(), connection));
        drop(idle);
        self.start_reaping();
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn idle_connections(&self) -> usize {
        self.idle.borrow().values().map(|of_key| of_key.connections.len()).sum()
    }

    /// Closes what is idle for too long, for as long as anything is idle.
    fn start_reaping(self: &Rc<Self>) {
        if self.idle_limit.is_zero() || self.is_reaping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        let mut next = Instant::now() + self.idle_limit;
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep_until(next).await;
                let Some(pool) = pool.upgrade() else { return };
                match pool.reap(Instant::now()) {
                    Some(oldest) => next = oldest + pool.idle_limit,
                    None => return pool.is_reaping.set(false),
                }
            }
        });
    }

    /// Closes what has expired; since when the oldest of the rest is idle.
    fn reap(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, of_key| {
            of_key.connections.retain(|(since, connection)| {
                !connection.sender.is_closed() && !self.is_expired(*since, now)
            });
            !of_key.connections.is_empty()
        });
        idle.values().filter_map(|of_key| of_key.connections.front()).map(|(since, _)| *since).min()
    }
}

impl Lease {
    async fn send(mut self, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        // A lease has its connection until it is given back.
        let Some(connection) = &mut self.connection else { return std::future::pending().await };
        let mut sent = pin!(connection.sender.send_request(request));
        let worker = &mut self.worker;
        let response =
            poll_fn(|context| worker.poll(context, |quiet| sent.as_mut().poll(quiet))).await?;
        Ok(self.answer(response))
    }

    fn answer(self, response: Response<Incoming>) -> Answer {
        let (head, incoming) = response.into_parts();
        let mut body = AnswerBody { incoming, lease: Some(self) };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        Answer { head, body }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.work.end();
        }
    }
}

impl AnswerBody {
    /// Whether nothing more can come, as far as that is known without asking.
    pub fn is_end(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// The next bytes, or `None` at the end of the body.
    pub async fn chunk(&mut self) -> Option<hyper::Result<Bytes>> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// The same for who polls.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
        let Self { incoming, lease } = self;
        let chunk = match lease {
            Some(lease) => lease.worker.poll(context, |quiet| data(incoming, quiet)),
            // All there is has come.
            None => data(incoming, context),
        };
        match ready!(chunk) {
            Some(Err(error)) => {
                self.lease = None;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.give_back();
                Poll::Ready(None)
            }
            chunk => Poll::Ready(chunk),
        }
    }

    /// Puts the connection back into the pool, as soon as it can take another request.
    fn give_back(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let Some(pool) = lease.pool.upgrade() else { return };
        let Some(mut connection) = lease.connection.take() else { return };
        connection.work.take_back();
        if connection.sender.is_ready() {
            return pool.put_idle(&lease.place, connection);
        }
        tokio::task::spawn_local(async move {
            match tokio::time::timeout(READY_LIMIT, connection.sender.ready()).await {
                Ok(Ok(())) => pool.put_idle(&lease.place, connection),
                // An upstream that has answered without reading the whole request, for example.
                Ok(Err(_)) | Err(_) => connection.work.end(),
            }
        });
    }
}

/// Whether both lead to the same endpoint, with the same trust: mostly because they are one.
fn is_same(one: &Rc<Place>, other: &Rc<Place>) -> bool {
    Rc::ptr_eq(one, other) || one == other
}

/// The next bytes of a body. Trailers say nothing that anyone here asks for.
fn data(incoming: &mut Incoming, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
    loop {
        match ready!(Pin::new(&mut *incoming).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Some(Ok(data)));
                }
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        }
    }
}

/// Whether the connection ended without an answer.
fn has_died(error: &hyper::Error) -> bool {
    use std::error::Error;
    use std::io;

    let broken = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                | io::ErrorKind::UnexpectedEof
        )
    };
    error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || error.source().and_then(|source| source.downcast_ref()).is_some_and(broken)
}
