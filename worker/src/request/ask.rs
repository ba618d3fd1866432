//! What the attempts for a request come to, and how the caller of a stream is kept company while that takes long: after the first
//! interval of silence the answer begins with comments, and what the upstream then says follows in the stream, an error as an event.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::account::Account;
use super::attempt::{Attempts, Reply};
use super::relay::{KEEP_ALIVE, Relay, RelayOptions, error_event};
use super::repeat::Repeat;
use super::{JSON, RequestError};
use crate::call::{Call, Operation};
use crate::dialect::anthropic;
use crate::server::ByteStream;

/// What the attempts have come to.
pub enum Outcome {
    /// A whole answer.
    Whole {
        /// The account, to be settled.
        account: Box<Account>,
        /// The target of a group that has answered.
        served_by: Option<HeaderValue>,
        /// The answer.
        body: Bytes,
        /// What it is.
        content_type: HeaderValue,
    },
    /// A stream that has begun well.
    Stream {
        /// It.
        relay: Box<Relay>,
        /// The target of a group that answers.
        served_by: Option<HeaderValue>,
        /// What it is.
        content_type: HeaderValue,
    },
    /// None of them has brought an answer; why the last one has not.
    Failed(Box<Account>, RequestError),
}

/// Makes the attempts, until one has answered or begun to.
pub async fn ask(
    mut account: Box<Account>,
    call: &Call,
    mut attempts: Attempts,
    repeat: Repeat,
    head: &Parts,
) -> Outcome {
    loop {
        match attempts.reply(&mut account, call, head).await {
            Err(RequestError::NotOffered(Operation::CountTokens)) => {
                let (body, content_type) = (anthropic::estimate(call).into(), JSON);
                return Outcome::Whole { account, served_by: None, body, content_type };
            }
            Err(error) => return Outcome::Failed(account, error),
            Ok(Reply::Whole { body, content_type }) => {
                let served_by = attempts.served_by();
                return match account.guarding.answer(call.operation, body) {
                    Err(error) => Outcome::Failed(account, error),
                    Ok(body) => {
                        repeat.keep(&account, &content_type, &body);
                        Outcome::Whole { account, served_by, body, content_type }
                    }
                };
            }
            Ok(Reply::Stream { body, content_type, reading }) => {
                let options = RelayOptions {
                    silence: attempts.limits(&account).silence,
                    keep_alive: interval(&account),
                    first_event: attempts.first_event_wait(&account),
                };
                match Relay::begin(account, call.operation, body, reading, options).await {
                    Ok(relay) => {
                        let (relay, served_by) = (Box::new(relay), attempts.served_by());
                        return Outcome::Stream { relay, served_by, content_type };
                    }
                    // The caller has seen nothing of it: another attempt may still be made.
                    Err((returned, error)) => {
                        account = returned;
                        if let Err(error) = attempts.go_on(&mut account, error).await {
                            return Outcome::Failed(account, error);
                        }
                    }
                }
            }
        }
    }
}

/// The longest silence towards the caller of a stream.
pub fn interval(account: &Account) -> Option<Duration> {
    let keep_alive = account.proxy.settings.sse_keepalive_ms;
    (keep_alive > 0).then(|| Duration::from_millis(keep_alive))
}

/// Attempts that are still being made.
pub type Asking = Pin<Box<dyn Future<Output = Outcome>>>;

/// The stream of an answer that has begun before there is any: a comment at once and after each further interval, until there is.
pub fn begun(asking: Asking, interval: Duration) -> ByteStream {
    let waiting = stream::unfold(Some(asking), move |asking| async move {
        let mut asking = asking?;
        let comment = || stream::once(async { Ok(Bytes::from_static(KEEP_ALIVE)) }).boxed_local();
        Some(match tokio::time::timeout(interval, &mut asking).await {
            Err(_) => (comment(), Some(asking)),
            Ok(outcome) => (told(outcome), None),
        })
    });
    let first = stream::once(async { Ok(Bytes::from_static(KEEP_ALIVE)) });
    Box::pin(first.chain(waiting.flatten()))
}

/// What the caller of a stream that has begun is sent of an outcome.
fn told(outcome: Outcome) -> ByteStream {
    let bytes = match outcome {
        Outcome::Stream { relay, .. } => return relay.into_stream(),
        Outcome::Whole { mut account, body, .. } => {
            account.settle(StatusCode::OK);
            body
        }
        Outcome::Failed(mut account, error) => {
            account.settle_failed(&error);
            let mut event = BytesMut::new();
            error_event(&account, &error, &mut event);
            event.freeze()
        }
    };
    Box::pin(stream::once(async { Ok(bytes) }))
}
