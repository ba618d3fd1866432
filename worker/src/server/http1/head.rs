//! Heads of requests (RFC 9112, 3 and 6.3): read, or known from the request before. Pure.

use std::mem::MaybeUninit;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};

use crate::http1::{self, Framing, Told};
use crate::request::HashOnce;

/// The largest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers.
const HEADERS_MAX: usize = 100;
/// The longest target: what [`Uri`] can hold, in bytes.
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;

/// The digits of the longest body.
const DIGITS_MAX: usize = 20;

/// What came is no request that can be answered as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A line that no head has, or a length that is none.
    #[error("what came is no HTTP/1.1 request")]
    Malformed,
    /// Its target.
    #[error("the target of a request is too long")]
    TargetTooLong,
    /// Its head.
    #[error(
        "the head of a request is longer than {HEAD_BYTES_MAX} bytes or has more than {HEADERS_MAX} headers"
    )]
    TooLarge,
}

impl Unreadable {
    /// What is answered.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// A request without its body, and how the connection goes on.
#[derive(Clone, Debug)]
pub struct Head {
    /// What it asks for.
    pub parts: Rc<Parts>,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether another may follow.
    pub keeps: bool,
    /// Whether its body comes only when somebody says that it is wanted.
    pub expects: bool,
    /// Whether it tells the length of its body more than once. It may then be cut in two places: by us, and by whoever forwarded it.
    pub is_ambiguous: bool,
}

/// Tells as early as possible that what has come will not become a head.
pub fn begins(bytes: &[u8]) -> Result<(), Unreadable> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    request.parse_with_uninit_headers(bytes, &mut lines).map(|_| ()).map_err(unreadable)
}

fn unreadable(error: httparse::Error) -> Unreadable {
    match error {
        httparse::Error::TooManyHeaders => Unreadable::TooLarge,
        _ => Unreadable::Malformed,
    }
}

/// Reads a whole head.
pub fn read(bytes: &Bytes) -> Result<(Head, Option<Kept>), Unreadable> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let read = request.parse_with_uninit_headers(bytes, &mut lines).map_err(unreadable)?;
    if read != httparse::Status::Complete(bytes.len()) {
        return Err(Unreadable::Malformed);
    }
    let is_old = request.version == Some(0);
    let mut told = Told::default();
    let (mut expects, mut lengths, mut length) = (false, 0, None);
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for line in request.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let name = name.map_err(|_| Unreadable::Malformed)?;
        if name == CONTENT_LENGTH {
            lengths += 1;
            told.length(line.value);
            if line.value.contains(&b',') {
                return Err(Unreadable::Malformed);
            }
            length = Some(bytes.slice_ref(line.value));
        } else if name == TRANSFER_ENCODING {
            lengths += 1;
            told.coding = Some(line.value);
        } else if name == CONNECTION {
            told.connection(line.value);
        } else if name == EXPECT {
            expects = !is_old && line.value.eq_ignore_ascii_case(b"100-continue");
        }
        let value = http1::value(bytes, line).map_err(unreadable)?;
        headers.try_append(name, value).map_err(|_| Unreadable::TooLarge)?;
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    let target = request.path.unwrap_or_default().as_bytes();
    if target.len() > TARGET_BYTES_MAX {
        return Err(Unreadable::TargetTooLong);
    }
    parts.uri =
        Uri::from_maybe_shared(bytes.slice_ref(target)).map_err(|_| Unreadable::Malformed)?;
    parts.method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|_| Unreadable::Malformed)?;
    parts.version = if is_old { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = headers;
    parts.extensions.insert(HashOnce::default());
    let framing = framing(&told, is_old)?;
    let keeps = !told.closes && (!is_old || told.keeps_alive);
    let head = Head { parts: Rc::new(parts), framing, keeps, expects, is_ambiguous: lengths > 1 };
    let kept = (!head.is_ambiguous).then(|| Kept::new(bytes, length, &head));
    Ok((head, kept))
}

fn framing(told: &Told<'_>, is_old: bool) -> Result<Framing, Unreadable> {
    match (told.is_chunked(), told.length) {
        (Some(true), None | Some(Ok(_))) if !is_old => Ok(Framing::chunked()),
        (None, None) => Ok(Framing::Length(0)),
        (None, Some(Ok(length))) => Ok(Framing::Length(length)),
        _ => Err(Unreadable::Malformed),
    }
}

/// The last head over a connection. Nearly always the next one is the same but for the length of the body: then nothing of it has to
/// be read again.
#[derive(Debug)]
pub struct Kept {
    /// Its bytes before the number that tells the length of the body (all, if there is none), that number, and the rest.
    before: Bytes,
    length: Option<Bytes>,
    after: Bytes,
    head: Head,
}

impl Kept {
    fn new(bytes: &Bytes, length: Option<Bytes>, head: &Head) -> Self {
        let place = length.as_ref().map_or(bytes.len(), |length| {
            (length.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize)
        });
        let end = place.saturating_add(length.as_ref().map_or(0, Bytes::len));
        Self { before: bytes.slice(..place), length, after: bytes.slice(end..), head: head.clone() }
    }

    /// Takes the next head, if it has come as a whole and is the same.
    pub fn again(&mut self, inbox: &mut BytesMut) -> Option<Head> {
        let rest = inbox.strip_prefix(&self.before[..])?;
        let digits = rest.iter().take(DIGITS_MAX);
        let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = rest.split_at(if self.length.is_some() { digits } else { 0 });
        rest.strip_prefix(&self.after[..])?;
        if let Some(length) = &mut self.length
            && *length != digits
        {
            let told = std::str::from_utf8(digits).ok()?.parse().ok()?;
            *length = Bytes::copy_from_slice(digits);
            let value = HeaderValue::from_maybe_shared(length.clone()).ok()?;
            // Nobody else has it any more, most often.
            Rc::make_mut(&mut self.head.parts).headers.insert(CONTENT_LENGTH, value);
            self.head.framing = Framing::Length(told);
        }
        let length = self.length.as_ref().map_or(0, Bytes::len);
        inbox.advance(self.before.len() + length + self.after.len());
        Some(self.head.clone())
    }
}
