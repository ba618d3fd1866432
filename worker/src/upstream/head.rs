//! Heads of HTTP/1.1 messages as a client writes and reads them (RFC 9112). Pure.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};

use super::body::Framing;

/// The largest head of an answer, in bytes.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;
/// The most headers of an answer.
const HEADERS_MAX: usize = 100;

/// What came is no HTTP/1.1 answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line that no head has.
    #[error("its head cannot be read: {0}")]
    Head(httparse::Error),
    /// A head without an end.
    #[error("its head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// The status is not one that an answer to such a request has.
    #[error("its status {0} answers no such request")]
    Status(u16),
    /// Where its body ends cannot be told.
    #[error("its head does not tell where its body ends: {0}")]
    Length(&'static str),
    /// The body is not in chunks as its head says.
    #[error("its body is not cut into chunks as it says: {0}")]
    Chunk(&'static str),
}

/// The head of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    /// Status and headers.
    pub parts: Parts,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again afterwards.
    pub keeps: bool,
}

/// Adds the head of a request. The length of its body is told as it is, whatever its headers say of that.
pub fn write(out: &mut Vec<u8>, request: &Request<Bytes>) {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    for part in [request.method().as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
        if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    // RFC 9110 (8.6): a method that means something by a body tells that there is none.
    let means_body = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    if means_body || !request.body().is_empty() {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(request.body().len()).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Where a head ends whose bytes were looked at as far as `before` already: behind its first empty line.
pub fn end(bytes: &[u8], before: usize) -> Option<usize> {
    // An end may begin with what was the last of them.
    let from = before.saturating_sub(3);
    let new = bytes.get(from..)?;
    memchr::memchr_iter(b'\n', new).find_map(|line| {
        let empty = match new.get(line.saturating_add(1)..)? {
            [b'\n', ..] => 2,
            [b'\r', b'\n', ..] => 3,
            _ => return None,
        };
        Some(from.saturating_add(line).saturating_add(empty))
    })
}

/// Reads the whole head of an answer to a request of this method; `None` if it is an interim one (1xx), which another follows.
pub fn read(head: &Bytes, method: &Method) -> Result<Option<AnswerHead>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut answer, head, &mut headers)
        .map_err(Malformed::Head)?;
    if read != httparse::Status::Complete(head.len()) {
        return Err(Malformed::Head(httparse::Error::NewLine));
    }
    let status = answer.code.unwrap_or_default();
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(status).map_err(|_| Malformed::Status(status))?;
    if answer.version == Some(0) {
        parts.version = Version::HTTP_10;
    }
    match parts.status {
        // Nobody has asked for another protocol.
        StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed::Status(status)),
        interim if interim.is_informational() => return Ok(None),
        _ => {}
    }
    parts.headers.reserve(answer.headers.len());
    for header in answer.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        // Of the head's own memory.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Malformed::Head(httparse::Error::HeaderValue));
        };
        parts.headers.append(name, value);
    }
    let framing = framing(&parts, method)?;
    let keeps = keeps(&parts);
    Ok(Some(AnswerHead { parts, framing, keeps }))
}

