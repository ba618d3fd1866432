//! A stream from the upstream to the caller: every event as it came, as soon as it has come.
//!
//! ```text
//! events ── [DONE] ──▶ settled, end
//!        ── end after a finish reason ──▶ settled, end
//!        ── error, silence, end before that ──▶ settled as failed, `event: error`, end without [DONE]
//! ```
//! The caller's connection pulls: what it does not take is not read from the upstream. Who drops the stream has ended the
//! upstream's connection with it, and the account settles as gone.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Stream};
use http::StatusCode;
use tokio::time::{Instant, Sleep, sleep_until};

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
    /// The same as they came, where nothing else is ready.
    untouched: Bytes,
    /// Since when the upstream is waited for; `None` while the caller is.
    waiting_since: Option<Instant>,
    /// When the caller was sent something last, as far as it is known before the upstream is waited for again.
    spoken: Option<Instant>,
    /// Wakes whoever waits, at the latest when there is something to say about the silence. It is set once for many events: what
    /// becomes of it when it fires is decided then.
    alarm: Option<Alarm>,
}

/// A timer, and who is woken by it.
struct Alarm {
    timer: Pin<Box<Sleep>>,
    waker: Waker,
}

/// What is to be said about a silence.
enum Silence {
    /// It was too long for the upstream.
    Upstream(Duration),
    /// It was too long for the caller.
    Caller,
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
        let is_events = reading.is_events();
        let keep_alive = options.keep_alive.filter(|_| is_events);
        let mut relay = Self {
            account,
            upstream: Some(upstream),
            reading,
            // Nobody is spoken to yet.
            options: RelayOptions { keep_alive: None, ..options },
            ready: BytesMut::new(),
            untouched: Bytes::new(),
            waiting_since: None,
            spoken: Some(Instant::now()),
            alarm: None,
        };
        let first = async {
            while relay.is_empty() && relay.upstream.is_some() {
                poll_fn(|context| relay.poll_read(context)).await?;
            }
            Ok(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(options.first_event, first).await {
            return Err((relay.account, error));
        }
        relay.options.keep_alive = keep_alive;
        relay.alarm = None;
        Ok(relay)
    }

    /// The bytes for the caller.
    pub fn into_stream(self: Box<Self>) -> ByteStream {
        Box::into_pin(self)
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.untouched.is_empty()
    }

    /// Reads once from the upstream and makes ready what is for the caller: of what has come, or of the silence.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Ok(())) };
        let Poll::Ready(chunk) = upstream.poll_chunk(context) else {
            return self.poll_silence(context).map(|silence| match silence {
                Silence::Upstream(limit) => Err(UpstreamError::Timeout(limit).into()),
                Silence::Caller => {
                    self.ready.extend_from_slice(KEEP_ALIVE);
                    Ok(())
                }
            });
        };
        self.waiting_since = None;
        Poll::Ready(match chunk {
            Some(Ok(bytes)) => self.take(bytes),
            Some(Err(error)) => Err(UpstreamError::Cut(error.to_string()).into()),
            None => self.ended(),
        })
    }

    /// Ready when the silence has been too long for one of the two.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Silence> {
        let RelayOptions { silence, keep_alive, .. } = self.options;
        if silence.is_none() && keep_alive.is_none() {
            return Poll::Pending;
        }
        let (since, spoken) = match (self.waiting_since, self.spoken) {
            (Some(since), Some(spoken)) => (since, spoken),
            (since, spoken) => {
                let now = Instant::now();
                (since.unwrap_or(now), spoken.unwrap_or(now))
            }
        };
        (self.waiting_since, self.spoken) = (Some(since), Some(spoken));
        let ends = [silence.map(|limit| since + limit), keep_alive.map(|limit| spoken + limit)];
        let [upstream, caller] = ends;
        let Some(next) = ends.into_iter().flatten().min() else { return Poll::Pending };
        let alarm = self.alarm.get_or_insert_with(|| Alarm {
            timer: Box::pin(sleep_until(next)),
            waker: Waker::noop().clone(),
        });
        if alarm.timer.deadline() > next {
            alarm.timer.as_mut().reset(next);
        } else if !alarm.timer.is_elapsed() && alarm.waker.will_wake(context.waker()) {
            return Poll::Pending;
        }
        loop {
            if alarm.timer.as_mut().poll(context).is_pending() {
                alarm.waker.clone_from(context.waker());
                return Poll::Pending;
            }
            let now = Instant::now();
            if let (Some(limit), Some(end)) = (silence, upstream)
                && end <= now
            {
                return Poll::Ready(Silence::Upstream(limit));
            }
            if caller.is_some_and(|end| end <= now) {
                return Poll::Ready(Silence::Caller);
            }
            alarm.timer.as_mut().reset(next);
        }
    }

    /// Makes ready what of the bytes is for the caller.
    fn take(&mut self, bytes: Bytes) -> Result<(), RequestError> {
        let begin = self.ready.len();
        let (reading, ready) = (&mut self.reading, &mut self.ready);
        let alike = self.account.see(|seen| reading.alike(&bytes, seen));
        if alike == bytes.len() && ready.is_empty() && !self.account.guarding.is_streaming() {
            self.account.event_arrived();
            self.untouched = bytes;
            return Ok(());
        }
        let (passed, rest) = bytes.split_at_checked(alike).unwrap_or_default();
        ready.extend_from_slice(passed);
        let progress = match rest {
            [] => Ok(Progress::More),
            rest => self.account.see(|seen| reading.portion(rest, seen, ready)),
        };
        self.account.event_arrived();
        let is_end = matches!(progress, Ok(Progress::Done));
        self.account.guarding.portion(ready, begin, is_end)?;
        if progress? == Progress::Done {
            self.done();
        }
        Ok(())
    }

    /// The stream is complete. What the upstream still sends is not for the caller.
    fn done(&mut self) {
        self.account.settle(StatusCode::OK);
        let Some(mut upstream) = self.upstream.take() else { return };
        // Mostly its end has come with it.
        if let Some(None) = upstream.chunk().now_or_never() {
            return;
        }
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

impl Stream for Relay {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.is_empty() {
            if self.upstream.is_none() {
                return Poll::Ready(None);
            }
            if let Err(error) = ready!(self.poll_read(context)) {
                self.fail(error);
                if !self.reading.is_events() {
                    // There are no words for it: the caller's connection breaks.
                    return Poll::Ready(Some(Err(Broken)));
                }
            }
        }
        self.spoken = None;
        let untouched = std::mem::take(&mut self.untouched);
        let bytes = if untouched.is_empty() { self.ready.split().freeze() } else { untouched };
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// Adds the event that tells an error to a caller whose status is long sent.
pub fn error_event(account: &Account, error: &RequestError, out: &mut BytesMut) {
    out.extend_from_slice(b"event: error\ndata: ");
    out.extend_from_slice(&account.endpoint.dialect.envelope(error));
    out.extend_from_slice(b"\n\n");
}
