//! Handshakes of real callers, signed by a signer on a thread of its own, as the two processes do it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use rcgen::{KeyPair, SignatureAlgorithm};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use shared::channel;
use shared::memory;
use shared::secret::Secret;
use shared::signing::{KeyForm, KeyKind, SigningKey, TicketKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::signer_link::SignError;
use super::*;
use crate::signer;
use crate::signer::keys::Keys;

/// A certificate and its key.
struct Pair {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    kind: KeyKind,
    id: [u8; 32],
}

impl Pair {
    fn new(algorithm: &'static SignatureAlgorithm, kind: KeyKind, id: u8) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(["gateway.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key, kind, id: [id; 32] }
    }

    fn p256(id: u8) -> Self {
        Self::new(&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcdsaP256, id)
    }

    /// What the supervisor tells workers of it.
    fn told(&self, tls12: bool) -> OwnedFd {
        let certificate = ListenerCertificate {
            chain: vec![self.certificate.to_vec()],
            key: self.id,
            kind: self.kind,
            tls12,
            tickets: vec![TicketKey { name: [1; 16], key: Secret::new([2; 32]) }],
        };
        let bytes = codec::encode(&certificate).unwrap();
        memory::sealed("test", |writer| writer.write_all(&bytes)).unwrap()
    }

    /// A socket to a signer that has the key.
    fn signer(&self) -> OwnedFd {
        let about = SigningKey {
            number: 1,
            id: self.id,
            kind: self.kind,
            form: KeyForm::Pkcs8,
            tls12: true,
        };
        let key = memory::sealed_secret("test", &self.key.serialize_der()).unwrap();
        let (ours, theirs) = socket();
        thread::spawn(move || {
            let mut keys = Keys::default();
            keys.take(&about, key, Instant::now()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let _ = runtime.unwrap().block_on(signer::answer(&RefCell::new(keys), theirs));
        });
        ours
    }
}

/// A worker's end and a signer's.
fn socket() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = channel::pair().unwrap();
    channel::make_waiting(&ours).unwrap();
    (ours, theirs)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { timeout(Duration::from_secs(300), test).await };
    tokio::task::LocalSet::new().block_on(&runtime, limited).expect("the test hangs");
}

/// A worker that shows this certificate and has nobody to sign yet.
fn worker(pair: &Pair, tls12: bool) -> Rc<Tls> {
    let tls = Tls::new(Handshakes::start().unwrap(), Rc::new(Metrics::disconnected()));
    tls.take_certificate(pair.told(tls12)).unwrap();
    tls
}

/// Echoes one line of each caller.
async fn serve(tls: Rc<Tls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = Rc::clone(&tls);
            tokio::task::spawn_local(async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let mut line = [0; 4];
                stream.read_exact(&mut line).await.unwrap();
                stream.write_all(&line).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    address
}

fn client(pair: &Pair, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pair.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// One conversation.
async fn call(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<ClientStream<TcpStream>> {
    let name = ServerName::try_from("gateway.example").unwrap();
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.write_all(b"ping").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert_eq!(answer, b"ping");
    Ok(stream)
}

#[test]
fn every_kind_of_key_serves_both_versions_and_no_version_that_is_not_spoken() {
    run(async {
        for (algorithm, kind) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcdsaP256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcdsaP384),
            (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
            (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa),
        ] {
            let pair = Pair::new(algorithm, kind, 1);
            let tls = worker(&pair, true);
            tls.introduce_signer(pair.signer()).unwrap();
            let address = serve(tls).await;
            for version in [&TLS13, &TLS12] {
                let stream = call(address, Arc::new(client(&pair, &[version]))).await.unwrap();
                assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            }
        }
        let pair = Pair::p256(1);
        let tls = worker(&pair, false);
        tls.introduce_signer(pair.signer()).unwrap();
        let address = serve(tls).await;
        assert!(call(address, Arc::new(client(&pair, &[&TLS12]))).await.is_err());
        assert!(call(address, Arc::new(client(&pair, &[&TLS13]))).await.is_ok());
    });
}

#[test]
fn a_session_resumes_in_another_worker_and_needs_no_signature_there() {
    run(async {
        for version in [&TLS13, &TLS12] {
            let pair = Pair::p256(1);
            let one = worker(&pair, true);
            one.introduce_signer(pair.signer()).unwrap();
            // Nobody signs for the other.
            let other = worker(&pair, true);
            let (one, other) = (serve(one).await, serve(other).await);
            let mut config = client(&pair, &[version]);
            config.resumption = Resumption::in_memory_sessions(4);
            let config = Arc::new(config);
            let first = call(one, Arc::clone(&config)).await.unwrap();
            assert_ne!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            let second = call(other, config).await.unwrap();
            assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        }
    });
}

#[test]
fn callers_choose_the_protocol_and_nothing_is_taken_early() {
    run(async {
        let pair = Pair::p256(1);
        let tls = worker(&pair, false);
        tls.introduce_signer(pair.signer()).unwrap();
        let address = serve(tls).await;
        for protocol in [&b"h2"[..], b"http/1.1"] {
            let mut config = client(&pair, &[&TLS13]);
            config.alpn_protocols = vec![protocol.to_vec()];
            config.enable_early_data = true;
            let stream = call(address, Arc::new(config)).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
            assert!(!stream.get_ref().1.is_early_data_accepted());
        }
    });
}

#[test]
fn a_new_certificate_is_shown_to_the_next_caller() {
    run(async {
        let (before, after) = (Pair::p256(1), Pair::p256(2));
        let tls = worker(&before, false);
        tls.introduce_signer(before.signer()).unwrap();
        let address = serve(Rc::clone(&tls)).await;
        call(address, Arc::new(client(&before, &[&TLS13]))).await.unwrap();
        tls.introduce_signer(after.signer()).unwrap();
        tls.take_certificate(after.told(false)).unwrap();
        call(address, Arc::new(client(&after, &[&TLS13]))).await.unwrap();
        assert!(call(address, Arc::new(client(&before, &[&TLS13]))).await.is_err());
    });
}

#[test]
fn a_caller_that_drips_or_talks_nonsense_holds_up_nobody() {
    run(async {
        let pair = Pair::p256(1);
        let tls = worker(&pair, false);
        tls.introduce_signer(pair.signer()).unwrap();
        let address = serve(tls).await;
        let mut dripping = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[0x16, 0x03]).await.unwrap();
            dripping.push(stream);
        }
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // An alert or a reset, and the end.
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"));
        call(address, Arc::new(client(&pair, &[&TLS13]))).await.unwrap();
    });
}

#[test]
fn a_signer_that_died_is_waited_for_and_one_that_is_silent_fails_the_next_at_once() {
    let pair = Pair::p256(1);
    let link = Arc::new(SignerLink::default());
    let message = [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
    let sign = || link.sign(pair.id, 0x0403, &message);
    // Dead before it was asked: the next one is waited for.
    let (ours, theirs) = socket();
    drop(theirs);
    link.replace(ours).unwrap();
    let next = thread::scope(|scope| {
        let asking = scope.spawn(sign);
        link.replace(pair.signer()).unwrap();
        asking.join().unwrap()
    });
    assert!(next.is_ok());
    // Silent: given up, and then no longer waited for.
    let (ours, theirs) = socket();
    link.replace(ours).unwrap();
    assert!(matches!(sign(), Err(SignError::Silent)));
    for _ in 0..100 {
        assert!(matches!(sign(), Err(SignError::Silent)));
    }
    // It answers after all: what it says to the old question is not taken for an answer to the new one.
    let about =
        SigningKey { number: 1, id: pair.id, kind: pair.kind, form: KeyForm::Pkcs8, tls12: false };
    let key = memory::sealed_secret("test", &pair.key.serialize_der()).unwrap();
    thread::spawn(move || {
        let mut keys = Keys::default();
        keys.take(&about, key, Instant::now()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let _ = runtime.unwrap().block_on(signer::answer(&RefCell::new(keys), theirs));
    });
    while sign().is_err() {
        thread::yield_now();
    }
    // A refusal is no silence.
    assert!(matches!(link.sign([9; 32], 0x0403, &message), Err(SignError::Refused(_))));
    assert!(sign().is_ok());
}

#[test]
fn a_silent_signer_fails_handshakes_and_is_told_apart_from_a_broken_caller() {
    run(async {
        let pair = Pair::p256(1);
        let tls = worker(&pair, false);
        let (ours, _theirs) = socket();
        tls.introduce_signer(ours).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(client(&pair, &[&TLS13]));
        let calling = tokio::task::spawn_local(call(address, config));
        let (stream, _) = listener.accept().await.unwrap();
        let unsigned = tls.accept(stream).await;
        assert!(matches!(unsigned, Err(HandshakeError::Unsigned(_))));
        assert!(calling.await.unwrap().is_err());
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(matches!(tls.accept(stream).await, Err(HandshakeError::Failed(_))));
    });
}

#[test]
fn a_caller_that_says_nothing_takes_no_turn() {
    run(async {
        let pair = Pair::p256(1);
        let tls = worker(&pair, false);
        let address = serve(Rc::clone(&tls)).await;
        let silent = TcpStream::connect(address).await.unwrap();
        let mut caller = TcpStream::connect(address).await.unwrap();
        // The beginning of a record.
        caller.write_all(&[22]).await.unwrap();
        while tls.turns.available_permits() == IN_FLIGHT_MAX {
            tokio::task::yield_now().await;
        }
        // The first one was accepted before.
        assert_eq!(tls.turns.available_permits(), IN_FLIGHT_MAX - 1);
        drop(silent);
    });
}
