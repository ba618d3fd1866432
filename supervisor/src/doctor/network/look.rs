//! A second look at somebody who is not the Cloud, to say who it is: without the gateway's certificate, and with a question
//! that anybody might ask. What comes back is searched for a few words, and not otherwise understood.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::judge::harmless;
use super::reach::reach;
use super::tls::{self, Trust};
use super::{Access, Place};
use crate::cloud::tls::{Identity, Protocol};

/// How much of an answer is looked at, in bytes.
const BYTES_MAX: usize = 4096;

/// What answers without TLS.
pub(super) enum Clear {
    /// HTTP; its first line.
    Http(String),
    /// Something else; its beginning.
    Other(String),
    /// A record of TLS: a small packet gets through, and somebody is there who speaks it.
    Tls,
    /// Nothing.
    Nothing,
}

/// What is said there without TLS.
pub(super) async fn in_clear(access: &Access, place: &Place) -> Clear {
    let Ok(mut stream) = reach(access, place).await else { return Clear::Nothing };
    let answer = ask(access, place, &mut stream).await;
    let first = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = harmless(String::from_utf8_lossy(first).trim());
    match first {
        first if answer.starts_with(b"HTTP/") => Clear::Http(first),
        _ if matches!(answer.get(..2), Some([20..=23, 3])) => Clear::Tls,
        _ if answer.is_empty() => Clear::Nothing,
        first => Clear::Other(first.chars().take(80).collect()),
    }
}

/// Whether a web site answers there, whoever's certificate it has.
pub(super) async fn is_web_site(access: &Access, place: &Place, identity: &Identity) -> bool {
    if ServerName::try_from(place.host.clone()).is_err() {
        return false;
    }
    let Ok(stream) = reach(access, place).await else { return false };
    let limit = access.step();
    let attempt =
        tls::handshake(stream, &place.host, Protocol::Http1, identity, Trust::Anybody, limit).await;
    let Ok(mut stream) = attempt.result else { return false };
    is_page(&ask(access, place, &mut stream).await)
}

/// Whether these bytes are a page for people.
pub(super) fn is_page(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    text.contains("content-type: text/html")
        || text.contains("<!doctype html")
        || text.contains("<html")
}

async fn ask(
    access: &Access,
    place: &Place,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Vec<u8> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUser-Agent: aisix-doctor\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        place.host
    );
    let mut answer = Vec::new();
    let asking = async {
        // A side that speaks first may have closed by now: what it said counts.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut piece = [0_u8; 1024];
        while answer.len() < BYTES_MAX {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(read) => answer.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
            if is_page(&answer)
                || matches!(answer.first(), Some(20..=23))
                || (answer.contains(&b'\n') && !answer.starts_with(b"HTTP/"))
            {
                return;
            }
        }
    };
    let _ = timeout(access.step().min(std::time::Duration::from_millis(1500)), asking).await;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_its_type_or_by_its_beginning() {
        assert!(is_page(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"));
        assert!(is_page(b"HTTP/1.1 302 Found\r\n\r\n<!DOCTYPE html>"));
        assert!(!is_page(b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n\r\n{}"));
    }
}
