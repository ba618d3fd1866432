//! A collector of traces: OTLP over HTTP, with or without TLS, that keeps what it is sent and can refuse it or be away.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::{port, wait};

/// A collector with an address of its own. It can be stopped and started again.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    batches: Vec<Batch>,
    /// Answers to give first: status, `Retry-After`.
    refusals: Vec<(u16, Option<u64>)>,
    /// Spans of each batch that are said not to be taken.
    rejected: i64,
    refused: usize,
}

/// A batch as it came.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The path it was posted to, with its query.
    pub target: String,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// Its spans.
    pub spans: Vec<SpanSeen>,
}

/// A span as a person would read it.
#[derive(Clone, Debug)]
pub struct SpanSeen {
    /// Its name.
    pub name: String,
    /// `Server`, `Client`.
    pub kind: String,
    /// Its trace, in hex digits.
    pub trace: String,
    /// Its id, in hex digits.
    pub id: String,
    /// Its parent, in hex digits; empty if there is none.
    pub parent: String,
    /// Whether its status is an error.
    pub is_error: bool,
    /// Names of its events.
    pub events: Vec<String>,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Those of who sent it, as text.
    pub resource: BTreeMap<String, String>,
}

impl SpanSeen {
    /// An attribute; empty if it is not there.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl Collector {
    /// One that runs, without TLS.
    pub async fn start() -> Self {
        let mut collector = Self::stopped();
        collector.resume().await;
        collector
    }

    /// The same, not yet running: its address is there.
    pub fn stopped() -> Self {
        Self { address: port::reserve(), state: Arc::default(), serving: None }
    }

    /// One that runs, with a certificate of that authority.
    pub async fn start_tls(authority: &Authority) -> Self {
        let files = authority.server();
        let chain = vec![CertificateDer::from_pem_file(&files.certificate).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a usable certificate");
        let mut collector = Self::stopped();
        collector.serve(Some(TlsAcceptor::from(Arc::new(config)))).await;
        collector
    }

    /// Runs again, at the same address.
    pub async fn resume(&mut self) {
        self.serve(None).await;
    }

    /// Nobody answers at its address any more; open connections are cut.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    async fn serve(&mut self, tls: Option<TlsAcceptor>) {
        let address = self.address;
        let listener =
            wait::until("the collector's port is free", async || TcpListener::bind(address).await)
                .await;
        let state = Arc::clone(&self.state);
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&state), tls.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| take(Arc::clone(&state), request));
                    let http = http1::Builder::new();
                    // How a connection ends is the gateway's business.
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            drop(http.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        }));
    }

    /// Where it is, or would be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers the next batch with that status, and takes nothing of it.
    pub fn refuse(&self, status: u16, retry_after: Option<u64>) {
        self.state().refusals.push((status, retry_after));
    }

    /// Says of each batch that so many of its spans are not taken.
    pub fn reject(&self, spans: i64) {
        self.state().rejected = spans;
    }

    /// How many batches it has refused.
    pub fn refused(&self) -> usize {
        self.state().refused
    }

    /// What it has taken.
    pub fn batches(&self) -> Vec<Batch> {
        self.state().batches.clone()
    }

    /// Every span it has taken.
    pub fn spans(&self) -> Vec<SpanSeen> {
        self.state().batches.iter().flat_map(|batch| batch.spans.clone()).collect()
    }

    /// The spans of a trace, in the order in which they began, once there are so many.
    pub async fn trace(&self, trace: &str, count: usize) -> Vec<SpanSeen> {
        wait::until(&format!("{count} spans of trace {trace} come"), async || {
            let spans: Vec<_> = self.spans().into_iter().filter(|it| it.trace == trace).collect();
            if spans.len() >= count { Ok(spans) } else { Err(format!("{spans:?}")) }
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn take(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Full::default());
    let Ok(body) = body.collect().await else { return Ok(response) };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if !state.refusals.is_empty() {
        let (status, after) = state.refusals.remove(0);
        state.refused += 1;
        *response.status_mut() = status.try_into().expect("a status");
        if let Some(after) = after {
            response.headers_mut().insert(RETRY_AFTER, after.into());
        }
        return Ok(response);
    }
    let request = ExportTraceServiceRequest::decode(body.to_bytes()).expect("a batch of spans");
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    state.batches.push(Batch { target, headers: head.headers, spans: seen(request) });
    let partial_success = (state.rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: state.rejected,
        error_message: "too many".to_owned(),
    });
    *response.body_mut() = ExportTraceServiceResponse { partial_success }.encode_to_vec().into();
    let protobuf = http::HeaderValue::from_static("application/x-protobuf");
    response.headers_mut().insert(CONTENT_TYPE, protobuf);
    Ok(response)
}

fn seen(request: ExportTraceServiceRequest) -> Vec<SpanSeen> {
    let mut seen = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(&of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
            seen.push(SpanSeen {
                kind: format!("{:?}", span.kind()),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                is_error: span.status.is_some_and(|status| status.code == 2),
                events: span.events.into_iter().map(|event| event.name).collect(),
                attributes: texts(&span.attributes),
                resource: resource.clone(),
                name: span.name,
            });
        }
    }
    seen
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |attribute: &KeyValue| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        Some((attribute.key.clone(), text(value)))
    };
    attributes.iter().filter_map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
