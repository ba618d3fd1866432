//! Connections to the Cloud through a forward proxy: the proxy is asked to `CONNECT`, and what comes after its consent is
//! between us and the Cloud, in TLS. Only what is configured leads here; no variable of the environment does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use shared::dial::{Destination, Dial, DialError, Dialling};
use shared::egress::Key;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::settings::ProxyUrl;

/// The largest head of a proxy's answer, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Dials through a forward proxy.
#[derive(Clone)]
pub struct ProxyDial {
    proxy: ProxyUrl,
    to_proxy: Arc<dyn Dial>,
    limit: Duration,
}

impl ProxyDial {
    /// Reaches the proxy with `to_proxy`. A connection may take `limit`, the proxy's consent included.
    pub fn new(proxy: ProxyUrl, to_proxy: Arc<dyn Dial>, limit: Duration) -> Self {
        Self { proxy, to_proxy, limit }
    }

    async fn tunnel(&self, destination: &Destination) -> Result<TcpStream, DialError> {
        let key = Key::cloud_proxy();
        let proxy = Destination { key, host: self.proxy.host.clone(), port: self.proxy.port };
        let mut stream = self.to_proxy.dial(&proxy).await?;
        ask(&self.proxy, &mut stream, destination).await.map_err(|error| {
            let kind = match &error {
                NoConsent::Io(error) => error.kind(),
                _ => io::ErrorKind::Other,
            };
            let source = io::Error::new(kind, format!("proxy {proxy}: {error}"));
            DialError::Connect { destination: destination.clone(), source }
        })?;
        Ok(stream)
    }
}

/// Why a proxy does not lead to the Cloud.
#[derive(Debug, thiserror::Error)]
pub enum NoConsent {
    /// It wants to know who asks.
    #[error("it asks for other credentials (407); see managed.proxy_url")]
    Credentials,
    /// It says no.
    #[error("it refuses the connection ({0})")]
    Status(u16),
    /// It says something else.
    #[error("its answer is not HTTP")]
    NotHttp,
    /// It says too much.
    #[error("its answer has no end")]
    Endless,
    /// It says nothing.
    #[error("it closed the connection")]
    Closed,
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks a proxy for the way to a destination. After its consent the stream leads there.
pub async fn ask(
    proxy: &ProxyUrl,
    stream: &mut TcpStream,
    destination: &Destination,
) -> Result<(), NoConsent> {
    let mut request = format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.expose()));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // Byte by byte: nothing behind the head is ours to take. There is a connection only now and then.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(NoConsent::Endless);
        }
        head.push(stream.read_u8().await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => NoConsent::Closed,
            _ => NoConsent::Io(error),
        })?);
    }
    match status(&head) {
        Some(200..300) => Ok(()),
        Some(407) => Err(NoConsent::Credentials),
        Some(status) => Err(NoConsent::Status(status)),
        None => Err(NoConsent::NotHttp),
    }
}

/// The status in an answer's head.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split(' ').nth(1).filter(|status| status.len() == 3)?.parse().ok()
}

impl Dial for ProxyDial {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async {
            match timeout(self.limit, self.tunnel(destination)).await {
                Ok(connected) => connected,
                Err(_) => {
                    Err(DialError::Timeout { destination: destination.clone(), limit: self.limit })
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;
    use crate::dial::DirectDial;

    /// A proxy that answers so, and what it was asked.
    async fn through(
        answer: &'static [u8],
        credentials: &str,
    ) -> (Result<TcpStream, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy: ProxyUrl = format!("http://{credentials}127.0.0.1:{port}").parse().unwrap();
        let limit = Duration::from_secs(30);
        let dial = ProxyDial::new(proxy, Arc::new(DirectDial::new(limit)), limit);
        let host = "cloud.test".to_owned();
        let cloud = Destination { key: Key::manager(), host, port: 7944 };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let (dialled, asked) = tokio::join!(dial.dial(&cloud), serve);
        (dialled.map_err(|error| error.to_string()), asked)
    }

    #[tokio::test]
    async fn the_proxy_is_asked_for_the_cloud_and_what_follows_its_consent_stays_unread() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst";
        let (stream, asked) = through(answer, "u:p@").await;
        assert_eq!(
            asked,
            "CONNECT cloud.test:7944 HTTP/1.1\r\nHost: cloud.test:7944\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
        let mut first = [0; 5];
        stream.unwrap().read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        let (_, asked) = through(answer, "").await;
        assert!(!asked.contains("Authorization"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_names_the_proxy_and_no_secret() {
        for (answer, told) in [
            (&b"HTTP/1.1 407 Who are you\r\n\r\n"[..], "managed.proxy_url"),
            (b"HTTP/1.0 403 No\r\n\r\n", "(403)"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 2", "closed the connection"),
        ] {
            let (refused, _) = through(answer, "u:swordfish@").await;
            let error = refused.unwrap_err();
            assert!(error.contains(told) && error.contains("proxy 127.0.0.1:"), "{error}");
            assert!(!error.contains("swordfish"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_of_a_proxy_makes_it_panic(head: Vec<u8>) {
            let _ = status(&head);
            let _ = status(&[b"HTTP/1.1 ", head.as_slice()].concat());
        }
    }
}
