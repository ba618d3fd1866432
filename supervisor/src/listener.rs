//! Listening sockets: opened once by the supervisor, kept for its whole life, lent to workers.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that may wait while no worker takes them.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {reason}")]
pub struct ListenError {
    address: SocketAddr,
    key: &'static str,
    in_use: bool,
    reason: String,
}

impl ListenError {
    /// Whether somebody else listens there.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// The same for a reason that is known better.
    #[must_use]
    pub fn because(self, reason: String) -> Self {
        Self { reason, ..self }
    }
}

/// A non-blocking listener. `key` is the configuration key that names the address, for the error.
pub fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ListenError> {
    open(address).map_err(|error| {
        let in_use = error.kind() == io::ErrorKind::AddrInUse;
        ListenError { address, key, in_use, reason: reason(&error) }
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it the port stays taken for a minute after the connections of a former process.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets as many connections wait at a socket that somebody else has opened as at one of ours.
pub fn deepen(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(BACKLOG)
}

/// Makes a socket listen again if somebody who holds it too has ended that. Says whether it was necessary.
pub fn heal(listener: &TcpListener) -> io::Result<bool> {
    let socket = SockRef::from(listener);
    let ended = !socket.is_listener()?;
    if ended {
        socket.listen(BACKLOG)?;
    }
    Ok(ended)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "address already in use; another process listens there".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or a socket unit that listens there".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_was_shut_down_listens_again_with_the_same_address() {
        // A port that the kernel chose would be given back at the shutdown, one that was asked for is kept.
        let chosen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = bind(chosen, "proxy.addr").unwrap();
        assert!(!heal(&listener).unwrap());
        SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(heal(&listener).unwrap());
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_taken_port_is_told_with_its_address_and_its_key() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "proxy.addr").unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "proxy.addr").unwrap_err().to_string();
        assert!(error.contains("address already in use"), "{error}");
        assert!(error.contains(&address.to_string()) && error.contains("proxy.addr"), "{error}");
    }
}
