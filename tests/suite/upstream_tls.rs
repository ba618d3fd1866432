//! Providers over TLS, from within the confinement: trusted by the issuer that their key names, and by nobody else's word.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use harness::authority::Authority;
use harness::{Builder, Cloud, Projection, projection, upstream};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Ends TLS in front of `upstream`, for as long as the test runs.
async fn tls_in_front_of(upstream: SocketAddr, authority: &Authority) -> SocketAddr {
    let files = authority.server();
    let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A handshake that the gateway breaks off is part of the test.
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(upstream).await.unwrap();
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_provider_with_an_issuer_of_its_own_is_reached_and_one_that_nobody_vouches_for_is_not() {
    let upstream = upstream().await;
    let authority = Authority::default();
    let tls = tls_in_front_of(upstream.address(), &authority).await;
    let issuer = fs::read_to_string(authority.certificate()).unwrap();
    let base = format!("https://{tls}/v1");
    let mut vouched = projection::provider_key(&base, harness::provider::KEY);
    vouched["tls"] = serde_json::json!({"ca_cert": issuer});
    let unknown = projection::provider_key(&base, harness::provider::KEY);
    let mut named = projection::model("small-1", "vouched");
    named["display_name"] = "vouched".into();
    let mut other = projection::model("small-1", "unknown");
    other["display_name"] = "unknown".into();
    let projection = Projection::of(&upstream)
        .with("provider_keys", "vouched", vouched)
        .with("provider_keys", "unknown", unknown)
        .with("models", "vouched", named)
        .with("models", "unknown", other);
    let cloud = Cloud::start(&projection).await;
    let gateway = Builder::managed(&cloud).start().await;
    let caller = gateway.caller();

    assert_eq!(caller.ask("vouched", "one two three").await.status, 200);
    let events = caller.ask_stream("vouched", "one two three").await.events().await.unwrap();
    assert_eq!(events.last().unwrap().data, "[DONE]");
    let refused = caller.ask("unknown", "one two three").await;
    assert_eq!(refused.status, 502);
    let error = refused.json().await.unwrap();
    assert_eq!(error["error"]["type"], "transport_error", "{error}");
    assert_eq!(
        upstream.ledger().len(),
        2,
        "nothing was sent to a provider that nobody vouches for"
    );
}
