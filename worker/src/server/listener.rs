//! The listener that all workers share: takes the connections that are for this worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::spread::Spread;
use crate::sys;

/// After so long it is looked again whether a connection that is left to others still waits.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// The listener, as this worker uses it.
pub(super) struct Listener {
    socket: Rc<OwnedFd>,
    watched: Option<AsyncFd<Rc<OwnedFd>>>,
}

impl Listener {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        Ok(Self { socket: Rc::new(listener.into_std()?.into()), watched: None })
    }

    /// Takes the next connection, unless it is one for others.
    pub(super) async fn accept(
        &mut self,
        spread: &mut Spread,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let watched = match &mut self.watched {
                Some(watched) => watched,
                none => none.insert(sys::watched(Rc::clone(&self.socket))?),
            };
            watched.readable().await?.retain_ready();
            if spread.leaves_it(Instant::now()) {
                self.look_again(spread).await?;
                continue;
            }
            match watched.try_io(Interest::READABLE, |_| sys::accept(&self.socket)) {
                Ok(stream) => return connection(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => spread.nothing_waits(),
                Err(error) => return Err(error),
            }
        }
    }

    /// The kernel tells of each connection once. Only to one who begins to watch it tells whether any waits.
    async fn look_again(&mut self, spread: &mut Spread) -> io::Result<()> {
        self.watched = None;
        let watched = self.watched.insert(sys::watched(Rc::clone(&self.socket))?);
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        if watched.readable().now_or_never().is_none() {
            spread.nothing_waits();
        }
        Ok(())
    }

    /// Watches it no longer: this process is not woken for connections that others take. It stays open, since its number must
    /// not go to a socket to an upstream: the system call filter knows it as the listener's.
    pub(super) fn leave(&mut self) {
        self.watched = None;
    }
}

fn connection(stream: OwnedFd) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = std::net::TcpStream::from(stream);
    // Whoever is gone already has no address.
    let peer = stream.peer_addr().map_err(|error| match error.kind() {
        io::ErrorKind::NotConnected => io::ErrorKind::ConnectionAborted.into(),
        _ => error,
    })?;
    Ok((TcpStream::from_std(stream)?, peer))
}
