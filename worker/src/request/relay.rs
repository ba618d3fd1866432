//! A stream from the upstream to the caller: every event as it came, as soon as it has come.
//!
//! ```text
//! events ── [DONE] ──▶ settled, end
//!        ── end after a finish reason ──▶ settled, end
//!        ── error, silence, end before that ──▶ settled as failed, `event: error`, end without [DONE]
//! ```
//! The caller's connection pulls: what it does not take is not read from the upstream. Who drops the stream has ended the
//! upstream's connection with it, and the account settles as gone.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::StatusCode;
use tokio::time::Instant;

use super::account::Account;
use super::{RequestError, UpstreamError};
use crate::call::Operation;
use crate::provider::{Progress, Reading};
use crate::server::{Broken, ByteStream};
use crate::upstream::AnswerBody;

/// What keeps a silent stream from being taken for dead: an empty comment.
pub const KEEP_ALIVE: &[u8] = b":\n\n";
/// After `[DONE]` the upstream has this long to end its answer, so that the connection can be used again.
const END_WAIT: Duration = Duration::from_secs(1);

/// How a stream is relayed.
#[derive(Clone, Copy, Debug)]
pub struct RelayOptions {
    /// The longest silence of the upstream.
    pub silence: Option<Duration>,
    /// The longest silence towards the caller.
    pub keep_alive: Option<Duration>,
    /// The first event is waited for this long before the caller is answered: an error in it still gets its own status.
    pub first_event: Duration,
}

/// A stream that has begun well.
pub struct Relay {
    account: Box<Account>,
    /// `None` once there is nothing more to read.
    upstream: Option<AnswerBody>,
    reading: Box<dyn Reading>,
    options: RelayOptions,
    /// Bytes for the caller that are not handed over yet.
    ready: BytesMut,
    /// Since when the upstream is waited for; `None` while the caller is.
    waiting_since: Option<Instant>,
    /// When the caller was sent something last.
    spoken: Instant,
}

impl Relay {
    /// Waits a moment for the first event.
    ///
    /// # Errors
    /// The stream begins with an error, which comes back with the account.
    pub async fn begin(
        mut account: Box<Account>,
        operation: Operation,
        upstream: AnswerBody,
        reading: Box<dyn Reading>,
        options: RelayOptions,
    ) -> Result<Self, (Box<Account>, RequestError)> {
        account.guarding.begin_stream(operation);
        let mut relay = Self {
            account,
            upstream: Some(upstream),
            reading,
            options,
            ready: BytesMut::new(),
            waiting_since: None,
            spoken: Instant::now(),
        };
        let first = async {
            while relay.ready.is_empty() && relay.upstream.is_some() {
                relay.read().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(options.first_event, first).await {
            Ok(Err(error)) => Err((relay.account, error)),
            Ok(Ok(())) | Err(_) => Ok(relay),
        }
    }

    /// The bytes for the caller.
    pub fn into_stream(self) -> ByteStream {
        Box::pin(stream::unfold(self, |mut relay| async move {
            let bytes = relay.next().await?;
            Some((bytes, relay))
        }))
    }

    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        while self.ready.is_empty() {
            self.upstream.as_ref()?;
            let is_events = self.reading.is_events();
            let keep_alive = self.options.keep_alive.filter(|_| is_events);
            let keep_alive = keep_alive.map(|limit| self.spoken + limit);
            let read = match keep_alive {
                None => self.read().await,
                // Reading goes on where it was left: nothing is lost when it is dropped while it waits.
                Some(deadline) => match tokio::time::timeout_at(deadline, self.read()).await {
                    Ok(read) => read,
                    Err(_) => {
                        self.ready.extend_from_slice(KEEP_ALIVE);
                        Ok(())
                    }
                },
            };
            if let Err(error) = read {
                self.fail(error);
                if !is_events {
                    // There are no words for it: the caller's connection breaks.
                    return Some(Err(Broken));
                }
            }
        }
        self.spoken = Instant::now();
        Some(Ok(self.ready.split().freeze()))
    }

    /// Reads once from the upstream and makes ready what is for the caller.
    async fn read(&mut self) -> Result<(), RequestError> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        let chunk = match self.options.silence {
            None => upstream.chunk().await,
            Some(limit) => {
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                tokio::time::timeout_at(since + limit, upstream.chunk())
                    .await
                    .map_err(|_| UpstreamError::Timeout(limit))?
            }
        };
        self.waiting_since = None;
        match chunk {
            Some(Ok(bytes)) => {
                let begin = self.ready.len();
                let (reading, ready) = (&mut self.reading, &mut self.ready);
                let progress = self.account.see(|seen| reading.portion(&bytes, seen, ready));
                self.account.event_arrived();
                let is_end = matches!(progress, Ok(Progress::Done));
                self.account.guarding.portion(ready, begin, is_end)?;
                if progress? == Progress::Done {
                    self.done();
                }
                Ok(())
            }
            Some(Err(error)) => Err(UpstreamError::Cut(error.to_string()).into()),
            None => self.ended(),
        }
    }

    /// The stream is complete. What the upstream still sends is not for the caller.
    fn done(&mut self) {
        self.account.settle(StatusCode::OK);
        let Some(mut upstream) = self.upstream.take() else { return };
        tokio::task::spawn_local(tokio::time::timeout(END_WAIT, async move {
            while let Some(Ok(_)) = upstream.chunk().await {}
        }));
    }

    /// The upstream has ended its answer without saying that it was complete.
    fn ended(&mut self) -> Result<(), RequestError> {
        let begin = self.ready.len();
        let (reading, ready) = (&mut self.reading, &mut self.ready);
        let ended = self.account.see(|seen| reading.end(seen, ready));
        self.account.guarding.portion(ready, begin, ended.is_ok())?;
        ended?;
        self.upstream = None;
        self.account.settle(StatusCode::OK);
        Ok(())
    }

    /// Tells the caller, whose status is long sent, in the stream.
    fn fail(&mut self, mut error: RequestError) {
        self.upstream = None;
        if matches!(error, RequestError::Upstream(_)) {
            // What was held back is not lost by it.
            let begin = self.ready.len();
            let rest = self.account.guarding.portion(&mut self.ready, begin, true);
            error = rest.err().unwrap_or(error);
        }
        self.account.settle_failed(&error);
        error_event(&self.account, &error, &mut self.ready);
    }
}

/// Adds the event that tells an error to a caller whose status is long sent.
pub fn error_event(account: &Account, error: &RequestError, out: &mut BytesMut) {
    out.extend_from_slice(b"event: error\ndata: ");
    out.extend_from_slice(&account.endpoint.dialect.envelope(error));
    out.extend_from_slice(b"\n\n");
}
