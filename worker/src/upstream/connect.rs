//! One new connection to a provider: dial, TLS where the endpoint asks for it. One limit covers it all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use shared::dial::{Destination, Dial, DialError};
use shared::egress::Key;
use shared::resource::{Endpoint, UpstreamTls};
use shared::worker_settings::UpstreamSettings;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::pool::Place;
use super::trust::{TlsOptions, TrustError, TrustRoots};

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
    /// It took too long, TLS included.
    #[error("no connection to {endpoint} within {limit:?}")]
    Timeout {
        /// Where to.
        endpoint: String,
        /// The limit.
        limit: Duration,
    },
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
            return Ok(Connection::new(stream));
        }
        let config = self
            .config(&place.tls)
            .map_err(|source| ConnectError::Trust { endpoint: endpoint.authority(), source })?;
        let failed =
            |source: io::Error| ConnectError::Tls { endpoint: endpoint.authority(), source };
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(failed)?;
        Ok(Connection::new(stream))
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
