//! One try to deliver a batch: OTLP over HTTP, in protobuf, without compression.
//!
//! What a collector answers is looked at as far as the protocol gives it a meaning: it has taken the batch, or a part of it,
//! or wants it again later, or never. Its words are cut and never believed to be anything but words.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST,
    RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use shared::egress::Key;
use shared::resource::{Exporter, UpstreamTls};
use shared::version::VERSION;
use tokio::time::timeout;

use crate::upstream::{Answer, Place, Upstreams};

/// How long a try may take.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// So much of an answer is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A collector may ask for no longer a pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Headers that are ours: others of these names would break the request.
const OURS: [HeaderName; 11] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What a collector has taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Spans that it has not.
    pub rejected: usize,
    /// Why not.
    pub reason: String,
}

/// Why a batch was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may be tried again, after that long if the collector has said so.
    Later(String, Option<Duration>),
    /// It will never be taken.
    Never(String),
}

/// Where the batches of one exporter go.
pub struct Collector {
    place: Rc<Place>,
    target: String,
    headers: HeaderMap,
}

impl Collector {
    /// That of an exporter.
    pub fn new(exporter: &Exporter) -> Self {
        let endpoint = &exporter.endpoint.endpoint;
        let mut headers = HeaderMap::new();
        for (name, value) in &exporter.headers {
            let name = HeaderName::try_from(name.as_str());
            let value = HeaderValue::try_from(value.expose().as_str());
            // Those that are none were left out by the supervisor already.
            if let (Ok(name), Ok(mut value)) = (name, value)
                && !OURS.contains(&name)
            {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let agent = HeaderValue::try_from(format!("AISIX/{VERSION}"));
        headers.entry(USER_AGENT).or_insert(agent.unwrap_or(HeaderValue::from_static("AISIX")));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let place = Place::new(Key::export(&exporter.id), endpoint.clone(), UpstreamTls::default());
        headers.extend(place.host.clone().map(|host| (HOST, host)));
        Self { place: Rc::new(place), target: exporter.endpoint.target.clone(), headers }
    }

    /// Tries once.
    pub async fn post(&self, upstreams: &Rc<Upstreams>, batch: Bytes) -> Result<Taken, Failure> {
        // The path is left out of every reason: a query may hold a key.
        let authority = self.place.endpoint.authority();
        let trying = timeout(SEND_LIMIT, self.post_unlimited(upstreams, batch));
        trying.await.unwrap_or_else(|_| {
            Err(Failure::Later(format!("{authority} has not answered within {SEND_LIMIT:?}"), None))
        })
    }

    async fn post_unlimited(
        &self,
        upstreams: &Rc<Upstreams>,
        batch: Bytes,
    ) -> Result<Taken, Failure> {
        let authority = self.place.endpoint.authority();
        let mut request = Request::new(batch);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.parse().map_err(|_| {
            Failure::Never(format!("the path of the endpoint at {authority} cannot be asked for"))
        })?;
        *request.headers_mut() = self.headers.clone();
        let answer = upstreams.send(&self.place, &mut request.into()).await;
        let answer = answer.map_err(|error| Failure::Later(error.to_string(), None))?;
        let head = &answer.head;
        match judge(head.status, &head.headers(), &authority) {
            Ok(()) => {
                let body = read(answer).await;
                body.map(|body| taken(&body)).map_err(|reason| {
                    Failure::Later(format!("{authority} stopped in its answer: {reason}"), None)
                })
            }
            Err(failure) => Err(failure),
        }
    }
}

/// What the status of an answer means, as the protocol has it.
fn judge(status: StatusCode, headers: &HeaderMap, authority: &str) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let reason = format!("{authority} answers with status {}", status.as_u16());
    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return Err(Failure::Never(reason));
    }
    let after = headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok());
    let after = after.and_then(|it| it.trim().parse().ok()).map(Duration::from_secs);
    Err(Failure::Later(reason, after.map(|after| after.min(PAUSE_MAX))))
}

async fn read(mut answer: Answer) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.body.chunk().await {
        let chunk = chunk.map_err(|error| error.to_string())?;
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            // It is taken all the same; more of it would say nothing.
            return Ok(Bytes::new());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// What an answer says of the parts of a batch. One that cannot be read says nothing.
fn taken(body: &[u8]) -> Taken {
    let answer = ExportTraceServiceResponse::decode(body).ok();
    let Some(partial) = answer.and_then(|answer| answer.partial_success) else {
        return Taken::default();
    };
    let rejected = usize::try_from(partial.rejected_spans).unwrap_or(0);
    Taken { rejected, reason: partial.error_message.chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use proptest::prelude::*;

    use super::*;

    fn exporter(headers: &[(&str, &str)]) -> Exporter {
        let secret =
            |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned().into());
        Exporter {
            id: "o".to_owned(),
            name: "otel".to_owned(),
            endpoint: "https://otel.example/v1/traces?key=s3cret".parse().unwrap(),
            headers: headers.iter().map(secret).collect(),
            sample_rate: 1.0,
        }
    }

    #[test]
    fn only_what_the_protocol_calls_retryable_is_tried_again_and_when_the_collector_wants_it() {
        let judge = |status: u16, after: Option<&'static str>| {
            let after = after.map(|it| (RETRY_AFTER, HeaderValue::from_static(it)));
            let headers = after.into_iter().collect();
            judge(StatusCode::from_u16(status).unwrap(), &headers, "o:1")
        };
        for status in [200, 202, 204] {
            assert_eq!(judge(status, None), Ok(()));
        }
        for status in [429, 502, 503, 504] {
            assert!(matches!(judge(status, Some("x")), Err(Failure::Later(_, None))), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 408, 413, 500, 501] {
            assert!(matches!(judge(status, Some("1")), Err(Failure::Never(_))), "{status}");
        }
        let Err(Failure::Later(reason, after)) = judge(503, Some("7")) else { panic!() };
        assert_eq!(
            (reason.as_str(), after),
            ("o:1 answers with status 503", Some(Duration::from_secs(7)))
        );
        assert!(matches!(judge(429, Some("99999999")), Err(Failure::Later(_, Some(PAUSE_MAX)))));
    }

    #[test]
    fn a_part_that_was_not_taken_is_counted() {
        let partial =
            ExportTracePartialSuccess { rejected_spans: 3, error_message: "x".repeat(999) };
        let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
        let taken = taken(&answer.encode_to_vec());
        assert_eq!((taken.rejected, taken.reason.len()), (3, 200));
        assert_eq!(super::taken(b"{}"), Taken::default());
        assert_eq!(super::taken(b""), Taken::default());
    }

    #[test]
    fn headers_that_would_break_the_request_are_left_out_and_the_others_are_never_shown() {
        let collector = Collector::new(&exporter(&[
            ("authorization", "Bearer s3cret"),
            ("transfer-encoding", "chunked"),
            ("host", "elsewhere"),
            ("content-type", "text/plain"),
        ]));
        let headers = &collector.headers;
        assert_eq!(headers["authorization"], "Bearer s3cret");
        assert!(!format!("{headers:?}").contains("s3cret"));
        assert_eq!(headers[HOST], "otel.example");
        assert_eq!(headers[CONTENT_TYPE], "application/x-protobuf");
        assert!(!headers.contains_key(TRANSFER_ENCODING));
    }

    proptest! {
        #[test]
        fn no_answer_of_a_collector_can_break_anything(body: Vec<u8>) {
            prop_assert!(taken(&body).reason.chars().count() <= 200);
        }
    }
}
