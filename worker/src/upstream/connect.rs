//! One new connection to a provider: dial, TLS where the endpoint asks for it, HTTP/1.1. One limit covers it all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use shared::dial::{Destination, Dial, DialError};
use shared::egress::Key;
use shared::resource::{Endpoint, UpstreamTls};
use shared::worker_settings::UpstreamSettings;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pool::Place;
use super::trust::{TlsOptions, TrustError, TrustRoots};
use super::work::Work;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Configurations kept for endpoints with trust settings of their own. They are made anew where there are more.
const CONFIGS_MAX: usize = 256;

/// Why there is no connection to a provider.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The endpoint's TLS settings cannot be used.
    #[error("cannot use the TLS settings of {endpoint}: {source}")]
    Trust {
        /// Where to.
        endpoint: String,
        /// What is wrong with them.
        source: TrustError,
    },
    /// No TLS session.
    #[error("TLS handshake with {endpoint} failed: {source}")]
    Tls {
        /// Where to.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before it could be used.
    #[error("cannot speak HTTP with {endpoint}: {source}")]
    Http {
        /// Where to.
        endpoint: String,
        /// Why.
        source: hyper::Error,
    },
    /// It took too long, TLS included.
    #[error("no connection to {endpoint} within {limit:?}")]
    Timeout {
        /// Where to.
        endpoint: String,
        /// The limit.
        limit: Duration,
    },
}

/// A connection that is ready for a request.
pub(super) struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
    /// What it does.
    pub work: Rc<Work>,
}

/// Makes connections, within a `LocalSet`.
pub struct Connector {
    dial: Rc<dyn Dial>,
    trust: TrustRoots,
    settings: UpstreamSettings,
    configs: RefCell<HashMap<OwnTrust, Arc<ClientConfig>>>,
}

/// Trust settings of one endpoint: its own issuers, and whether certificates are checked at all.
type OwnTrust = (Option<String>, bool);

impl Connector {
    /// A connector that reaches out through `dial`.
    pub fn new(dial: Rc<dyn Dial>, trust: TrustRoots, settings: UpstreamSettings) -> Self {
        Self { dial, trust, settings, configs: RefCell::default() }
    }

    /// Connects to a place within the limit of the settings.
    pub(super) async fn connect(&self, place: &Place) -> Result<Connection, ConnectError> {
        let endpoint = &place.endpoint;
        let connecting = self.connect_unlimited(place);
        match Duration::from_millis(self.settings.connect_timeout_ms) {
            Duration::ZERO => connecting.await,
            limit => tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
                Err(ConnectError::Timeout { endpoint: endpoint.authority(), limit })
            }),
        }
    }

    async fn connect_unlimited(&self, place: &Place) -> Result<Connection, ConnectError> {
        let endpoint = &place.endpoint;
        let stream = self.dial(&place.key, endpoint).await?;
        if !endpoint.tls {
            return handshake(endpoint, stream).await;
        }
        let config = self
            .config(&place.tls)
            .map_err(|source| ConnectError::Trust { endpoint: endpoint.authority(), source })?;
        let failed =
            |source: io::Error| ConnectError::Tls { endpoint: endpoint.authority(), source };
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(failed)?;
        handshake(endpoint, stream).await
    }

    /// A connection without TLS, and with TCP's probes.
    pub async fn dial(&self, key: &Key, endpoint: &Endpoint) -> Result<TcpStream, DialError> {
        let destination =
            Destination { key: key.clone(), host: endpoint.host.clone(), port: endpoint.port };
        let stream = self.dial.dial(&destination).await?;
        self.keep_alive(&stream);
        Ok(stream)
    }

    fn config(&self, tls: &UpstreamTls) -> Result<Arc<ClientConfig>, TrustError> {
        let key = (tls.ca_pem.clone(), tls.verify);
        if let Some(config) = self.configs.borrow().get(&key) {
            return Ok(config.clone());
        }
        let config = self.trust.config(TlsOptions {
            ca_pem: [self.settings.ca_pem.as_deref(), tls.ca_pem.as_deref()],
            verify: self.settings.verify && tls.verify,
            identity: self.settings.client_identity_pem.as_ref(),
        })?;
        let mut configs = self.configs.borrow_mut();
        if configs.len() >= CONFIGS_MAX {
            configs.clear();
        }
        configs.insert(key, config.clone());
        Ok(config)
    }

    /// TCP probes find a peer that has silently gone. A socket that refuses them still works.
    fn keep_alive(&self, stream: &TcpStream) {
        let settings = &self.settings;
        if settings.keepalive_ms == 0 {
            return;
        }
        let mut probes =
            TcpKeepalive::new().with_time(Duration::from_millis(settings.keepalive_ms));
        if settings.keepalive_interval_ms > 0 {
            probes = probes.with_interval(Duration::from_millis(settings.keepalive_interval_ms));
        }
        if settings.keepalive_retries > 0 {
            probes = probes.with_retries(settings.keepalive_retries);
        }
        if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&probes) {
            tracing::debug!(%error, "cannot set TCP keep-alive on an upstream connection");
        }
    }
}

async fn handshake<S>(endpoint: &Endpoint, stream: S) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http { endpoint: endpoint.authority(), source })?;
    let work = Work::start(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Connection { sender, work })
}
