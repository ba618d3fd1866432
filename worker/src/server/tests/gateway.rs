//! A gateway on loopback, and a caller of it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use shared::counters::Counters;
use shared::dial::{Destination, Dial, DialError, Dialling};
use shared::resource::{
    Adapter, ApiKey, DirectModel, Model, ModelKind, ProviderKey, Resource, TelemetryTags,
};
use shared::update::Change;
use shared::usage::UsageEvent;
use shared::worker_settings::{ProxySettings, UpstreamSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::metrics::Metrics;
use crate::server::{Proxy, UsageSink, serve};
use crate::upstream::TrustRoots;

/// Settings with every limit off, unless a test says otherwise.
pub(crate) fn test_settings() -> ProxySettings {
    ProxySettings {
        request_body_bytes_max: 0,
        trusted_proxies: Vec::new(),
        real_ip_recursive: false,
        real_ip_header: "x-forwarded-for".to_owned(),
        request_id_headers: vec!["x-aisix-request-id".to_owned()],
        upstream: UpstreamSettings {
            timeout_ms: 0,
            stream_timeout_ms: 0,
            connect_timeout_ms: 5_000,
            keepalive_ms: 60_000,
            keepalive_interval_ms: 30_000,
            keepalive_retries: 5,
            pool_idle_ms: 30_000,
            pool_idle_max: None,
            ca_pem: None,
            client_identity_pem: None,
            verify: true,
            platform_roots: Vec::new(),
        },
        downstream_idle_ms: 0,
        sse_keepalive_ms: 0,
        env_id: "env-1".to_owned(),
        access_log: true,
        url_rewrites: Vec::new(),
        client_rules: Vec::new(),
        retries: 0,
        budget_unknown: None,
        tls: false,
        limits_redis: None,
        concurrency_ttl_ms: 300_000,
        cache_redis: None,
        trace_ratio: None,
    }
}

/// Keeps what it is told.
#[derive(Default)]
pub(super) struct Recorded(RefCell<Vec<UsageEvent>>);

impl UsageSink for Recorded {
    fn record(&self, event: UsageEvent<Cow<'_, str>>) {
        let encoded = shared::codec::encode(&event).unwrap();
        self.0.borrow_mut().push(shared::codec::decode::<_, { 1 << 20 }>(&encoded).unwrap());
    }
}

/// Connects by itself.
struct Direct;

impl Dial for Direct {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((destination.host.as_str(), destination.port)).await;
            let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            let destination = destination.clone();
            stream.map_err(|source| DialError::Connect { destination, source })
        })
    }
}

pub(crate) struct Gateway {
    pub address: SocketAddr,
    pub proxy: Rc<Proxy>,
    pub stop: Rc<Notify>,
    pub serving: JoinHandle<()>,
    usage: Rc<Recorded>,
}

impl Gateway {
    /// A gateway with the caller key `sk-demo` and the model `chat` at `upstream`.
    pub async fn start(settings: ProxySettings, upstream: SocketAddr) -> Self {
        let usage = Rc::new(Recorded::default());
        let dial = Rc::new(Direct);
        let metrics = Rc::new(Metrics::disconnected());
        let proxy = Proxy::new(
            settings,
            dial,
            TrustRoots::new(Vec::new()),
            usage.clone(),
            metrics,
            Counters::private(),
        );
        proxy.health.configured();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Rc::new(Notify::new());
        let (stopped, serving) = (stop.clone(), proxy.clone());
        let serving = tokio::task::spawn_local(async move {
            serve(listener, serving, None, stopped.notified()).await;
        });
        let gateway = Self { address, proxy, stop, serving, usage };
        gateway.put(Resource::ApiKey(api_key("k-1", "sk-demo")));
        gateway.put(Resource::ProviderKey(provider_key("pk-1", &format!("http://{upstream}/v1"))));
        gateway.put(Resource::Model(model("m-1", "chat", "pk-1")));
        gateway
    }

    pub fn put(&self, resource: Resource) {
        let change = Change::Put(Box::new(resource));
        self.proxy.tables.borrow_mut().apply(false, [Ok(change)].into_iter()).unwrap();
    }

    pub fn usage(&self) -> Vec<UsageEvent> {
        self.usage.0.borrow().clone()
    }

    pub async fn caller(&self) -> Caller {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Caller { sender, connection }
    }

    /// A chat request with the demo key over a connection of its own.
    pub async fn chat(&self, extra: Value) -> Told {
        self.caller().await.chat(extra).await
    }
}

pub(super) fn api_key(id: &str, key: &str) -> ApiKey {
    let mut key_hash = [0; 32];
    key_hash.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    ApiKey {
        id: id.to_owned(),
        key_hash: Some(key_hash),
        allowed_models: vec!["*".to_owned()],
        team_id: Some("t-1".to_owned()),
        ..ApiKey::default()
    }
}

pub(super) fn provider_key(id: &str, api_base: &str) -> ProviderKey {
    ProviderKey {
        id: id.to_owned(),
        display_name: "main".to_owned(),
        provider: "openai".to_owned(),
        adapter: Some(Adapter::OpenAi),
        secret: "sk-upstream".to_owned().into(),
        endpoint: Some(api_base.parse().unwrap()),
        telemetry_tags: TelemetryTags { kind: Some("byo".to_owned()), ..TelemetryTags::default() },
        ..ProviderKey::default()
    }
}

pub(super) fn model(id: &str, name: &str, provider_key_id: &str) -> Model {
    Model {
        id: id.to_owned(),
        display_name: name.to_owned(),
        kind: ModelKind::Direct(Box::new(DirectModel {
            provider: "openai".to_owned(),
            model_name: "gpt-up".to_owned(),
            provider_key_id: provider_key_id.to_owned(),
            ..DirectModel::default()
        })),
        ..Model::default()
    }
}

/// A connection to the gateway.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

/// A whole answer.
pub(crate) struct Told {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Told {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Caller {
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        self.sender.send_request(request).await.unwrap()
    }

    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> Told {
        let (head, body) = self.send(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Told { status: head.status, headers: head.headers, body }
    }

    pub async fn chat(&mut self, extra: Value) -> Told {
        self.ask(chat_request(extra)).await
    }

    /// Goes away without a word.
    pub fn leave(self) {
        self.connection.abort();
    }

    /// Returns when the gateway has closed the connection.
    pub async fn closed(self) {
        self.connection.await.unwrap();
    }
}

/// A chat request with the demo key; `extra` overrides fields of the body.
pub(super) fn chat_request(extra: Value) -> Request<Full<Bytes>> {
    let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in extra.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    request(
        "POST",
        "/v1/chat/completions",
        &[("authorization", "Bearer sk-demo")],
        &body.to_string(),
    )
}

pub(super) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "gateway");
    if method == "POST" {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}
