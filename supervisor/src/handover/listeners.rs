//! Listening sockets that are there before we start: of the image before, of the service manager, of orphans. Each is looked
//! at before it is used; one that nobody needs is closed.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Protocol, SockRef, Type};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::listener::{self, ListenError};

/// How long a worker may take to notice that its supervisor was killed.
const FREED_LIMIT: Duration = Duration::from_secs(5);
/// How long between two tries.
const FREED_INTERVAL: Duration = Duration::from_millis(20);

/// What they are called in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The image that this process ran before.
    Image,
    /// The service manager's store.
    Manager,
    /// A worker whose supervisor was killed.
    Orphan,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Image => "the program before",
            Self::Manager => "the service manager",
            Self::Orphan => "a worker of the supervisor before",
        }
    }
}

/// Why a descriptor is not a listener of ours.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("not a listening TCP socket")]
    Kind,
    #[error("cannot be looked at: {0}")]
    Look(#[from] io::Error),
}

/// What is there, by the name of the role it is for.
#[derive(Debug, Default)]
pub struct Listeners {
    open: Vec<(String, SocketAddr, TcpListener, Origin)>,
    found_any: bool,
}

impl Listeners {
    /// Takes one in, if that is what it is.
    pub fn add(&mut self, name: &str, descriptor: OwnedFd, origin: Origin) {
        match examine(descriptor) {
            Ok((address, listener)) => {
                self.found_any = true;
                self.open.push((name.to_owned(), address, listener, origin));
            }
            Err(reason) => {
                warn!(name, "a socket from {} is not used: {reason}", origin.name());
            }
        }
    }

    /// The one for a role, if it has the address that is configured.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let fits = |(of, found, ..): &(String, SocketAddr, TcpListener, Origin)| {
            of == name && is_meant(address, *found)
        };
        let index = self.open.iter().position(fits)?;
        let (_, found, listener, origin) = self.open.swap_remove(index);
        info!(name, address = %found, "listener taken over from {}", origin.name());
        Some(listener)
    }

    /// The one for a role, or a new one. Where others were found here, the status worker of a supervisor that was killed may be
    /// about to leave: an address in use is tried again for a moment.
    pub async fn take_or_bind(
        &mut self,
        name: &str,
        address: SocketAddr,
        key: &'static str,
    ) -> Result<TcpListener, ListenError> {
        if let Some(listener) = self.take(name, address) {
            return Ok(listener);
        }
        let deadline = Instant::now() + FREED_LIMIT;
        loop {
            match listener::bind(address, key) {
                Err(error) if self.found_any && error.is_in_use() && Instant::now() < deadline => {
                    sleep(FREED_INTERVAL).await;
                }
                bound => return bound,
            }
        }
    }

    /// Closes what nobody has taken; returns the names that the service manager knows them by.
    pub fn close(self) -> Vec<String> {
        let left = self.open.into_iter().filter(|(.., origin)| *origin != Origin::Orphan);
        left.map(|(name, address, _, origin)| {
            info!(name, %address, "a socket from {} is closed: it is not configured", origin.name());
            name
        })
        .collect()
    }
}

/// Whether that is the configured address; port 0 means any.
fn is_meant(configured: SocketAddr, found: SocketAddr) -> bool {
    let port = configured.port();
    configured.ip() == found.ip() && (port == 0 || port == found.port())
}

/// Nothing is believed: who hands it over may have been taken over.
fn examine(descriptor: OwnedFd) -> Result<(SocketAddr, TcpListener), Unfit> {
    let socket = SockRef::from(&descriptor);
    let is_tcp = socket.r#type()? == Type::STREAM && socket.protocol()? == Some(Protocol::TCP);
    if !is_tcp || !socket.is_listener()? {
        return Err(Unfit::Kind);
    }
    let address = socket.local_addr()?.as_socket().ok_or(Unfit::Kind)?;
    // All who hold it share the flag.
    socket.set_nonblocking(true)?;
    Ok((address, TcpListener::from(descriptor)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_listener_of_the_configured_address_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut listeners = Listeners::default();
        listeners.add("proxy", listener.into(), Origin::Orphan);
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(listeners.take("proxy", other).is_none());
        assert!(listeners.take("status", address).is_none());
        assert_eq!(listeners.take("proxy", address).unwrap().local_addr().unwrap(), address);
        assert!(listeners.take("proxy", address).is_none(), "it is taken once");
    }

    #[test]
    fn what_is_no_listener_is_not_kept() {
        let mut listeners = Listeners::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let local = UnixListener::bind(folder.path().join("s")).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for descriptor in [OwnedFd::from(connected), local.into(), file.into()] {
            listeners.add("proxy", descriptor, Origin::Orphan);
        }
        assert!(listeners.open.is_empty());
    }
}
