//! Upstreams over TLS: who is believed.

use std::rc::Rc;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json as value;
use shared::resource::{Resource, UpstreamTls};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::gateway::{Gateway, provider_key, test_settings};
use super::run;
use super::upstream::{Upstream, json};

#[test]
fn only_a_certificate_that_the_settings_trust_is_believed() {
    run(async {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = Rc::new(Upstream::start([json("200 OK", "{}"), json("200 OK", "{}")]).await);
        let serving = upstream.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    serving.serve(stream).await;
                }
            }
        });
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        for (ca_pem, verify, status) in [
            (None, true, 502),
            (Some(cert.pem()), true, 200),
            (None, false, 200),
            (Some("nonsense".to_owned()), true, 502),
        ] {
            let mut key = provider_key("pk-1", &format!("https://localhost:{port}"));
            key.tls = UpstreamTls { ca_pem: ca_pem.clone(), verify };
            gateway.put(Resource::ProviderKey(key));
            let told = gateway.chat(value!({})).await;
            assert_eq!(told.status.as_u16(), status, "{ca_pem:?} {verify}");
        }
        let usage = gateway.usage();
        assert!(usage[0].error_message.contains("TLS handshake"), "{}", usage[0].error_message);
        assert!(usage[3].error_message.contains("TLS settings"), "{}", usage[3].error_message);
    });
}
