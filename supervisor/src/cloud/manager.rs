//! Requests to the manager: HTTP/1.1 over mutual TLS, one kept connection per session, dialled again when it is dead or
//! when another identity has come into force: what is on the way then finishes where it is, an idle connection is closed.
//!
//! No redirects are followed and no proxy is asked: the manager is who the configuration says, or nobody.

use std::error::Error;
use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use shared::dial::{Destination, Dial};
use shared::egress::Key;
use shared::resource::Endpoint;
use shared::version::VERSION;
use tokio::time::timeout;

use super::tls::{self, CredentialsInForce, InForce, Protocol};

/// A request may take this long, the connection included. As published.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The longest pause that the manager can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How much of an answer's text an error shows. As published.
const EXCERPT_CHARS: usize = 200;

/// Where the manager is, how to get there, and as whom.
#[derive(Clone)]
pub struct Manager {
    /// Base URL.
    pub url: ManagerUrl,
    /// Makes the connections.
    pub dial: Arc<dyn Dial>,
    /// What to show and whom to trust.
    pub credentials: CredentialsInForce,
}

/// Base URL of the manager: always `https`. A bare `host:port` and an `http://` URL mean the same host by `https`, since
/// nothing is ever told to the Cloud without mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerUrl(Endpoint);

/// The text is not the URL of a manager.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not a manager URL such as https://manager.example:7944: it {reason}")]
pub struct ManagerUrlError {
    url: String,
    reason: shared::resource::EndpointError,
}

impl FromStr for ManagerUrl {
    type Err = ManagerUrlError;

    fn from_str(url: &str) -> Result<Self, ManagerUrlError> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let endpoint = format!("https://{}", rest.unwrap_or(url)).parse();
        endpoint.map(Self).map_err(|reason| ManagerUrlError { url: url.to_owned(), reason })
    }
}

impl ManagerUrl {
    /// Its parts.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl fmt::Display for ManagerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why the manager did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url} failed: {reason}")]
pub struct ManagerError {
    method: Method,
    url: String,
    /// What went wrong.
    pub reason: Reason,
}

impl ManagerError {
    /// The HTTP status, if it is for that that the request failed.
    pub fn status(&self) -> Option<u16> {
        match self.reason {
            Reason::Status { status, .. } => Some(status),
            _ => None,
        }
    }
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(Broken),
    /// No answer in time.
    #[error("no answer within {} s", REQUEST_LIMIT.as_secs())]
    Timeout,
    /// More than is ever read.
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// A page for people.
    #[error(
        "status {status} with a web page: is this the URL of the web console instead of the manager's?"
    )]
    WebPage {
        /// HTTP status.
        status: u16,
    },
    /// Any status but 2xx.
    #[error("status {status}: {excerpt}")]
    Status {
        /// HTTP status.
        status: u16,
        /// When to come back, if the manager said so.
        retry_after: Option<Duration>,
        /// Beginning of the answer.
        excerpt: String,
    },
}

/// Why there is no connection, in words.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The network, which may be better next time.
    #[error("{0}")]
    Network(String),
    /// One side would not have the other's certificate, or does not speak TLS.
    #[error("{0}")]
    Tls(String),
}

/// One kept connection to the manager. Requests go one after another.
pub struct Session {
    manager: Manager,
    /// Shared with the connection's own task, which empties it when another identity has come into force.
    kept: Arc<Mutex<Option<Kept>>>,
}

/// A connection and the identity that was shown on it.
struct Kept {
    connection: SendRequest<Full<Bytes>>,
    identity: Arc<InForce>,
}

impl Session {
    /// A session that connects when it is first used.
    pub fn new(manager: Manager) -> Self {
        Self { manager, kept: Arc::default() }
    }

    /// What the next request goes out with.
    pub fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.manager.credentials.borrow())
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `json` to `path` and gives the body of a 2xx answer.
    pub async fn post(&mut self, path: &str, json: Bytes) -> Result<Bytes, ManagerError> {
        self.request(Method::POST, path, json).await
    }

    /// Asks for `path` and gives the body of a 2xx answer.
    pub async fn get(&mut self, path: &str) -> Result<Bytes, ManagerError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ManagerError> {
        let answer = timeout(REQUEST_LIMIT, self.exchange(&method, path, body)).await;
        answer.unwrap_or(Err(Reason::Timeout)).map_err(|reason| {
            // Whatever state the connection is in, the next request does not depend on it.
            if !matches!(reason, Reason::Status { .. }) {
                *self.kept() = None;
            }
            ManagerError { method, url: format!("{}{path}", self.manager.url), reason }
        })
    }

    async fn exchange(
        &mut self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Reason> {
        // One identity for the whole exchange: the caller may have written its name into the body.
        let identity = self.in_force();
        let kept = self.kept().take();
        if let Some(Kept { connection, .. }) = kept.filter(|kept| kept.is_usable(&identity)) {
            match send(connection, self.manager.request(method, path, body.clone())?).await {
                // The manager may close a kept connection at any time: that is no failure of this request.
                Err(error) if error.is_incomplete_message() || error.is_canceled() => {}
                answer => return self.read(answer, identity).await,
            }
        }
        let connection = self.connect(&identity).await?;
        let request = self.manager.request(method, path, body)?;
        let answer = send(connection, request).await;
        self.read(answer, identity).await
    }

    async fn read(&mut self, answer: Sent, identity: Arc<InForce>) -> Result<Bytes, Reason> {
        let (connection, answer) = answer.map_err(|error| connection_reason(&error))?;
        let (head, body) = answer.into_parts();
        let body = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            // It has done what it was asked; only its words are lost, and the connection with them.
            Err(_) if head.status.is_success() => return judge(&head, Bytes::new()),
            Err(error) if error.is::<LengthLimitError>() => return Err(Reason::TooLong),
            Err(error) => return Err(connection_reason(&*error)),
        };
        // Replaced while the answer was on its way: this was the last use.
        if Arc::ptr_eq(&identity, &self.in_force()) {
            *self.kept() = Some(Kept { connection, identity });
        }
        judge(&head, body)
    }

    async fn connect(&self, identity: &Arc<InForce>) -> Result<SendRequest<Full<Bytes>>, Reason> {
        let endpoint = &self.manager.url.0;
        let key = Key::manager();
        let destination = Destination { key, host: endpoint.host.clone(), port: endpoint.port };
        let stream = self.manager.dial.dial(&destination).await;
        let stream =
            stream.map_err(|error| Reason::Connection(Broken::Network(error.to_string())))?;
        let stream = identity
            .connect(stream, &endpoint.host, Protocol::Http1)
            .await
            .map_err(|error| connection_reason(&error))?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| connection_reason(&error))?;
        let mut credentials = self.manager.credentials.clone();
        let (identity, kept) = (Arc::clone(identity), Arc::downgrade(&self.kept));
        tokio::spawn(async move {
            let mut driver = pin!(driver);
            tokio::select! {
                // An error shows at the request that it fails.
                _ = &mut driver => return,
                () = replaced(&mut credentials, &identity) => {}
            }
            if let Some(kept) = kept.upgrade() {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                drop(kept.take_if(|kept| Arc::ptr_eq(&kept.identity, &identity)));
            }
            // A request that is on its way has the connection, and ends it.
            drop(driver.await);
        });
        Ok(connection)
    }
}

