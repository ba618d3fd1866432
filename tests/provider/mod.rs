//! A small model upstream that speaks OpenAI's chat completions and Anthropic's Messages: for the demo, and for tests that must know exactly what
//! was asked, what was answered, and over which connection.
//!
//! - Answers and token counts are functions of the request alone: a token is a word ([`answer`]).
//! - What goes wrong is chosen by the model's name ([`behaviour`]); the name is the script.
//! - Every request is in the [`ledger`], with its outcome, as `GET /ledger` and as [`Upstream::ledger`].
//!
//! | route | |
//! |---|---|
//! | `POST /v1/chat/completions` | unary, or streamed with `"stream": true` |
//! | `POST /v1/messages` | the same in Anthropic's dialect ([`messages`]) |
//! | `POST /v1/messages/count_tokens` | |
//! | `POST /openai/deployments/…` | the same as OpenAI's, as Azure offers it |
//! | `GET /v1/models` | the scripts by name |
//! | others | see [`endpoints`] |
//! | `GET /ledger` | every request so far, as JSON |
//! | `POST /release` | lets all answers of `hold` go on |

pub mod answer;
pub mod bedrock;
pub mod behaviour;
pub mod endpoints;
pub mod gemini;
pub mod ledger;
pub mod messages;
pub mod mock;
mod service;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use ledger::{Ledger, Outcome, Served};

/// The credential that the upstream asks for unless told otherwise.
pub const KEY: &str = "sk-upstream";

/// A running upstream. It ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What the connections of one upstream have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The credential to be presented.
    key: String,
    /// What was served.
    ledger: Ledger,
    /// Whether answers of `hold` may go on.
    released: watch::Sender<bool>,
    /// The bodies of all requests of Messages.
    bodies: Mutex<Vec<Value>>,
}

impl Upstream {
    /// Listens on `address` (port 0: any free one) and asks callers for `key`.
    pub async fn start(address: SocketAddr, key: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            key: key.to_owned(),
            ledger: Ledger::default(),
            released: watch::Sender::new(false),
            bodies: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a provider key names as `api_base`.
    pub fn api_base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Every request so far, in the order of arrival.
    pub fn ledger(&self) -> Vec<Served> {
        self.shared.ledger.all()
    }

    /// The bodies of all requests of Messages so far, in the order of arrival.
    pub fn bodies(&self) -> Vec<Value> {
        self.shared.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the held answers go on, those of requests still to come included.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Serves until the process ends.
    pub async fn join(mut self) {
        // The task only ends if it was aborted, which nobody but `drop` does.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connection = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Without it small chunks wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        connection += 1;
        let shared = Arc::clone(&shared);
        let service =
            service_fn(move |request| service::respond(Arc::clone(&shared), connection, request));
        // A connection that breaks is the caller's business and in the ledger.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
