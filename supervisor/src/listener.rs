//! Listening sockets: opened once by the supervisor, kept for its whole life, lent to workers.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait while no worker takes them.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {reason}")]
pub struct ListenError {
    address: SocketAddr,
    key: &'static str,
    reason: String,
}

/// A non-blocking listener. `key` is the configuration key that names the address, for the error.
pub fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ListenError> {
    open(address).map_err(|error| ListenError { address, key, reason: reason(&error) })
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

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "address already in use; another process listens there".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_address_and_its_key() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "proxy.addr").unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "proxy.addr").unwrap_err().to_string();
        assert!(error.contains("address already in use"), "{error}");
        assert!(error.contains(&address.to_string()) && error.contains("proxy.addr"), "{error}");
    }
}
