//! The same bytes to hyper's server and to ours, and to a connection that knows the head from the one before.

use std::convert::Infallible;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Request};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{spawn_local, yield_now};

use super::*;

async fn hypers(stream: DuplexStream) -> hyper::Result<()> {
    let service = service_fn(|request: Request<hyper::body::Incoming>| async {
        let (head, body) = request.into_parts();
        Ok::<_, Infallible>(told(&head, body).await)
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
}

/// Everything that a server answers to these bytes.
async fn answers<F: Future<Output = T> + 'static, T: 'static>(
    bytes: Vec<u8>,
    size: usize,
    server: fn(DuplexStream) -> F,
) -> Vec<u8> {
    let (near, far) = duplex(1024 * 1024);
    let served = spawn_local(server(far));
    let (mut read, mut write) = tokio::io::split(near);
    spawn_local(async move {
        for piece in bytes.chunks(size) {
            if write.write_all(piece).await.is_err() {
                return;
            }
            yield_now().await;
        }
        // Whoever ends its side is taken for one that has gone: what was asked for is answered before.
        for _ in 0..50 {
            yield_now().await;
        }
        let _ = write.shutdown().await;
    });
    let mut all = Vec::new();
    read.read_to_end(&mut all).await.unwrap();
    let _ = served.await;
    all
}

/// Status, headers without the date, sorted, and body.
type Answer = (u16, Vec<String>, Vec<u8>);

fn cut(mut bytes: &[u8], methods: &[&str]) -> Option<Vec<Answer>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let mut lines = [httparse::EMPTY_HEADER; 20];
        let mut answer = httparse::Response::new(&mut lines);
        // Of a damaged request it may not be known whether its answer has a body.
        let Ok(httparse::Status::Complete(length)) = answer.parse(bytes) else { return None };
        bytes = &bytes[length..];
        let mut headers = HeaderMap::new();
        for line in answer.headers.iter() {
            let name = http::HeaderName::from_bytes(line.name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(line.value).unwrap());
        }
        assert!(headers.remove("date").is_some());
        let status = answer.code.unwrap();
        let is_bare = [204, 304].contains(&status) || methods.get(all.len()) == Some(&"HEAD");
        let framing = match headers.get(CONTENT_LENGTH) {
            _ if is_bare => Framing::Length(0),
            Some(length) => Framing::Length(length.to_str().unwrap().parse().unwrap()),
            None if headers.contains_key("transfer-encoding") => Framing::chunked(),
            None => Framing::UntilClose,
        };
        // hyper says `close, keep-alive` to HTTP/1.0, and `keep-alive` where the body ends with the connection.
        let says = headers.remove("connection").map(|value| value.to_str().unwrap().to_owned());
        let says = says.filter(|_| framing != Framing::UntilClose);
        if let Some(says) = says {
            let says = if says.starts_with("close") { "close" } else { &says };
            headers.insert("connection", HeaderValue::from_str(says).unwrap());
        }
        let (mut framing, mut rest, mut body) = (framing, BytesMut::from(bytes), Vec::new());
        while let Taken::Data(data) = framing.take(&mut rest).unwrap() {
            body.extend_from_slice(&data);
        }
        bytes = &bytes[bytes.len() - rest.len()..];
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        headers.sort();
        all.push((status, headers, body));
    }
    Some(all)
}

