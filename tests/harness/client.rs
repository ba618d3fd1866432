//! A small HTTP/1.1 client, one connection at a time, that tells apart what can go wrong.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::sse;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody accepts connections there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection failed before the answer was complete: {0}")]
    Exchange(#[from] hyper::Error),
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    local: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

/// One answer, its body still to be read.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    events: sse::Reader,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| ClientError::Connect { address, source })?;
        let local =
            stream.local_addr().map_err(|source| ClientError::Connect { address, source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How it ends is told by the request that it carries.
        tokio::spawn(connection);
        Ok(Self { address, local, sender })
    }

    /// The other end of it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Our end of it.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends a request and takes the head of its answer.
    pub async fn send(&mut self, mut request: Request<Bytes>) -> Result<Answer, ClientError> {
        let host = http::HeaderValue::try_from(self.address.to_string());
        if let Ok(host) = host {
            request.headers_mut().entry(http::header::HOST).or_insert(host);
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            events: sse::Reader::default(),
        })
    }
}

/// Sends one request over a connection of its own.
pub async fn send(address: SocketAddr, request: Request<Bytes>) -> Result<Answer, ClientError> {
    Connection::open(address).await?.send(request).await
}

/// Asks for a path over a connection of its own.
pub async fn fetch(address: SocketAddr, path: &str) -> Result<Answer, ClientError> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = path.parse().unwrap_or_default();
    send(address, request).await
}

/// A request with a JSON body.
pub fn post(path: &str, body: &Value) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(body.to_string()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path.parse().unwrap_or_default();
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(http::header::CONTENT_TYPE, json);
    request
}

impl Answer {
    /// A header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The whole body.
    pub async fn bytes(self) -> Result<Bytes, ClientError> {
        Ok(self.body.collect().await?.to_bytes())
    }

    /// The whole body as text.
    pub async fn text(self) -> Result<String, ClientError> {
        Ok(String::from_utf8_lossy(&self.bytes().await?).into_owned())
    }

    /// The whole body as JSON; null if it is not.
    pub async fn json(self) -> Result<Value, ClientError> {
        Ok(serde_json::from_slice(&self.bytes().await?).unwrap_or_default())
    }

    /// The next server-sent event, `None` at the end of the stream.
    pub async fn next_event(&mut self) -> Result<Option<sse::Event>, ClientError> {
        loop {
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.events.push(&data);
            }
        }
    }

    /// The data of all remaining events.
    pub async fn events(mut self) -> Result<Vec<sse::Event>, ClientError> {
        let mut events = Vec::new();
        while let Some(event) = self.next_event().await? {
            events.push(event);
        }
        Ok(events)
    }
}
