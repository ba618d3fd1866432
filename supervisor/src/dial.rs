//! The supervisor's own connections, made by itself: resolve, then try every address in turn.

use std::io;
use std::time::Duration;

use shared::dial::{Destination, Dial, DialError, Dialling};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// Dials from this process. Everything that connects takes an `Arc<dyn Dial>`, so that another process can do it instead.
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
            match timeout(self.limit, connect(destination)).await {
                Ok(connected) => connected,
                Err(_) => {
                    Err(DialError::Timeout { destination: destination.clone(), limit: self.limit })
                }
            }
        })
    }
}

async fn connect(destination: &Destination) -> Result<TcpStream, DialError> {
    let resolve = |reason| DialError::Resolve { host: destination.host.clone(), reason };
    let addresses = lookup_host((destination.host.as_str(), destination.port))
        .await
        .map_err(|error| resolve(error.to_string()))?;
    let mut last: Option<io::Error> = None;
    for address in addresses {
        match TcpStream::connect(address).await.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        }) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(source) => DialError::Connect { destination: destination.clone(), source },
        None => resolve("the name has no address".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn to(host: &str, port: u16) -> Destination {
        Destination { host: host.to_owned(), port }
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
