//! The manager port: mutual TLS, and two protocols told apart by ALPN.
//!
//! A client without a certificate of our authority gets no further than the handshake; one whose certificate names no
//! environment is closed right after it.

use crate::{
    authority::{Authority, Issued},
    cloud::Cloud,
    connections::Open,
    environment,
    etcd::{self, fence::Fence},
    identity::Identity,
    manager,
};
use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A pause when the process is out of descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const H2: &[u8] = b"h2";

/// TLS cannot be set up with this authority.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS: {0}")]
pub struct TlsError(String);

/// TLS 1.3 and 1.2, for clients with a certificate of the authority.
pub fn acceptor(authority: &Authority, server: &Issued) -> Result<TlsAcceptor, TlsError> {
    let failed = |error: &dyn std::error::Error| TlsError(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes())
        .map_err(|e| failed(&e))?;
    roots.add(root).map_err(|e| failed(&e))?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![server.certificate.der().clone()], key)
        .map_err(|e| failed(&e))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves the manager port for as long as the process lives.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, cloud: Arc<Cloud>) {
    loop {
        let stream = accept(&listener).await;
        let peer = stream.peer_addr().ok();
        let (tls, cloud) = (tls.clone(), Arc::clone(&cloud));
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, peer, cloud).await,
                Ok(Err(error)) => tracing::warn!("handshake with {} failed: {error}", shown(peer)),
                Err(_) => tracing::warn!("handshake with {} timed out", shown(peer)),
            }
        });
    }
}

/// The next connection; errors of single ones are waited out.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A heartbeat or a watch event is small and should leave at once; without it they are only later.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection of a verified client.
async fn converse(stream: TlsStream<TcpStream>, peer: Option<SocketAddr>, cloud: Arc<Cloud>) {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first()).map(AsRef::as_ref);
    let client = match Identity::from_leaf(leaf.unwrap_or_default()) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!("{} is turned away: {error}", shown(peer));
            return;
        }
    };
    let is_etcd = session.alpn_protocol() == Some(H2);
    let protocol = if is_etcd { "h2" } else { "http/1.1" };
    let open = Open::new(&cloud, &client, leaf.unwrap_or_default(), protocol);
    let stream = TokioIo::new(stream);
    let ended = if is_etcd {
        let fence = Fence::new(&environment::key_prefix(&cloud.prefix, &client.env_id));
        let service = service_fn(move |request: Request<Incoming>| {
            open.asked(request.uri().path());
            let (projection, fence) = (cloud.projection.clone(), fence.clone());
            async { Ok::<_, Infallible>(etcd::serve(projection, fence, request).await) }
        });
        http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
    } else {
        let service = service_fn(|request: Request<Incoming>| async {
            open.asked(request.uri().path());
            let reply = manager::serve(&cloud, &client, request).await;
            if !reply.status().is_success() {
                open.refused();
            }
            Ok::<_, Infallible>(reply)
        });
        // Without hyper's timer a silent connection stays open: heartbeats may be minutes apart.
        http1::Builder::new().serve_connection(stream, service).await
    };
    if let Err(error) = ended {
        tracing::debug!("the connection of {} ended: {error}", shown(peer));
    }
}

fn shown(peer: Option<SocketAddr>) -> String {
    peer.map_or_else(|| "a client that has left".to_owned(), |peer| peer.to_string())
}
