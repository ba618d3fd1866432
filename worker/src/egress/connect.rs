//! One connection out of several addresses, tried side by side (RFC 8305).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// An address gets this long before the next one is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Why no address accepted a connection.
#[derive(Debug)]
pub struct Failed {
    /// The system's error number for the address that failed last; 0 without one.
    pub number: i32,
    /// Each address, and why it failed.
    pub words: String,
}

/// The first connection that any address accepts, with `TCP_NODELAY`. The next address is tried when the ones before it
/// fail or hesitate.
pub async fn connect_any(addresses: Vec<IpAddr>, port: u16) -> Result<TcpStream, Failed> {
    let mut waiting = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failed = Vec::new();
    let mut number = 0;
    loop {
        if let Some(address) = waiting.next() {
            trying.push(connect(SocketAddr::new(address, port)));
        }
        let stagger = tokio::time::sleep_until(Instant::now() + STAGGER);
        tokio::select! {
            connected = trying.next() => match connected {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err((address, error))) => {
                    number = error.raw_os_error().unwrap_or_default();
                    failed.push(format!("{address}: {error}"));
                }
                None => return Err(Failed { number, words: failed.join("; ") }),
            },
            () = stagger, if waiting.len() > 0 => {}
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, (SocketAddr, io::Error)> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    stream.map_err(|error| (address, error))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_does_not_end_the_search() {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap());
        let stream = connect_any(addresses.into(), port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        drop(listener);
        let failed = connect_any(addresses.into(), port).await.unwrap_err();
        assert_eq!(failed.number, libc::ECONNREFUSED);
        assert!(failed.words.contains("127.0.0.1:") && failed.words.contains("127.0.0.2:"));
    }
}
