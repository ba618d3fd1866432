//! An identity provider whose every word is known: it signs tokens, publishes its keys, rotates them, and fails as told.

use std::convert::Infallible;
use std::future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::LOCATION;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Who the tokens are for, unless a test says otherwise.
pub const AUDIENCE: &str = "aisix";

/// A running identity provider. It ends when this is dropped.
#[derive(Debug)]
pub struct IdentityProvider {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    published: Vec<Value>,
    jwks_uri: Option<String>,
    behaviour: Behaviour,
    discoveries: usize,
    fetches: usize,
}

/// How the keys are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As they should be.
    #[default]
    Plain,
    /// With an error.
    Fails,
    /// Never.
    Hangs,
    /// Elsewhere, and they are there.
    Redirects,
    /// In a document that is far too large.
    Bloated,
}

/// A key pair.
#[derive(Debug)]
pub struct SigningKey {
    /// Its name in headers and key sets.
    pub id: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// An RSA key of 2048 bits, for `RS256`.
    pub fn rsa(id: &str) -> Self {
        let pair = Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"));
        Self { id: id.to_owned(), pair }
    }

    /// A key on P-256, for `ES256`.
    pub fn p256(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { id: id.to_owned(), pair: Pair::P256(pair) }
    }

    /// A key for `EdDSA`.
    pub fn ed25519(id: &str) -> Self {
        Self { id: id.to_owned(), pair: Pair::Ed25519(Ed25519KeyPair::generate().expect("a key")) }
    }

    /// Its public half, as it is published.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": encode(public.n), "e": encode(public.e)})
            }
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm());
        jwk
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"}), claims)
    }

    /// The same with another header.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)
                    .expect("a signature");
                encode(signature)
            }
            Pair::P256(pair) => {
                encode(pair.sign(&random, message.as_bytes()).expect("a signature"))
            }
            Pair::Ed25519(pair) => encode(pair.sign(message.as_bytes())),
        };
        format!("{message}.{signature}")
    }

    fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }
}

impl IdentityProvider {
    /// Starts one that publishes these keys.
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        let provider = Self { address, state, accepting };
        provider.publish(keys);
        provider
    }

    /// What its tokens name as `iss`.
    pub fn issuer(&self) -> String {
        issuer(self.address)
    }

    /// Where its keys are.
    pub fn jwks_uri(&self) -> String {
        format!("{}/keys", self.issuer())
    }

    /// Its document, with its keys found by discovery.
    pub fn document(&self, name: &str) -> Value {
        json!({"name": name, "issuer": self.issuer(), "audiences": [AUDIENCE]})
    }

    /// Claims of a token that is good for an hour.
    pub fn claims(&self, subject: &str) -> Value {
        let hour = unix_seconds() + 3600;
        json!({"iss": self.issuer(), "aud": AUDIENCE, "sub": subject, "exp": hour})
    }

    /// Publishes these keys and no others.
    pub fn publish(&self, keys: &[&SigningKey]) {
        self.state().published = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Has its discovery document lead there.
    pub fn discover_at(&self, jwks_uri: &str) {
        self.state().jwks_uri = Some(jwks_uri.to_owned());
    }

    /// Answers in this way from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.state().fetches
    }

    /// How often its discovery document was asked for.
    pub fn discoveries(&self) -> usize {
        self.state().discoveries
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Seconds since 1970 UTC.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn issuer(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let address = listener.local_addr().expect("an address");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(answer(address, &state, request.uri().path()).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(address: SocketAddr, state: &Mutex<State>, path: &str) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/.well-known/openid-configuration" => {
            let mut state = lock(state);
            state.discoveries += 1;
            let jwks_uri =
                state.jwks_uri.clone().unwrap_or_else(|| format!("{}/keys", issuer(address)));
            let document = json!({"issuer": issuer(address), "jwks_uri": jwks_uri});
            (StatusCode::OK, document.to_string())
        }
        "/keys" => {
            let (behaviour, set) = {
                let mut state = lock(state);
                state.fetches += 1;
                (state.behaviour, json!({"keys": state.published}))
            };
            match behaviour {
                Behaviour::Plain => (StatusCode::OK, set.to_string()),
                Behaviour::Fails => (StatusCode::SERVICE_UNAVAILABLE, "{}".to_owned()),
                Behaviour::Hangs => future::pending().await,
                Behaviour::Redirects => (StatusCode::FOUND, String::new()),
                Behaviour::Bloated => {
                    let filler = "x".repeat(2 * 1024 * 1024);
                    (StatusCode::OK, json!({"keys": set["keys"], "filler": filler}).to_string())
                }
            }
        }
        "/elsewhere" => (StatusCode::OK, json!({"keys": lock(state).published}).to_string()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if status == StatusCode::FOUND
        && let Ok(place) = http::HeaderValue::try_from(format!("{}/elsewhere", issuer(address)))
    {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}