/// Where the body ends, by RFC 9112 (6.3).
fn framing(parts: &Parts, method: &Method) -> Result<Framing, Malformed> {
    let is_bare = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status);
    if is_bare || method == Method::HEAD {
        return Ok(Framing::Length(0));
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter().peekable();
    if codings.peek().is_some() {
        if parts.version == Version::HTTP_10 {
            return Err(Malformed::Length("HTTP/1.0 knows no transfer-encoding"));
        }
        let last = codings.next_back().and_then(|value| value.to_str().ok()?.rsplit(',').next());
        let is_chunked = last.is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"));
        return Ok(if is_chunked { Framing::chunked() } else { Framing::UntilClose });
    }
    // Told more than once, it has to be the same number each time.
    let lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let lengths = lengths.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut length: Option<u64> = None;
    for text in lengths {
        let told = number(text).ok_or(Malformed::Length("content-length is no number"))?;
        if *length.get_or_insert(told) != told {
            return Err(Malformed::Length("it tells several lengths"));
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// A number of decimal digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether the connection may be used again after the answer.
fn keeps(parts: &Parts) -> bool {
    let Some(first) = parts.headers.get(CONNECTION) else {
        return parts.version == Version::HTTP_11;
    };
    let has = |value: &HeaderValue, option: &str| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|it| it.trim().eq_ignore_ascii_case(option))
    };
    let closes = parts.headers.get_all(CONNECTION).iter().any(|value| has(value, "close"));
    !closes && (parts.version == Version::HTTP_11 || has(first, "keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str, method: &Method) -> Result<Option<AnswerHead>, Malformed> {
        read(&Bytes::copy_from_slice(head.as_bytes()), method)
    }

    fn framed(headers: &str) -> Result<(Framing, bool), Malformed> {
        let head = answer(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), &Method::POST)?.unwrap();
        Ok((head.framing, head.keeps))
    }

    #[test]
    fn a_request_is_written_with_the_length_that_its_body_has() {
        let write = |request: Request<&'static str>| {
            let mut out = Vec::new();
            write(&mut out, &request.map(|body| Bytes::from_static(body.as_bytes())));
            String::from_utf8(out).unwrap()
        };
        let request = |method: &str, body| {
            let request = Request::builder().method(method).uri("/v1/x?y=1");
            let request = request.header("Host", "h").header("content-length", "7");
            request.header("transfer-encoding", "chunked").body(body).unwrap()
        };
        let head = "POST /v1/x?y=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(write(request("POST", "abc")), head);
        assert_eq!(write(request("GET", "")), "GET /v1/x?y=1 HTTP/1.1\r\nhost: h\r\n\r\n");
        assert!(write(request("POST", "")).ends_with("\r\ncontent-length: 0\r\n\r\n"));
        assert!(write(request("DELETE", "abc")).ends_with("\r\ncontent-length: 3\r\n\r\n"));
    }

    #[test]
    fn a_head_ends_behind_its_first_empty_line_however_it_was_cut() {
        for (head, length) in [
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\r\n\r\n", 25),
            ("HTTP/1.1 200 OK\na: b\n\nbody", 22),
            ("HTTP/1.1 200 OK\r\na: b\r\n", usize::MAX),
        ] {
            let bytes = head.as_bytes();
            assert_eq!(end(bytes, 0).unwrap_or(usize::MAX), length, "{head}");
            for cut in 0..bytes.len().min(length) {
                assert_eq!(end(&bytes[..cut], 0), None);
                assert_eq!(end(bytes, cut).unwrap_or(usize::MAX), length, "{head} after {cut}");
            }
        }
    }

    #[test]
    fn where_a_body_ends_follows_from_status_method_and_headers() {
        assert_eq!(framed("Content-Length: 12\r\n"), Ok((Framing::Length(12), true)));
        assert_eq!(
            framed("content-length: 12, 12\r\ncontent-length: 12\r\n").unwrap().0,
            Framing::Length(12)
        );
        assert_eq!(
            framed("transfer-encoding: gzip, Chunked\r\ncontent-length: 1\r\n").unwrap().0,
            Framing::chunked()
        );
        assert_eq!(framed("transfer-encoding: gzip\r\n").unwrap().0, Framing::UntilClose);
        assert_eq!(framed("").unwrap().0, Framing::UntilClose);
        for wrong in
            ["1\r\ncontent-length: 2", "+1", "-1", "", "1, 2", "1,", "99999999999999999999"]
        {
            assert!(matches!(
                framed(&format!("content-length: {wrong}\r\n")),
                Err(Malformed::Length(_))
            ));
        }
        for status in ["204 No Content", "304 Not Modified"] {
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n");
            assert_eq!(answer(&head, &Method::GET).unwrap().unwrap().framing, Framing::Length(0));
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        assert_eq!(answer(head, &Method::HEAD).unwrap().unwrap().framing, Framing::Length(0));
        let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(matches!(answer(old, &Method::GET), Err(Malformed::Length(_))));
    }

    #[test]
    fn a_connection_is_kept_unless_the_answer_or_its_version_says_otherwise() {
        let keeps = |version, headers: &str| {
            let head = format!("HTTP/1.{version} 200 OK\r\n{headers}\r\n");
            answer(&head, &Method::GET).unwrap().unwrap().keeps
        };
        assert!(keeps(1, "") && keeps(1, "connection: keep-alive\r\n"));
        assert!(!keeps(1, "Connection: x, Close\r\n"));
        assert!(!keeps(1, "connection: close\r\nconnection: keep-alive\r\n"));
        assert!(!keeps(0, "") && keeps(0, "connection: Keep-Alive\r\n"));
        assert!(!keeps(0, "connection: keep-alive, close\r\n"));
    }

    #[test]
    fn interim_answers_are_none_and_what_is_no_answer_is_refused() {
        assert!(answer("HTTP/1.1 100 Continue\r\n\r\n", &Method::POST).unwrap().is_none());
        for wrong in [
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "<html>\r\n\r\n",
        ] {
            assert!(answer(wrong, &Method::POST).is_err(), "{wrong}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert!(answer(&many, &Method::POST).is_err());
    }
}
