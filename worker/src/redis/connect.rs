//! One connection to a node of Redis: dialled through egress, TLS by our own means, then the crate's protocol on it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use shared::dial::{Destination, Dial};
use shared::egress::Key;
use shared::worker_settings::{RedisNode, RedisSettings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::upstream::{TlsOptions, TrustError, TrustRoots};

/// How long a connection may take, TLS and login included.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Connector {
    dial: Rc<dyn Dial>,
    login: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) fn new(
        dial: Rc<dyn Dial>,
        trust: &TrustRoots,
        settings: &RedisSettings,
    ) -> Result<Self, TrustError> {
        let mut login =
            RedisConnectionInfo::default().set_db(settings.database.into()).set_skip_set_lib_name();
        if let Some(username) = &settings.username {
            login = login.set_username(username);
        }
        if let Some(password) = &settings.password {
            login = login.set_password(password.expose());
        }
        let tls = settings.tls.as_ref().map(|tls| {
            let options = TlsOptions {
                ca_pem: [tls.ca_pem.as_deref(), None],
                verify: tls.verify,
                identity: tls.client_identity_pem.as_ref(),
            };
            let mut config = ClientConfig::clone(&*trust.config(options)?);
            // It is not HTTP.
            config.alpn_protocols.clear();
            Ok(Arc::new(config))
        });
        Ok(Self { dial, login, tls: tls.transpose()? })
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self, node: &RedisNode) -> Result<MultiplexedConnection, Rc<str>> {
        let connecting = async {
            let authority = node.authority();
            let key = Key::redis(&authority);
            let destination = Destination { key, host: node.host.clone(), port: node.port };
            let stream =
                self.dial.dial(&destination).await.map_err(|error| Rc::from(error.to_string()))?;
            let Some(tls) = &self.tls else { return self.log_in(stream).await };
            let failed = |error: &dyn std::fmt::Display| {
                Rc::from(format!("TLS handshake with {authority} failed: {error}"))
            };
            let name = ServerName::try_from(node.host.clone()).map_err(|error| failed(&error))?;
            let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
            self.log_in(connecting.await.map_err(|error| failed(&error))?).await
        };
        let connected = tokio::time::timeout(LIMIT, connecting).await;
        connected.unwrap_or_else(|_| Err(format!("no connection within {LIMIT:?}").into()))
    }

    async fn log_in<S>(&self, stream: S) -> Result<MultiplexedConnection, Rc<str>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The limit of an answer is whoever's who asks.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&self.login, stream, config).await;
        let (connection, driver) = opened.map_err(|error| Rc::from(error.to_string()))?;
        tokio::task::spawn_local(driver);
        Ok(connection)
    }
}