impl Kept {
    fn is_usable(&self, identity: &Arc<InForce>) -> bool {
        !self.connection.is_closed() && Arc::ptr_eq(&self.identity, identity)
    }
}

/// Waits until something else than `identity` is in force.
async fn replaced(credentials: &mut CredentialsInForce, identity: &Arc<InForce>) {
    if credentials.wait_for(|now| !Arc::ptr_eq(now, identity)).await.is_err() {
        // Nobody is left who could replace it.
        std::future::pending().await
    }
}

type Sent = Result<(SendRequest<Full<Bytes>>, Response<Incoming>), hyper::Error>;

async fn send(mut connection: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Sent {
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    Ok((connection, answer))
}

impl Manager {
    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Reason> {
        let endpoint = &self.url.0;
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", endpoint.path))
            .header(HOST, endpoint.authority())
            .header(USER_AGENT, format!("aisix-dp/{VERSION}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Reason::Connection(Broken::Network(error.to_string())))
    }
}

/// A connection's failure in words, its innermost cause included.
fn connection_reason(error: &(dyn Error + 'static)) -> Reason {
    if let Some(words) = tls::explain(error) {
        return Reason::Connection(Broken::Tls(words));
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Reason::Connection(Broken::Network(text))
}

fn judge(head: &http::response::Parts, body: Bytes) -> Result<Bytes, Reason> {
    let status = head.status.as_u16();
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let html = text(CONTENT_TYPE).is_some_and(|value| value.starts_with("text/html"));
    if html || body.trim_ascii_start().starts_with(b"<") {
        return Err(Reason::WebPage { status });
    }
    if head.status.is_success() {
        return Ok(body);
    }
    let seconds = text(RETRY_AFTER).and_then(|value| value.trim().parse::<u64>().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let mut excerpt = excerpt(&body);
    if head.status.is_redirection() {
        excerpt = format!("redirects are not followed, give the manager's own URL. {excerpt}");
    }
    Err(Reason::Status { status, retry_after, excerpt })
}

/// The beginning of an answer, fit for a log line.
fn excerpt(body: &[u8]) -> String {
    let head = body.get(..EXCERPT_CHARS * 4).unwrap_or(body);
    let text = String::from_utf8_lossy(head);
    text.chars().filter(|c| !c.is_control()).take(EXCERPT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, header: (&str, &str)) -> http::response::Parts {
        let response = Response::builder().status(status).header(header.0, header.1).body(());
        response.unwrap().into_parts().0
    }

    #[test]
    fn every_form_of_the_url_means_https() {
        for url in ["https://m.example:7944/", "http://m.example:7944", "m.example:7944"] {
            assert_eq!(url.parse::<ManagerUrl>().unwrap().to_string(), "https://m.example:7944");
        }
        let error = "https://m example".parse::<ManagerUrl>().unwrap_err().to_string();
        assert!(error.contains("no valid host"), "{error}");
    }

    #[test]
    fn a_web_page_is_not_taken_for_an_answer() {
        let json = ("content-type", "application/json");
        let html = ("content-type", "text/html; charset=utf-8");
        assert!(matches!(judge(&head(200, html), "hi".into()), Err(Reason::WebPage { .. })));
        let page = " <!doctype html>".into();
        assert!(matches!(judge(&head(404, json), page), Err(Reason::WebPage { status: 404 })));
        assert!(judge(&head(200, json), "{\"ok\":true}".into()).is_ok());
    }

    #[test]
    fn an_error_shows_the_beginning_of_the_answer_without_control_characters() {
        let body = format!("bad\n\x1b[31m{}", "x".repeat(500));
        let error = judge(&head(429, ("retry-after", "7")), body.into()).unwrap_err();
        let Reason::Status { retry_after, excerpt, .. } = &error else { panic!("{error}") };
        assert_eq!(*retry_after, Some(Duration::from_secs(7)));
        assert_eq!(excerpt.chars().count(), EXCERPT_CHARS);
        assert!(excerpt.starts_with("bad[31mxx"));
    }
}
