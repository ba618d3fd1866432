//! The body of an upstream's answer on its way to the caller: every byte as it came, as soon as it has come.
//!
//! The caller's connection pulls: what it does not take is not read. Who drops the stream has ended the upstream's connection.
//! Where the upstream breaks off, so does the answer: nobody takes it for complete.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::StatusCode;
use tokio::time::Instant;

use crate::request::UpstreamError;
use crate::request::account::Account;
use crate::server::{Broken, ByteStream};
use crate::upstream::{AnswerBody, TransportError};

/// How long the connection may take to be told that its answer is complete.
const END_WAIT: Duration = Duration::from_secs(1);

/// Relays one body.
pub struct Relay {
    /// The account, which is settled before the last byte leaves.
    pub account: Box<Account>,
    /// What the caller was told.
    pub status: StatusCode,
    /// `None` once there is nothing more to read.
    pub upstream: Option<AnswerBody>,
    /// When the whole answer must be there, and what the limit was.
    pub deadline: Option<(Instant, Duration)>,
    /// What was read to know whether more follows.
    pub ahead: Option<Result<Bytes, UpstreamError>>,
}

impl Relay {
    /// The bytes for the caller.
    pub fn into_stream(self) -> ByteStream {
        Box::pin(stream::unfold(self, |mut relay| async move {
            let bytes = relay.next().await?;
            Some((bytes, relay))
        }))
    }

    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        let read = match self.ahead.take() {
            Some(ahead) => Some(ahead),
            None => self.read().await,
        };
        let bytes = match read {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                self.upstream = None;
                self.account.settle_failed(&error.into());
                return Some(Err(Broken));
            }
            None => {
                self.end();
                return None;
            }
        };
        self.account.see(|seen| seen.has_begun = true);
        self.account.event_arrived();
        if self.upstream.as_ref().is_some_and(AnswerBody::is_end) {
            self.end();
        } else if let Some(upstream) = &mut self.upstream {
            match upstream.chunk().now_or_never() {
                Some(None) => self.end(),
                Some(Some(chunk)) => self.ahead = Some(chunk.map_err(cut)),
                None => {}
            }
        }
        Some(Ok(bytes))
    }

    async fn read(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let upstream = self.upstream.as_mut()?;
        let chunk = match self.deadline {
            None => upstream.chunk().await,
            Some((deadline, limit)) => {
                match tokio::time::timeout_at(deadline, upstream.chunk()).await {
                    Ok(chunk) => chunk,
                    Err(_) => return Some(Err(UpstreamError::Timeout(limit))),
                }
            }
        };
        chunk.map(|chunk| chunk.map_err(cut))
    }

    /// The answer is complete: the connection is given back, and the account settled.
    fn end(&mut self) {
        self.account.settle(self.status);
        if let Some(mut upstream) = self.upstream.take() {
            tokio::task::spawn_local(tokio::time::timeout(END_WAIT, async move {
                while let Some(Ok(_)) = upstream.chunk().await {}
            }));
        }
    }
}

fn cut(error: TransportError) -> UpstreamError {
    UpstreamError::Cut(error.to_string())
}
