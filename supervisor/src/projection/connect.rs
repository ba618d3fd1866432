//! One connection to the store: dialled, in TLS where it is `https`, and handed to the etcd client.
//!
//! The client never connects by itself. When the connection ends everything on it fails, and the follower makes the next
//! one, with whatever identity is in force then.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use http::Uri;
use hyper_util::rt::TokioIo;
use shared::dial::{Destination, Dial, DialError};
use shared::egress::Key;
use shared::resource::{Endpoint, EndpointError};
use shared::secret::Secret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tower_service::Service;

use crate::cloud::tls::{self, CredentialsInForce, Protocol};

/// A silent connection is asked whether it is alive this often, and given up after this long.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Flow control window: a load is not held up by round trips.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Where the projection comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// URLs, `http` or `https`, tried in turn.
    pub endpoints: Vec<String>,
    /// Keys begin with this. Ends with a slash.
    pub prefix: String,
    /// For `https`.
    pub tls: Option<SourceTls>,
    /// Name and password of an etcd user.
    pub user: Option<(String, Secret<String>)>,
    /// A connection with its handshakes may take this long.
    pub dial_limit: Duration,
    /// An answer may take this long: a page of a load, the beginning of a watch.
    pub request_limit: Duration,
}

/// What to show to the store, and whom to take for it.
#[derive(Clone, Debug)]
pub struct SourceTls {
    /// In force at the time of a connection.
    pub credentials: CredentialsInForce,
    /// The name in the store's certificate, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// Why there is no connection to the store.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL of a store.
    #[error("etcd endpoint {url:?} {reason}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: EndpointError,
    },
    /// The store is not at a path.
    #[error("etcd endpoint {0} must not have a path")]
    Path(Endpoint),
    /// `https` without anything to show or trust.
    #[error("etcd endpoint {0} needs TLS settings (etcd.tls)")]
    NoTls(Endpoint),
    /// No TCP connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Not in time.
    #[error("no connection to etcd endpoint {endpoint} within {limit:?} (etcd.dial_timeout_ms)")]
    Slow {
        /// To whom.
        endpoint: Endpoint,
        /// How long was waited.
        limit: Duration,
    },
    /// No TLS on it.
    #[error("no TLS with {endpoint}: {reason}")]
    Tls {
        /// With whom.
        endpoint: Endpoint,
        /// Why, in words.
        reason: String,
    },
    /// The etcd client would not have it.
    #[error("cannot speak to {endpoint}: {reason}")]
    Etcd {
        /// To whom.
        endpoint: Endpoint,
        /// Why.
        reason: String,
    },
}

/// A client on a fresh connection to the endpoint `url`.
pub async fn connect(source: &Source, url: &str, dial: &dyn Dial) -> Result<Client, ConnectError> {
    let endpoint = endpoint(source, url)?;
    let slow = || ConnectError::Slow { endpoint: endpoint.clone(), limit: source.dial_limit };
    let opened = timeout(source.dial_limit, open(source, &endpoint, dial)).await;
    let (stream, name) = opened.map_err(|_| slow())??;
    let etcd = |reason: String| ConnectError::Etcd { endpoint: endpoint.clone(), reason };
    let channel = channel(&endpoint, &name, stream).map_err(etcd)?;
    let options = source
        .user
        .as_ref()
        .map(|(name, password)| ConnectOptions::new().with_user(name, password.expose()));
    // With a user this asks the store for a token.
    let client = Client::from_channel(Channel::Tonic(channel), options);
    match timeout(source.request_limit, client).await {
        Ok(client) => client.map_err(|error| etcd(in_words(&error))),
        Err(_) => Err(etcd(format!("no answer within {:?}", source.request_limit))),
    }
}

/// A connection, in TLS where the endpoint asks for it, and the name that the store goes by on it.
async fn open(
    source: &Source,
    endpoint: &Endpoint,
    dial: &dyn Dial,
) -> Result<(Box<dyn Stream>, String), ConnectError> {
    let key = Key::store(&endpoint.authority());
    let destination = Destination { key, host: endpoint.host.clone(), port: endpoint.port };
    let stream = dial.dial(&destination).await?;
    match (&source.tls, endpoint.tls) {
        (_, false) => Ok((Box::new(stream), endpoint.host.clone())),
        (None, true) => Err(ConnectError::NoTls(endpoint.clone())),
        (Some(tls), true) => {
            let name = tls.server_name.clone().unwrap_or_else(|| endpoint.host.clone());
            let credentials = Arc::clone(&tls.credentials.borrow());
            let stream = credentials.connect(stream, &name, Protocol::H2).await;
            let stream = stream.map_err(|error| {
                let reason = tls::explain(&error).unwrap_or_else(|| error.to_string());
                ConnectError::Tls { endpoint: endpoint.clone(), reason }
            })?;
            Ok((Box::new(stream), name))
        }
    }
}

fn endpoint(source: &Source, url: &str) -> Result<Endpoint, ConnectError> {
    let full = match (url.contains("://"), &source.tls) {
        (true, _) => url.to_owned(),
        (false, Some(_)) => format!("https://{url}"),
        (false, None) => format!("http://{url}"),
    };
    let endpoint: Endpoint =
        full.parse().map_err(|reason| ConnectError::Url { url: url.to_owned(), reason })?;
    if endpoint.path.is_empty() { Ok(endpoint) } else { Err(ConnectError::Path(endpoint)) }
}

/// A channel over a connection that there is.
pub(crate) fn channel(
    endpoint: &Endpoint,
    server_name: &str,
    stream: Box<dyn Stream>,
) -> Result<tonic::transport::Channel, String> {
    let mut named = endpoint.clone();
    server_name.clone_into(&mut named.host);
    let origin: Uri =
        named.to_string().parse().map_err(|_| "not a valid server name".to_owned())?;
    // The client's own idea of TLS must not wake up: to it this is plain `http`.
    let plain = Endpoint { tls: false, ..endpoint.clone() }.to_string();
    let builder =
        tonic::transport::Endpoint::from_shared(plain).map_err(|error| error.to_string())?;
    let builder = builder
        .origin(origin)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    Ok(builder.connect_with_connector_lazy(Connected(Some(TokioIo::new(stream)))))
}

/// An etcd error with its causes; a plain `Display` hides them.
pub fn in_words(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // The h2 crate keeps this cause to itself, except for its words. After the handshake, which is where TLS 1.3 puts the
    // judgement on the client's certificate, an alert means that.
    match text.split_once("received fatal alert: ") {
        Some((_, alert)) => format!("the store refused the gateway's certificate ({alert})"),
        None => text,
    }
}

/// A connection, plain or in TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Gives the one connection away, once.
struct Connected(Option<TokioIo<Box<dyn Stream>>>);

impl Service<Uri> for Connected {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take();
        Box::pin(async { stream.ok_or_else(|| io::Error::other("the connection has ended")) })
    }
}
