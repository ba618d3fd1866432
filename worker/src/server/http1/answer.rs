//! Answers as they are written (RFC 9112, 4 and 6; RFC 9110, 6.4.1). Pure but for the date.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::response::Parts;
use http::{Method, StatusCode, Version};

use crate::http1::{self, Told};

/// What an answer has to know of its request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub version: Version,
}

/// How the body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// There is none.
    Nothing,
    /// So many bytes are still to go out.
    Length(u64),
    /// In pieces, each with its length.
    Chunked,
    /// As it is: the connection ends behind it.
    UntilClose,
}

impl Sending {
    /// Whether nothing more can go out, whatever there is.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Nothing | Self::Length(0))
    }

    /// Adds a piece of the body. Of more than was told the rest is left out.
    pub fn piece(&mut self, out: &mut Vec<u8>, piece: &[u8]) {
        match self {
            Self::Nothing => {}
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                *left = left.saturating_sub(taken as u64);
                out.extend_from_slice(piece.get(..taken).unwrap_or_default());
            }
            Self::Chunked if piece.is_empty() => {}
            Self::Chunked => {
                // Memory takes everything.
                let _ = write!(out, "{:X}\r\n", piece.len());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            Self::UntilClose => out.extend_from_slice(piece),
        }
    }

    /// Adds the end. Returns whether the body is as long as was told.
    pub fn end(self, out: &mut Vec<u8>) -> bool {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        !matches!(self, Self::Length(1..))
    }
}

/// Adds the head of an answer whose body has that length, if it is known. `keeps`: whether another request may follow as far as it
/// goes without this answer. Returns how the body goes out, and whether another request may follow.
pub fn head(
    out: &mut Vec<u8>,
    head: &Parts,
    length: Option<u64>,
    asked: &Asked,
    keeps: bool,
) -> (Sending, bool) {
    let is_old = asked.version == Version::HTTP_10;
    let is_tunnel = asked.method == Method::CONNECT && head.status.is_success();
    let is_bare =
        is_tunnel || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    let length_told =
        || head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let sending = match length.or_else(length_told) {
        _ if is_bare || asked.method == Method::HEAD => Sending::Nothing,
        Some(length) => Sending::Length(length),
        None if is_old => Sending::UntilClose,
        None => Sending::Chunked,
    };
    let mut told = Told::default();
    head.headers.get_all(CONNECTION).iter().for_each(|value| told.connection(value.as_bytes()));
    let says_close = told.closes;
    let keeps = keeps && !says_close && !is_tunnel && sending != Sending::UntilClose;

    out.extend_from_slice(if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    for part in
        [head.status.as_str(), " ", head.status.canonical_reason().unwrap_or("<none>"), "\r\n"]
    {
        out.extend_from_slice(part.as_bytes());
    }
    let (mut has_date, mut has_length) = (false, is_bare || sending == Sending::Chunked);
    for (name, value) in &head.headers {
        if name == CONTENT_LENGTH {
            if std::mem::replace(&mut has_length, true) {
                continue;
            }
        } else if name == TRANSFER_ENCODING {
            continue;
        }
        has_date |= name == DATE;
        http1::write(out, name, value);
    }
    match sending {
        Sending::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Sending::Length(length) if !has_length => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Sending::Length(_) | Sending::Nothing | Sending::UntilClose => {}
    }
    if !keeps && !says_close && !is_old {
        out.extend_from_slice(b"connection: close\r\n");
    } else if keeps && is_old {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if !has_date {
        date(out);
    }
    out.extend_from_slice(b"\r\n");
    (sending, keeps)
}

/// Adds the whole answer to what is no request.
pub fn refusal(out: &mut Vec<u8>, status: StatusCode) {
    let words = [status.as_str(), " ", status.canonical_reason().unwrap_or_default()].concat();
    let line = format!("HTTP/1.1 {words}\r\nconnection: close\r\ncontent-length: 0\r\n");
    out.extend_from_slice(line.as_bytes());
    date(out);
    out.extend_from_slice(b"\r\n");
}

thread_local! {
    /// The line of this second, in seconds since 1970 UTC.
    static LINE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

fn date(out: &mut Vec<u8>) {
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    LINE.with_borrow_mut(|(of, line)| {
        if *of != second || line.is_empty() {
            *of = second;
            *line = format!("date: {}\r\n", httpdate::fmt_http_date(now));
        }
        out.extend_from_slice(line.as_bytes());
    });
}
