//! Connections to providers, kept for the next request.
//!
//! An idle connection is used again only for the endpoint and the trust settings it was made with, the most recently used
//! first, so that what is not needed ages and is closed; one that the provider ends is closed at once. A connection carries one
//! request at a time. Who drops an [`AnswerBody`] before its end has ended the connection with it: the provider notices at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use shared::egress::Key;
use shared::resource::{Endpoint, UpstreamTls};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::connect::{ConnectError, Connector};
use super::connection::{Connection, TransportError};
use super::head::{AnswerHead, Outgoing};
use super::timers::Timers;
use crate::Map;
use crate::http1::Framing;
use crate::turn;

/// A reused connection that ends so soon after a request was already closed by the other side: some round trips.
const DEAD_WITHIN: Duration = Duration::from_millis(500);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended, or what came over it was not an answer.
    #[error("no answer over the connection: {0}")]
    Transport(#[from] TransportError),
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
    /// For those who wait for answers.
    timers: Timers,
    /// A task looks after what is idle.
    is_watched: Cell<bool>,
    bell: Arc<Bell>,
    /// Rings it.
    waker: Waker,
}

/// Wakes the task that looks after idle connections: something has come over one of them.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// The idle connections to one place, the longest idle first.
struct Idle {
    place: Rc<Place>,
    connections: VecDeque<(Instant, Box<Connection>)>,
}

/// A provider's answer.
pub struct Answer {
    /// Status and headers.
    pub head: AnswerHead,
    /// The body, still to come.
    pub body: AnswerBody,
}

/// The body of an answer, with the connection it comes over.
pub struct AnswerBody {
    framing: Framing,
    lease: Option<Lease>,
}

/// A connection in use. Dropped, it ends the connection.
struct Lease {
    pool: Weak<Upstreams>,
    place: Rc<Place>,
    connection: Box<Connection>,
}

impl Upstreams {
    /// An empty pool. Connections idle for longer than `idle_limit` (zero: for ever) are closed, and so are the oldest
    /// beyond `idle_max` for one place.
    pub fn new(connector: Connector, idle_limit: Duration, idle_max: Option<u64>) -> Rc<Self> {
        let idle_max =
            idle_max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let bell = Arc::<Bell>::default();
        let (idle, is_watched, waker) = (RefCell::default(), Cell::default(), bell.clone().into());
        let timers = Timers::default();
        Rc::new(Self { connector, idle_limit, idle_max, idle, timers, is_watched, bell, waker })
    }

    /// The timers of those who wait for answers.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Sends a request to a place and waits for the head of the answer.
    ///
    /// A connection that was idle may have been closed by the provider in this very moment. If it ends at once, the
    /// request goes out once more, over a new connection. If it ends later the provider may have worked on it: sending it
    /// again could be charged twice.
    pub async fn send(
        self: &Rc<Self>,
        place: &Rc<Place>,
        request: &mut Outgoing,
    ) -> Result<Answer, SendError> {
        turn::last().await;
        let now = Instant::now();
        if let Some(connection) = self.take_idle(place, now) {
            match self.lease(place, connection).send(request).await {
                Err(error) if error.is_death() && now.elapsed() < DEAD_WITHIN => {
                    tracing::debug!(%error, "an idle connection had died; trying a new one");
                }
                result => return Ok(result?),
            }
        }
        // Rare, and large: not part of what every request carries along.
        let connecting = Box::pin(self.connector.connect(place));
        let connection = Box::new(connecting.await?);
        Ok(self.lease(place, connection).send(request).await?)
    }

    fn lease(self: &Rc<Self>, place: &Rc<Place>, connection: Box<Connection>) -> Lease {
        Lease { pool: Rc::downgrade(self), place: place.clone(), connection }
    }

