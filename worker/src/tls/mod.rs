//! TLS with callers, without the key: the signer signs, and waiting for it is the business of a thread of its own.
//!
//! Promises:
//! 1. no private key is in this process, and without a certificate nobody is served;
//! 2. whatever the signer does, connections that are there go on: only new handshakes wait for it, at most a second;
//! 3. a handshake takes at most [`HANDSHAKE_LIMIT`], a caller that drips does not hold up another, and one that is
//!    silent takes nobody's turn;
//! 4. a new certificate is for handshakes that begin later, and none fails over it;
//! 5. a session that began in one worker resumes in any other, over tickets whose keys the supervisor makes.
//!
//! ```text
//! accept ─► socket to the handshake thread ─► handshake, signed by the signer ─► socket and session back ─► requests
//! ```

mod certificate;
mod handshakes;
mod signer_link;
#[cfg(test)]
mod tests;
mod tickets;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use shared::codec;
use shared::memory::MemoryReader;
use shared::signing::ListenerCertificate;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::handshakes::Handshakes;
use self::signer_link::SignerLink;
use crate::metrics::Metrics;

/// A handshake that takes longer is given up; so is a caller that says nothing for so long, and one whose turn does not come.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at a time. Further connections that have said something wait for their turn.
const IN_FLIGHT_MAX: usize = 1024;

/// Why a connection did not come to its first request.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Not in time.
    #[error("the handshake took longer than {HANDSHAKE_LIMIT:?}")]
    Slow,
    /// The caller did not get it right, or is gone.
    #[error("the handshake failed: {0}")]
    Failed(io::Error),
    /// There was no signature.
    #[error("the handshake failed: {0}")]
    Unsigned(io::Error),
    /// It is not known yet what to show to callers.
    #[error("there is no certificate")]
    NoCertificate,
}

impl HandshakeError {
    fn label(&self) -> &'static str {
        match self {
            Self::Slow => "timeout",
            Self::Failed(_) => "failed",
            Self::Unsigned(_) | Self::NoCertificate => "unsigned",
        }
    }
}

/// Why a certificate is not taken into use.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Its memory does not hold one.
    #[error("cannot read the listener's certificate: {0}")]
    Codec(#[from] codec::CodecError),
    /// TLS cannot use it.
    #[error("cannot use the listener's certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The keys of its tickets are no keys.
    #[error("cannot use the keys of session tickets")]
    Tickets,
}

/// TLS on the listener of this worker.
pub struct Tls {
    handshakes: Handshakes,
    turns: Semaphore,
    signer: Arc<SignerLink>,
    config: RefCell<Option<Arc<ServerConfig>>>,
    metrics: Rc<Metrics>,
}

impl Tls {
    /// TLS without a certificate yet.
    pub fn new(handshakes: Handshakes, metrics: Rc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            handshakes,
            turns: Semaphore::new(IN_FLIGHT_MAX),
            signer: Arc::default(),
            config: RefCell::default(),
            metrics,
        })
    }

    /// Whether there is something to show to callers.
    pub fn is_ready(&self) -> bool {
        self.config.borrow().is_some()
    }

    /// The signer is reached over this socket from now on.
    pub fn introduce_signer(&self, channel: OwnedFd) -> io::Result<()> {
        self.signer.replace(channel)
    }

    /// Handshakes show the certificate in this memory from now on.
    pub fn take_certificate(&self, memory: OwnedFd) -> Result<(), CertificateError> {
        let told: ListenerCertificate = codec::decode_next(&mut MemoryReader::new(memory))?;
        let config = certificate::config(told, Arc::clone(&self.signer))?;
        *self.config.borrow_mut() = Some(Arc::new(config));
        Ok(())
    }

    /// Makes TLS of a connection that was just accepted.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let done = self.in_turn(stream).await;
        self.metrics.handshake(done.as_ref().map_or_else(HandshakeError::label, |_| "ok"));
        done
    }

    async fn in_turn(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        // Not `readable`, which may be true of a socket that has nothing yet.
        in_time(stream.peek(&mut [0])).await?.map_err(HandshakeError::Failed)?;
        // Never closed.
        let _turn = in_time(self.turns.acquire()).await?;
        in_time(self.handshake(stream)).await?
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let failed = HandshakeError::Failed;
        let config = self.config.borrow().clone().ok_or(HandshakeError::NoCertificate)?;
        let acceptor = TlsAcceptor::from(config);
        let stream = stream.into_std().map_err(failed)?;
        let (stream, session) = self.handshakes.run(stream, acceptor.clone()).await?;
        let stream = TcpStream::from_std(stream).map_err(failed)?;
        // Nothing is left to be done but to take the finished session in place of a fresh one.
        acceptor.accept_with(stream, |fresh| *fresh = session).await.map_err(failed)
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, HandshakeError> {
    timeout(HANDSHAKE_LIMIT, step).await.map_err(|_| HandshakeError::Slow)
}
