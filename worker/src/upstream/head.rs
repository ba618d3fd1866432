//! Heads of HTTP/1.1 messages as a client writes and reads them (RFC 9112). Pure.

use std::mem::MaybeUninit;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use shared::secret::Secret;

use crate::http1::{self, Framing, Line, NotChunked, Told};

/// The largest head of an answer, in bytes.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;
/// Room for what heads of requests have in common, in bytes.
const COMMON_BYTES_EXPECTED: usize = 1024;
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
    #[error(transparent)]
    Chunk(#[from] NotChunked),
}

/// The head of an answer, of which only what everybody asks for is looked at before somebody asks.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status.
    pub status: StatusCode,
    /// What the body is, as the header `content-type` says.
    pub content_type: Option<HeaderValue>,
    /// As it came.
    bytes: Bytes,
}

impl AnswerHead {
    /// Its headers.
    pub fn headers(&self) -> HeaderMap {
        let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let Ok((_, lines)) = parse(&self.bytes, &mut lines) else { return HeaderMap::new() };
        let mut headers = HeaderMap::with_capacity(lines.len());
        for line in lines.iter() {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            // Whoever has read the line permits nothing else in either.
            if let (Ok(name), Ok(value)) = (name, http1::value(&self.bytes, line)) {
                headers.append(name, value);
            }
        }
        headers
    }
}

/// A head that was read, and how its message goes on.
#[derive(Debug)]
pub struct Read {
    /// It.
    pub head: AnswerHead,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again afterwards.
    pub keeps: bool,
}

/// A request to an upstream.
#[derive(Debug)]
pub enum Outgoing {
    /// With everything of its own.
    Whole(Request<Bytes>),
    /// A `POST` with a head that it has in common with others, but for one header.
    Alike {
        /// What it has in common.
        common: Common,
        /// The header that it has for itself.
        own: (HeaderName, HeaderValue),
        /// The body.
        body: Bytes,
    },
}

/// The head of a request as it is written, without the length of its body. It may hold a credential.
pub type Common = Rc<Secret<Vec<u8>>>;

impl Outgoing {
    /// What requests have in common with this one.
    pub fn common(request: &Request<Bytes>) -> Common {
        // Where it grew it would leave copies of a credential behind.
        let mut out = Vec::with_capacity(COMMON_BYTES_EXPECTED);
        write_headers(&mut out, request);
        Rc::new(Secret::new(out))
    }

    /// The method.
    pub fn method(&self) -> Method {
        match self {
            Self::Whole(request) => request.method().clone(),
            Self::Alike { .. } => Method::POST,
        }
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        match self {
            Self::Whole(request) => request.body(),
            Self::Alike { body, .. } => body,
        }
    }

    /// The body, to be taken.
    pub fn body_mut(&mut self) -> &mut Bytes {
        match self {
            Self::Whole(request) => request.body_mut(),
            Self::Alike { body, .. } => body,
        }
    }
}

impl From<Request<Bytes>> for Outgoing {
    fn from(request: Request<Bytes>) -> Self {
        Self::Whole(request)
    }
}

