//! The body of a request, within its limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::RequestError;
use crate::server::Incoming;

/// The longest silence while a body is read.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a body may take, and how much longer for what has come of it: nobody is so slow who does not mean to be.
const TOTAL_LIMIT: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND: u64 = 4 * 1024;
/// Room for what is announced of a body, for each byte that has come. What has come is so copied once or twice on its way.
const ROOM_AHEAD: u64 = 4;
/// How much of a refused body is read on, so that its sender comes to read the answer, and for how long.
const DRAIN_BYTES_MAX: u64 = 32 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Whether the body is said to be JSON. Who says nothing is believed to send it.
pub fn is_json(head: &Parts) -> Result<(), RequestError> {
    let Some(value) = head.headers.get(CONTENT_TYPE) else { return Ok(()) };
    // As nearly everybody says it.
    if value == "application/json" {
        return Ok(());
    }
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    Err(RequestError::Invalid("the content type must be application/json".to_owned()))
}

/// The whole body, of at most `limit` bytes (0 = any).
pub async fn whole(body: &mut Incoming, limit: u64) -> Result<Bytes, RequestError> {
    let limit = if limit == 0 { u64::MAX } else { limit };
    let too_large = RequestError::BodyTooLarge { limit };
    if body.size_hint().lower() > limit {
        return Err(too_large);
    }
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    let mut begun = None;
    while !body.is_end_stream() {
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                let now = Instant::now();
                let received = (first.len() + rest.len()) as u64;
                let end = *begun.get_or_insert(now) + total_limit(received);
                let frame = tokio::time::timeout_at(end.min(now + SILENCE_MAX), body.frame());
                frame.await.map_err(|_| RequestError::BodyTimeout)?
            }
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let reason = format!("the request body cannot be read: {error}");
                return Err(RequestError::Invalid(reason));
            }
            None => break,
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + rest.len() + data.len();
        if length as u64 > limit {
            return Err(too_large);
        }
        // Most bodies come in one piece, which is then not copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest = BytesMut::from(std::mem::take(&mut first));
            }
            if rest.capacity() - rest.len() < data.len() {
                // Nobody gets much memory for what is only announced.
                let announced = body.size_hint().lower().min(length as u64 * ROOM_AHEAD);
                rest.reserve(data.len() + usize::try_from(announced).unwrap_or_default());
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// How long a body may take of which so much has come.
fn total_limit(received: u64) -> Duration {
    TOTAL_LIMIT + Duration::from_secs(received / BYTES_PER_SECOND)
}

/// Reads what is left of the body of a refused request. A connection that is closed with unread bytes is reset, and the
/// answer may be lost with it. A sender that waits to be told to go on reads the answer instead.
///
/// Returns how it ended, in the word of the metrics.
pub async fn drain(head: &Parts, mut body: Incoming) -> &'static str {
    let declared =
        head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let is_endless = declared.is_some_and(|length: u64| length > DRAIN_BYTES_MAX);
    if is_endless || head.headers.contains_key(EXPECT) {
        return "cap_reached";
    }
    let read_on = async {
        let mut drained = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return "client_read_error" };
            drained += frame.data_ref().map_or(0, |data| data.len() as u64);
            if drained > DRAIN_BYTES_MAX {
                return "cap_reached";
            }
        }
        "completed"
    };
    tokio::time::timeout(DRAIN_LIMIT, read_on).await.unwrap_or("timeout")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn json_is_what_is_said_to_be_it_in_any_way_and_what_nothing_is_said_of() {
        let said = |value: Option<&str>| {
            let mut request = Request::new(());
            let value = value.map(|value| value.parse().unwrap());
            value.map(|value| request.headers_mut().insert(CONTENT_TYPE, value));
            is_json(&request.into_parts().0).is_ok()
        };
        for json in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            " application/json ;x",
            "application/vnd.api+json",
        ] {
            assert!(said(Some(json)), "{json}");
        }
        assert!(said(None));
        for other in ["text/plain", "application/jsonl", "application/json-seq", "text/json", ""] {
            assert!(!said(Some(other)), "{other}");
        }
    }

    #[test]
    fn a_body_that_trickles_ends_and_a_large_one_on_a_slow_line_does_not() {
        // A byte in every silence that is allowed.
        let trickled = |seconds: u64| total_limit(seconds / SILENCE_MAX.as_secs());
        assert!(trickled(120) < Duration::from_secs(120));
        // 64 MiB at 64 KiB a second.
        let seconds = 1024;
        assert!(total_limit(seconds * 64 * 1024) > Duration::from_secs(seconds));
    }
}
