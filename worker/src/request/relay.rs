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
use crate::provider::openai::{Chunk, read_chunk};
use crate::server::ByteStream;
use crate::sse::{Decoder, Event};
use crate::upstream::AnswerBody;

/// What keeps a silent stream from being taken for dead: an empty comment.
const KEEP_ALIVE: &[u8] = b":\n\n";
/// The first event is waited for this long before the caller is answered: an error in it still gets its own status.
const FIRST_EVENT_WAIT: Duration = Duration::from_secs(1);
/// After `[DONE]` the upstream has this long to end its answer, so that the connection can be used again.
const END_WAIT: Duration = Duration::from_secs(1);

/// How a stream is relayed.
#[derive(Clone, Copy, Debug)]
pub struct RelayOptions {
    /// Whether the caller asked for the chunk that holds nothing but usage.
    pub wants_usage: bool,
    /// The longest silence of the upstream.
    pub silence: Option<Duration>,
    /// The longest silence towards the caller.
    pub keep_alive: Option<Duration>,
}

/// A stream that has begun well.
pub struct Relay {
    account: Account,
    /// `None` once there is nothing more to read.
    upstream: Option<AnswerBody>,
    decoder: Decoder,
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
        account: Account,
        upstream: AnswerBody,
        options: RelayOptions,
    ) -> Result<Self, (Account, RequestError)> {
        let mut relay = Self {
            account,
            upstream: Some(upstream),
            decoder: Decoder::default(),
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
        match tokio::time::timeout(FIRST_EVENT_WAIT, first).await {
            Ok(Err(error)) => Err((relay.account, RequestError::Upstream(error))),
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

    async fn next(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() {
            self.upstream.as_ref()?;
            let keep_alive = self.options.keep_alive.map(|limit| self.spoken + limit);
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
                self.fail(RequestError::Upstream(error));
            }
        }
        self.spoken = Instant::now();
        Some(self.ready.split().freeze())
    }

    /// Reads once from the upstream and makes ready what is for the caller.
    async fn read(&mut self) -> Result<(), UpstreamError> {
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
                self.decoder.push(&bytes);
                while self.upstream.is_some()
                    && let Some(event) = self
                        .decoder
                        .next_event()
                        .map_err(|error| UpstreamError::Decode(error.to_string()))?
                {
                    self.relay(&event)?;
                }
                Ok(())
            }
            Some(Err(error)) => Err(UpstreamError::Cut(error.to_string())),
            None => self.ended(),
        }
    }

    fn relay(&mut self, event: &Event) -> Result<(), UpstreamError> {
        if let Some(data) = &event.data {
            self.account.event_arrived();
            match self.account.see(|seen| read_chunk(&event.name, data, seen)) {
                Chunk::Part => {}
                Chunk::UsageOnly if self.options.wants_usage => {}
                Chunk::UsageOnly => return Ok(()),
                Chunk::Done => self.done(),
                Chunk::Error(error) => return Err(UpstreamError::InBand(error)),
            }
        }
        self.ready.extend_from_slice(&event.raw);
        Ok(())
    }

    /// The stream is complete. What the upstream still sends is not for the caller.
    fn done(&mut self) {
        self.account.settle(StatusCode::OK);
        let Some(mut upstream) = self.upstream.take() else { return };
        tokio::task::spawn_local(tokio::time::timeout(END_WAIT, async move {
            while let Some(Ok(_)) = upstream.chunk().await {}
        }));
    }

    /// The upstream has ended its answer without `[DONE]`. Some do; then the finish reason tells whether it was complete.
    fn ended(&mut self) -> Result<(), UpstreamError> {
        if let Some(event) = self.decoder.finish() {
            let before = self.ready.len();
            self.relay(&event)?;
            let is_complete =
                self.upstream.is_none() || self.account.see(|seen| !seen.finish_reason.is_empty());
            if is_complete && self.ready.len() > before {
                // What the upstream left out, without which the event is none.
                self.ready.extend_from_slice(b"\n\n");
            } else {
                // A fragment: what follows must not become part of it.
                self.ready.truncate(before);
            }
        }
        if self.upstream.is_none() {
            return Ok(());
        }
        if self.account.see(|seen| seen.finish_reason.is_empty()) {
            return Err(UpstreamError::Cut("the answer ended before its last chunk".to_owned()));
        }
        self.upstream = None;
        self.account.settle(StatusCode::OK);
        Ok(())
    }

    /// Tells the caller, whose status is long sent, in the stream.
    fn fail(&mut self, error: RequestError) {
        self.upstream = None;
        self.account.settle_failed(&error);
        self.ready.extend_from_slice(b"event: error\ndata: ");
        self.ready.extend_from_slice(&self.account.endpoint.dialect.envelope(&error));
        self.ready.extend_from_slice(b"\n\n");
    }
}