    /// The idle connection used last, if one is still usable.
    fn take_idle(&self, place: &Rc<Place>, now: Instant) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let of_key = idle.get_mut(&place.key)?;
        if !is_same(&of_key.place, place) {
            idle.remove(&place.key);
            return None;
        }
        let mut context = Context::from_waker(&self.waker);
        while let Some((since, mut connection)) = of_key.connections.pop_back() {
            if connection.is_gone(&mut context) {
                continue;
            }
            if !self.is_expired(since, now) {
                return Some(connection);
            }
            connection.close(&mut context);
        }
        None
    }

    fn is_expired(&self, since: Instant, now: Instant) -> bool {
        self.idle_limit > Duration::ZERO && now.duration_since(since) >= self.idle_limit
    }

    fn put_idle(self: &Rc<Self>, place: &Rc<Place>, mut connection: Box<Connection>) {
        let mut context = Context::from_waker(&self.waker);
        if self.idle_max == 0 || connection.is_gone(&mut context) {
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
        if of_key.connections.len() >= self.idle_max
            && let Some((_, oldest)) = of_key.connections.pop_front()
        {
            oldest.close(&mut context);
        }
        of_key.connections.push_back((Instant::now(), connection));
        drop(idle);
        self.watch();
    }

    /// How many connections are idle.
    #[cfg(test)]
    pub(crate) fn idle_connections(&self) -> usize {
        self.idle.borrow().values().map(|of_key| of_key.connections.len()).sum()
    }

    /// Closes what is idle for too long and what the provider has ended, for as long as anything is idle.
    fn watch(self: &Rc<Self>) {
        if self.is_watched.replace(true) {
            return;
        }
        let (pool, bell, limit) = (Rc::downgrade(self), self.bell.clone(), self.idle_limit);
        let mut oldest = Instant::now();
        tokio::task::spawn_local(async move {
            loop {
                tokio::select! {
                    () = bell.0.notified() => {}
                    () = sleep_until(oldest + limit), if !limit.is_zero() => {}
                }
                let Some(pool) = pool.upgrade() else { return };
                match pool.look_after(Instant::now()) {
                    Some(since) => oldest = since,
                    None => return pool.is_watched.set(false),
                }
            }
        });
    }

    /// Closes what has expired or was ended; since when the oldest of the rest is idle.
    fn look_after(&self, now: Instant) -> Option<Instant> {
        let mut context = Context::from_waker(&self.waker);
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, of_key| {
            while let Some((since, _)) = of_key.connections.front()
                && self.is_expired(*since, now)
                && let Some((_, connection)) = of_key.connections.pop_front()
            {
                connection.close(&mut context);
            }
            of_key.connections.retain_mut(|(_, connection)| !connection.is_gone(&mut context));
            !of_key.connections.is_empty()
        });
        idle.values().filter_map(|of_key| of_key.connections.front()).map(|(since, _)| *since).min()
    }
}

impl Drop for Upstreams {
    /// Lets the task that looks after idle connections see that there are none.
    fn drop(&mut self) {
        self.waker.wake_by_ref();
    }
}

impl Lease {
    /// The body is the request's again where there is no answer.
    async fn send(mut self, request: &mut Outgoing) -> Result<Answer, TransportError> {
        let connection = &mut self.connection;
        connection.begin(request);
        let answered = poll_fn(|context| connection.poll_head(context)).await;
        if answered.is_err() {
            *request.body_mut() = connection.take_body();
        }
        let (head, framing) = answered?;
        let mut body = AnswerBody { framing, lease: Some(self) };
        if body.is_end() {
            body.give_back();
        }
        Ok(Answer { head, body })
    }
}

impl AnswerBody {
    /// Whether nothing more can come, as far as that is known without asking.
    pub fn is_end(&self) -> bool {
        self.lease.is_none() || self.framing.is_end()
    }

    /// The next bytes, or `None` at the end of the body.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, TransportError>> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// The same for who polls.
    pub fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, TransportError>>> {
        let Self { framing, lease } = self;
        let Some(lease) = lease else { return Poll::Ready(None) };
        let chunk = ready!(lease.connection.poll_body(framing, context));
        match chunk {
            Some(Err(_)) => self.lease = None,
            Some(Ok(_)) if !self.framing.is_end() => {}
            // The last of a body of known length has come with it.
            None | Some(Ok(_)) => self.give_back(),
        }
        Poll::Ready(chunk)
    }

    /// Puts the connection back into the pool, if it can take another request.
    fn give_back(&mut self) {
        let Some(Lease { pool, place, mut connection }) = self.lease.take() else { return };
        if connection.rest()
            && let Some(pool) = pool.upgrade()
        {
            pool.put_idle(&place, connection);
        }
    }
}

/// Whether both lead to the same endpoint, with the same trust: mostly because they are one.
fn is_same(one: &Rc<Place>, other: &Rc<Place>) -> bool {
    Rc::ptr_eq(one, other) || one == other
}