/// Adds the head of a request. The length of its body is told as it is, whatever its headers say of that.
pub fn write(out: &mut Vec<u8>, request: &Outgoing) {
    match request {
        Outgoing::Whole(request) => write_headers(out, request),
        Outgoing::Alike { common, own: (name, value), .. } => {
            out.extend_from_slice(common.expose());
            http1::write(out, name, value);
        }
    }
    let body = request.body();
    // RFC 9110 (8.6): a method that means something by a body tells that there is none.
    let means_body = || [Method::POST, Method::PUT, Method::PATCH].contains(&request.method());
    if !body.is_empty() || means_body() {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_headers(out: &mut Vec<u8>, request: &Request<Bytes>) {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    for part in [request.method().as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            http1::write(out, name, value);
        }
    }
}

/// Reads the whole head of an answer to a request of this method; `None` if it is an interim one (1xx), which another follows.
pub fn read(bytes: Bytes, method: &Method) -> Result<Option<Read>, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let ((status, is_old), lines) = parse(&bytes, &mut lines)?;
    let code = status;
    let status = StatusCode::from_u16(code).map_err(|_| Malformed::Status(code))?;
    match status {
        // Nobody has asked for another protocol.
        StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed::Status(code)),
        interim if interim.is_informational() => return Ok(None),
        _ => {}
    }
    let mut told = Told::default();
    let mut content_type = None;
    for line in lines.iter() {
        let is = |name: &HeaderName| line.name.eq_ignore_ascii_case(name.as_str());
        match line.name.len() {
            10 if is(&CONNECTION) => told.connection(line.value),
            12 if is(&CONTENT_TYPE) && content_type.is_none() => {
                content_type = Some(http1::value(&bytes, line).map_err(Malformed::Head)?);
            }
            14 if is(&CONTENT_LENGTH) => told.length(line.value),
            17 if is(&TRANSFER_ENCODING) => told.coding = Some(line.value),
            _ => {}
        }
    }
    let is_bare = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    // RFC 9110 (9.3.6): what follows is a tunnel, into which no message may go.
    let is_tunnel = method == Method::CONNECT && status.is_success();
    let has_body = !is_bare && !is_tunnel && method != Method::HEAD;
    let framing = if has_body { framing(&told, is_old)? } else { Framing::Length(0) };
    let keeps = !is_tunnel && !told.closes && (!is_old || told.keeps_alive);
    Ok(Some(Read { head: AnswerHead { status, content_type, bytes }, framing, keeps }))
}

/// Status, whether it is of HTTP/1.0, and the lines of headers.
#[allow(clippy::type_complexity, reason = "the two lifetimes are those of httparse")]
fn parse<'h, 'b>(
    head: &'b [u8],
    lines: &'h mut [MaybeUninit<Line<'b>>; HEADERS_MAX],
) -> Result<((u16, bool), &'h mut [Line<'b>]), Malformed> {
    let mut answer = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut answer, head, lines)
        .map_err(Malformed::Head)?;
    if read != httparse::Status::Complete(head.len()) {
        return Err(Malformed::Head(httparse::Error::NewLine));
    }
    Ok(((answer.code.unwrap_or_default(), answer.version == Some(0)), answer.headers))
}

/// Where the body ends, by RFC 9112 (6.3).
fn framing(told: &Told<'_>, is_old: bool) -> Result<Framing, Malformed> {
    match (told.is_chunked(), told.length) {
        (Some(_), _) if is_old => Err(Malformed::Length("HTTP/1.0 knows no transfer-encoding")),
        (Some(true), _) => Ok(Framing::chunked()),
        (None, Some(Ok(length))) => Ok(Framing::Length(length)),
        (None, Some(Err(reason))) => Err(Malformed::Length(reason)),
        (Some(false), _) | (None, None) => Ok(Framing::UntilClose),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str, method: &Method) -> Result<Option<Read>, Malformed> {
        read(Bytes::copy_from_slice(head.as_bytes()), method)
    }

    fn framed(headers: &str) -> Result<(Framing, bool), Malformed> {
        let head = answer(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), &Method::POST)?.unwrap();
        Ok((head.framing, head.keeps))
    }

    #[test]
    fn a_request_is_written_with_the_length_that_its_body_has() {
        let write = |request: Request<&'static str>| {
            let mut out = Vec::new();
            write(&mut out, &request.map(|body| Bytes::from_static(body.as_bytes())).into());
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
    fn a_request_like_another_is_written_as_if_it_were_written_for_itself() {
        let request = |id: &'static str, body: &'static [u8]| {
            let request = Request::post("/v1/x").header("host", "h").header("a", "b");
            request.header("id", id).body(Bytes::from_static(body)).unwrap()
        };
        let mut first = request("1", b"abc");
        let own = (HeaderName::from_static("id"), HeaderValue::from_static("2"));
        first.headers_mut().remove("id");
        let (common, body) = (Outgoing::common(&first), Bytes::from_static(b"de"));
        let (mut alike, mut whole) = (Vec::new(), Vec::new());
        write(&mut alike, &Outgoing::Alike { common, own, body });
        write(&mut whole, &request("2", b"de").into());
        assert_eq!(alike, whole);
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
