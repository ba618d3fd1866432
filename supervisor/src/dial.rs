//! Connections made by the process itself, where there is no egress worker: for `aisix export`, which starts none.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use shared::dial::{Destination, Dial, DialError, Dialling};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

/// Dials from this process: resolves, then tries every address in turn.
#[derive(Clone, Copy, Debug)]
pub struct DirectDial {
    limit: Duration,
}

impl DirectDial {
    /// A connection may take `limit`, its name's resolution and all addresses included.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl Dial for DirectDial {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async {
            match timeout(self.limit, connect(destination, self.limit)).await {
                Ok(connected) => connected,
                Err(_) => {
                    Err(DialError::Timeout { destination: destination.clone(), limit: self.limit })
                }
            }
        })
    }
}

async fn connect(destination: &Destination, limit: Duration) -> Result<TcpStream, DialError> {
    let resolve = |reason| DialError::Resolve { host: destination.host.clone(), reason };
    let until = Instant::now() + limit;
    let addresses = lookup_host((destination.host.as_str(), destination.port))
        .await
        .map_err(|error| resolve(error.to_string()))?;
    let addresses: Vec<_> = addresses.collect();
    match connect_any(&addresses, until).await {
        Ok(stream) => Ok(stream),
        Err(Some(source)) => Err(DialError::Connect { destination: destination.clone(), source }),
        Err(None) => Err(resolve("the name has no address".to_owned())),
    }
}

/// The first address that accepts; else why the last one does not. Each may take its share of the time that is left, so
/// that one that never answers leaves some for those behind it; the last one takes what there is.
async fn connect_any(
    addresses: &[SocketAddr],
    until: Instant,
) -> Result<TcpStream, Option<io::Error>> {
    let mut last = None;
    for (place, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let still = u32::try_from(addresses.len() - place).unwrap_or(u32::MAX);
        let connected = if still > 1 {
            let share = until.saturating_duration_since(Instant::now()) / still;
            let timed_out = || Err(io::ErrorKind::TimedOut.into());
            timeout(share, connecting).await.unwrap_or_else(|_| timed_out())
        } else {
            connecting.await
        };
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use shared::egress::Key;

    use super::*;

    fn to(host: &str, port: u16) -> Destination {
        Destination { key: Key::store(host), host: host.to_owned(), port }
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        // `localhost` may resolve to ::1 first, where nobody listens.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dial = DirectDial::new(Duration::from_secs(5));
        let stream = dial.dial(&to("localhost", port)).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn an_address_that_never_answers_leaves_time_for_the_next() {
        let silent = TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let hole = silent.local_addr().unwrap();
        // Nobody accepts: once its queue is full the kernel does not answer any more.
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(hole)).await {
            waiting.push(stream.unwrap());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let until = Instant::now() + Duration::from_secs(2);
        let stream = connect_any(&[hole, good], until).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
    }

    #[tokio::test]
    async fn a_refused_connection_names_its_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let dial = DirectDial::new(Duration::from_secs(5));
        let error = dial.dial(&to("127.0.0.1", port)).await.unwrap_err();
        assert!(matches!(error, DialError::Connect { .. }));
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }
}
