//! HTTP answers as the manager and the view give them: JSON, errors in the Cloud's shape.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// An answer with its body in memory.
pub type Reply = Response<Full<Bytes>>;

/// `{"error":{"code","message"}}` with a status.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    /// 400: the request is not what the protocol says.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
    }

    /// 403: the certificate does not permit this.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// Any other.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        json(refusal.status, &json!({"error": {"code": refusal.code, "message": refusal.message}}))
    }
}

/// A JSON body.
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    // Only maps with keys that are not text could fail, and there are none.
    let mut bytes = serde_json::to_vec(body).unwrap_or_default();
    bytes.push(b'\n');
    with_type(status, "application/json", bytes)
}

/// A text body.
pub fn text(body: &'static str) -> Reply {
    with_type(StatusCode::OK, "text/plain; charset=utf-8", body.into())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// 404 for a path that is not served.
pub fn unknown_path(path: &str) -> Reply {
    Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("{path} is not served here")).into()
}

/// 405, with what is allowed.
pub fn wrong_method(method: &Method, allowed: &'static str) -> Reply {
    let message = format!("{method} is not allowed here; use {allowed}");
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
    let mut reply = Reply::from(refusal);
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// The JSON body of a request of at most `bytes_max`.
pub async fn read_json<T: DeserializeOwned>(
    body: Incoming,
    bytes_max: usize,
) -> Result<T, Refusal> {
    let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("the body is larger than {bytes_max} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message)
        } else {
            Refusal::invalid(format!("the body did not arrive: {error}"))
        }
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| Refusal::invalid(error.to_string()))
}