type Wanted = (&'static str, Vec<u8>);

fn requests() -> impl Strategy<Value = Wanted> {
    let method = prop::sample::select(vec!["GET", "POST", "POST", "HEAD", "OPTIONS"]);
    let target = prop::sample::select(vec![
        "/",
        "/a?b=c",
        "/stream",
        "/none",
        "/same",
        "/last",
        "http://h/x",
        "*",
    ]);
    let version = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    let header = prop::sample::select(vec![
        "host: h",
        "Authorization: Bearer x",
        "connection: close",
        "Connection: keep-alive",
        "X-Empty:",
        "x-high: \u{e9}",
        "accept: a",
        "accept: b",
        "upgrade: x",
    ]);
    let body = prop::sample::select(vec![
        "\r\n",
        "Content-Length: 0\r\n\r\n",
        "content-length: 5\r\n\r\nhello",
        "content-length:   5  \r\nx: y\r\n\r\nhello",
        "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "content-length: 5, 5\r\n\r\nhello",
        "content-length: +5\r\n\r\nhello",
        "content-length: 005\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\na: b\r\n\r\n",
        "transfer-encoding: gzip\r\n\r\nhello",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    ]);
    let empty = prop::sample::select(vec!["", "", "\r\n", "\n\r\n"]);
    (empty, method, target, version, prop::collection::vec(header, 0..4), body).prop_map(
        |(empty, method, target, version, headers, body)| {
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            let text = format!("{empty}{method} {target} {version}\r\n{headers}{body}");
            (method, text.into_bytes())
        },
    )
}

fn damage() -> impl Strategy<Value = Option<(prop::sample::Index, u8)>> {
    let byte = prop::sample::select(&b"\r\n 0;:,a\x00\xff"[..]);
    prop::option::weighted(0.4, (any::<prop::sample::Index>(), byte))
}

proptest! {
    #[test]
    fn requests_are_read_and_answered_as_hyper_does(
        requests in prop::collection::vec(requests(), 1..4),
        size in 1..200_usize,
        damage in damage(),
    ) {
        let methods: Vec<_> = requests.iter().map(|(method, _)| *method).collect();
        let mut bytes: Vec<u8> = requests.into_iter().flat_map(|(_, bytes)| bytes).collect();
        if let Some((place, byte)) = damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        run(async move {
            let ours = answers(bytes.clone(), size, ours).await;
            let hypers = answers(bytes.clone(), size, hypers).await;
            if damage.is_some() && (ours.starts_with(b"HTTP/1.1 4") || hypers.is_empty()) {
                return;
            }
            let shown = String::from_utf8_lossy(&bytes);
            let (Some(mut ours), Some(mut hypers)) = (cut(&ours, &methods), cut(&hypers, &methods))
            else {
                return assert!(damage.is_some(), "{shown}");
            };
            if damage.is_some() {
                // Behind a body that cannot be read hyper ends the connection without a word.
                for (_, headers, _) in ours.iter_mut().chain(&mut hypers) {
                    headers.retain(|header| !header.starts_with("connection:"));
                }
            }
            for (number, our) in ours.iter().enumerate() {
                // What is refused is refused by both, but for what may be cut in two places, and what is damaged in a way
                // that hyper bears. Nothing is taken after it.
                if [AMBIGUOUS.as_u16(), UNREAD.as_u16(), 400].contains(&our.0) {
                    let both = hypers.get(number).is_some_and(|hyper| hyper.0 == our.0);
                    assert!(both || our.0 == AMBIGUOUS || damage.is_some(), "{shown}");
                    assert_eq!(ours.len(), number + 1, "{shown}");
                    return;
                }
                assert_eq!(Some(our), hypers.get(number), "{shown}");
            }
            assert!(damage.is_some() || ours.len() == hypers.len(), "{ours:?} {hypers:?} {shown}");
        });
    }

    #[test]
    fn a_head_like_the_one_before_is_read_as_if_it_were_the_first(
        first in requests(),
        second in requests(),
        is_same in any::<bool>(),
        damage in damage(),
    ) {
        let mut second = if is_same { first.1.clone() } else { second.1 };
        if let Some((place, byte)) = damage {
            let place = place.index(second.len());
            second[place] = byte;
        }
        let whole = |bytes: &[u8]| {
            let end = crate::http1::end(bytes, 0)?;
            Some(Bytes::copy_from_slice(&bytes[..end]))
        };
        let Some(Ok((_, Some(mut kept)))) = whole(&first.1).map(|head| head::read(&head)) else {
            return Ok(());
        };
        let mut inbox = BytesMut::from(&second[..]);
        if let Some(again) = kept.again(&mut inbox) {
            let head = whole(&second).unwrap();
            let (anew, _) = head::read(&head).unwrap();
            prop_assert_eq!(&inbox[..], &second[head.len()..]);
            prop_assert_eq!(format!("{again:?}"), format!("{anew:?}"));
        } else {
            prop_assert_eq!(&inbox[..], &second[..]);
            prop_assert!(!is_same || damage.is_some());
        }
    }
}
