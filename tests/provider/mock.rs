//! A provider in a few words: what it says to a request is a function, and every request is kept.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How.
    pub method: Method,
    /// Path and query, as they came.
    pub target: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Asked {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What is said.
#[derive(Clone, Debug)]
pub struct Said {
    /// With which status.
    pub status: u16,
    /// What it is.
    pub content_type: &'static str,
    /// The body, piece by piece.
    pub pieces: Vec<Bytes>,
    /// Whether the connection breaks behind the last piece.
    pub is_cut: bool,
}

impl Said {
    /// JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        let pieces = vec![Bytes::from(body.to_string())];
        Self { status, content_type: "application/json", pieces, is_cut: false }
    }
}

/// A running provider. It ends when this is dropped.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: JoinHandle<()>,
}

impl Mock {
    /// Listens on a free port.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.await.expect("a free port for the provider");
        let address = listener.local_addr().expect("the port");
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (kept, answer) = (Arc::clone(&asked), Arc::new(answer));
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                let service = service_fn(move |request| {
                    let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                    async move { respond(&kept, &*answer, request).await }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, asked, accepting }
    }

    /// Where it listens, as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, io::Error>;

async fn respond(
    kept: &Mutex<Vec<Asked>>,
    answer: &(impl Fn(&Asked) -> Said + Send + Sync),
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked =
        Asked { method: head.method, target: head.uri.to_string(), headers: head.headers, body };
    let said = answer(&asked);
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let mut steps: Vec<_> = said.pieces.into_iter().map(|piece| Ok(Frame::data(piece))).collect();
    if said.is_cut {
        steps.push(Err(io::Error::from(io::ErrorKind::ConnectionAborted)));
    }
    // What was written must leave before the connection breaks.
    let steps = stream::unfold(steps.into_iter(), |mut steps| async move {
        tokio::task::yield_now().await;
        let step = steps.next()?;
        if step.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Some((step, steps))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(steps)));
    *response.status_mut() = StatusCode::from_u16(said.status).unwrap_or_default();
    let content_type = HeaderValue::from_static(said.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}
