//! The thread on which handshakes run, so that one which waits for a signature holds up no request.
//!
//! It exists only where callers speak TLS, and is made before the system call filter, which lets no thread be made. What
//! runs on it are handshakes and nothing else: a finished one goes back with its socket.

use std::io;
use std::net;
use std::sync::mpsc::sync_channel;
use std::thread;

use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::signer_link::SignError;
use super::{HandshakeError, IN_FLIGHT_MAX};

type Finished = (net::TcpStream, ServerConnection);

struct Job {
    stream: net::TcpStream,
    acceptor: TlsAcceptor,
    done: oneshot::Sender<io::Result<Finished>>,
}

/// The way to the thread.
#[derive(Debug)]
pub struct Handshakes {
    /// As many as there are turns, so that there is always room.
    jobs: mpsc::Sender<Job>,
}

impl Handshakes {
    /// Starts the thread, and returns when it runs.
    pub fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, queue) = mpsc::channel(IN_FLIGHT_MAX);
        let (begins, begun) = sync_channel(1);
        thread::Builder::new().name("aisix-handshake".to_owned()).spawn(move || {
            let _ = begins.send(());
            work(&runtime, queue);
        })?;
        begun.recv().map_err(io::Error::other)?;
        Ok(Self { jobs })
    }

    /// Runs one handshake. Given up as soon as nobody waits for it.
    pub async fn run(
        &self,
        stream: net::TcpStream,
        acceptor: TlsAcceptor,
    ) -> Result<Finished, HandshakeError> {
        let (done, finished) = oneshot::channel();
        let ended = || HandshakeError::Failed(io::Error::other("the handshake thread has ended"));
        self.jobs.send(Job { stream, acceptor, done }).await.map_err(|_| ended())?;
        finished.await.map_err(|_| ended())?.map_err(|error| {
            if is_unsigned(&error) {
                HandshakeError::Unsigned(error)
            } else {
                HandshakeError::Failed(error)
            }
        })
    }
}

fn work(runtime: &Runtime, mut queue: mpsc::Receiver<Job>) {
    LocalSet::new().block_on(runtime, async {
        while let Some(job) = queue.recv().await {
            tokio::task::spawn_local(async move {
                let Job { stream, acceptor, mut done } = job;
                let finished = tokio::select! {
                    () = done.closed() => return,
                    finished = handshake(stream, acceptor) => finished,
                };
                // Nobody waits any more: the connection is closed.
                let _ = done.send(finished);
            });
        }
    });
}

async fn handshake(stream: net::TcpStream, acceptor: TlsAcceptor) -> io::Result<Finished> {
    let stream = acceptor.accept(TcpStream::from_std(stream)?).await?;
    let (stream, session) = stream.into_inner();
    Ok((stream.into_std()?, session))
}

/// Whether it failed for want of a signature.
fn is_unsigned(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    match source {
        Some(rustls::Error::Other(other)) => other.0.is::<SignError>(),
        _ => false,
    }
}
