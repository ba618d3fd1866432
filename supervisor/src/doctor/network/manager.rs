//! The Cloud's manager: each endpoint is asked for something that changes nothing.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{CONTENT_TYPE, DATE, HOST, LOCATION, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared::egress::Key;
use shared::version::VERSION;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::faults::{CLOCK, DRIFT};
use super::faults_cloud::{NO_ANSWER, NOT_HTTP};
use super::faults_tls::{
    BAD_SERVER, CLOSED, CONSOLE, INTERCEPTED, NOT_TLS, PLAIN_HTTP, SERVER_EARLY, SERVER_EXPIRED,
    SILENT, STALLS, UNKNOWN_ISSUER, WRONG_NAME,
};
use super::look::{self, Clear};
use super::reach::reach;
use super::tls::{self, Attempt, Trust, Watch};
use super::{Access, Place, answers, endpoints, judge};
use crate::bundle::unix;
use crate::cloud::manager::ManagerUrl;
use crate::cloud::tls::{Identity, Protocol};
use crate::doctor::{Fault, Finding};

/// How much of an answer is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How far the clocks may be apart, in seconds: further is told; further still is the cause of whatever else fails.
const CLOCK_SECS: (i64, i64) = (30, 300);

/// What was seen of the manager.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// It answers requests, whatever it says.
    pub answers: bool,
}

/// An answer, as far as it is of interest.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// HTTP status.
    pub status: u16,
    /// It is a page for people.
    pub is_page: bool,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// What time the other side has, in seconds since 1970.
    pub date: Option<i64>,
    /// The beginning of its text.
    pub excerpt: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// None came in time.
    Silent,
    /// Something is wrong that can be named.
    Found(Finding),
}

/// Looks at the manager.
pub(super) async fn check(access: &Access, url: &ManagerUrl) -> Seen {
    let endpoint = url.endpoint();
    let place = Place {
        key: Key::manager(),
        host: endpoint.host.clone(),
        port: endpoint.port,
        what: "manager",
    };
    let only = |finding| Seen { findings: vec![finding], answers: false };
    let stream = match reach(access, &place).await {
        Ok(stream) => stream,
        Err(finding) => return only(finding),
    };
    let Some(identity) = &access.identity else { return Seen::default() };
    let first = match open(access, &place, identity, stream).await {
        Ok(stream) => stream,
        Err(finding) => return only(finding),
    };
    let mut first = Some(first);
    let asked = endpoints::ALL.iter().map(|endpoint| {
        let there = first.take();
        ask(access, &place, url, identity, there, endpoint)
    });
    let mut asked = join_all(asked).await;
    if let (Some(Ok(answer)), Some(latest)) = (asked.first_mut(), &access.heartbeat)
        && let Some(status) = latest.status
    {
        // What real heartbeats are answered counts before what a harmless request is.
        answer.status = status;
        answer.excerpt = judge::harmless(latest.error.as_deref().unwrap_or_default());
    }
    let answers = asked.iter().any(Result::is_ok);
    let dates = asked.iter().filter_map(|it| it.as_ref().ok()?.date);
    let clock = dates.clone().next().and_then(|date| clock(&place, date, unix(SystemTime::now())));
    let mut findings: Vec<_> = clock.into_iter().collect();
    findings.extend(answers::judge(&place, asked));
    Seen { findings, answers }
}

/// What the other side's clock says about ours.
fn clock(place: &Place, theirs: i64, ours: i64) -> Option<Finding> {
    let (told, wrong) = CLOCK_SECS;
    let apart = ours.saturating_sub(theirs);
    let fault = match apart.abs() {
        apart if apart >= wrong => &CLOCK,
        apart if apart >= told => &DRIFT,
        _ => return None,
    };
    let side = if apart > 0 { "ahead of" } else { "behind" };
    let evidence =
        format!("this machine's clock is {} s {side} the one of the {place}", apart.abs());
    Some(Finding { fault, evidence })
}

/// TLS over a connection to the manager, and whether it accepts our certificate.
async fn open(
    access: &Access,
    place: &Place,
    identity: &Identity,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Finding> {
    let limit = access.step();
    let Attempt { result, shown } =
        tls::handshake(stream, &place.host, Protocol::Http1, identity, Trust::Bundle, limit).await;
    let mut stream = match result {
        Ok(stream) => stream,
        Err(failure) => {
            let (fault, words) = judge::failure(&failure);
            return Err(explain(access, place, identity, fault, &words, shown).await);
        }
    };
    match tls::verdict(&mut stream).await {
        Ok(said) if said.is_empty() => Ok(stream),
        Ok(_) => {
            let evidence = format!("{place}: it speaks first, which no HTTP/1.1 server does");
            Err(Finding { fault: &NOT_HTTP, evidence })
        }
        Err(error) => {
            let (fault, words) =
                judge::refusal(&error).unwrap_or_else(|| (&CLOSED, error.to_string()));
            Err(Finding { fault, evidence: format!("{place}: {words}{}", own(identity)) })
        }
    }
}

/// The fault behind a failed handshake, after a second look where that tells more.
pub(super) async fn explain(
    access: &Access,
    place: &Place,
    identity: &Identity,
    fault: &'static Fault,
    words: &str,
    shown: Option<Vec<u8>>,
) -> Finding {
    let shown = shown.map(|der| format!("; {}", judge::certificate(&der))).unwrap_or_default();
    let mut evidence = format!("{place}: {words}{shown}");
    if fault.code.starts_with("tls-client-") {
        evidence += &own(identity);
    }
    let is_any = |faults: &[&'static Fault]| faults.contains(&fault);
    let fault = if is_any(&[&NOT_TLS, &CLOSED, &SILENT]) {
        match look::in_clear(access, place).await {
            Clear::Http(line) => {
                evidence = format!("{place}: without TLS it answers {line:?}");
                &PLAIN_HTTP
            }
            Clear::Other(line) => {
                evidence = format!("{place}: without TLS it says {line:?}");
                &NOT_TLS
            }
            // What is wrong is answered at once, in a small packet; what is right never, in a large one.
            Clear::Tls if fault == &SILENT => {
                evidence = format!(
                    "{place}: it answers what is no TLS with a short alert, and the greeting of TLS, whose answer is large, not at all"
                );
                &STALLS
            }
            Clear::Tls | Clear::Nothing => fault,
        }
    } else if is_any(&[&UNKNOWN_ISSUER, &WRONG_NAME, &BAD_SERVER]) {
        match &access.proxy {
            _ if look::is_web_site(access, place, identity).await => &CONSOLE,
            Some(proxy) if fault == &UNKNOWN_ISSUER => {
                evidence += &format!("; reached through the proxy {}:{}", proxy.host, proxy.port);
                &INTERCEPTED
            }
            _ => fault,
        }
    } else if is_any(&[&SERVER_EXPIRED, &SERVER_EARLY]) {
        match date_there(access, place, identity).await {
            Some(theirs) => match clock(place, theirs, unix(SystemTime::now())) {
                Some(finding) if finding.fault == &CLOCK => {
                    evidence = format!("{}; {evidence}", finding.evidence);
                    &CLOCK
                }
                _ => fault,
            },
            None => fault,
        }
    } else {
        fault
    };
    Finding { fault, evidence }
}

/// Our own certificate in words.
fn own(identity: &Identity) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let Ok(leaf) = CertificateDer::from_pem_slice(identity.chain_pem.as_bytes()) else {
        return String::new();
    };
    format!("; the gateway's own: {}", judge::certificate(&leaf).replacen("it shows ", "", 1))
}

/// What time it is for a server of the bundle's CA whose certificate is not valid now.
async fn date_there(access: &Access, place: &Place, identity: &Identity) -> Option<i64> {
    let stream = reach(access, place).await.ok()?;
    let limit = access.step();
    let attempt =
        tls::handshake(stream, &place.host, Protocol::Http1, identity, Trust::AnyTime, limit).await;
    let request = request(place.host.clone(), "GET", "/", "").ok()?;
    let answer = timeout(access.step(), exchange(attempt.result.ok()?, request)).await.ok()?;
    answer.ok()?.date
}

/// Asks one endpoint, over the connection that is there or another one.
async fn ask(
    access: &Access,
    place: &Place,
    url: &ManagerUrl,
    identity: &Identity,
    there: Option<TlsStream<TcpStream>>,
    endpoint: &endpoints::Endpoint,
) -> Result<Answer, NoAnswer> {
    let stream = match there {
        Some(stream) => stream,
        None => {
            let stream = reach(access, place).await.map_err(NoAnswer::Found)?;
            open(access, place, identity, stream).await.map_err(NoAnswer::Found)?
        }
    };
    let base = url.endpoint();
    let (method, query, body) = endpoint.probe;
    let path = format!("{}{}{query}", base.path, endpoint.path);
    let not_http = |words: String| {
        let evidence = format!("{place}, asked for {path}: {words}");
        NoAnswer::Found(Finding { fault: &NOT_HTTP, evidence })
    };
    let request = request(base.authority(), method, &path, body).map_err(not_http)?;
    let watch = Watch::new(stream.get_ref().0);
    match timeout(access.step(), exchange(stream, request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match judge::refusal(&error) {
            Some((fault, words)) => {
                let evidence = format!("{place}: {words}{}", own(identity));
                NoAnswer::Found(Finding { fault, evidence })
            }
            None => not_http(error.to_string()),
        }),
        Err(_) if watch.facts().retransmits > 0 => {
            let evidence =
                format!("{place}: what the gateway sends after the handshake does not arrive");
            Err(NoAnswer::Found(Finding { fault: &STALLS, evidence }))
        }
        Err(_) => Err(NoAnswer::Silent),
    }
}

fn request(
    host: String,
    method: &str,
    path: &str,
    body: &'static str,
) -> Result<Request<Full<Bytes>>, String> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, format!("aisix-dp/{VERSION}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .map_err(|error| error.to_string())
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, hyper::Error> {
    let (mut connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let asking = async {
        let answer = connection.send_request(request).await?;
        Ok(read(answer).await)
    };
    // The connection is driven only for as long as somebody waits for the answer.
    tokio::select! {
        biased;
        answer = asking => answer,
        Err(error) = driver => Err(error),
    }
}

async fn read(answer: Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let is_html = text(CONTENT_TYPE).is_some_and(|it| it.starts_with("text/html"));
    let date = text(DATE).and_then(|it| OffsetDateTime::parse(it, &Rfc2822).ok());
    let location = text(LOCATION).map(judge::harmless);
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let excerpt = judge::harmless(&String::from_utf8_lossy(body.get(..800).unwrap_or(&body)));
    Answer {
        status: head.status.as_u16(),
        is_page: is_html || look::is_page(&body),
        location,
        date: date.map(OffsetDateTime::unix_timestamp),
        excerpt: excerpt.chars().take(200).collect(),
    }
}

/// No answer to anything.
pub(super) fn silent(place: &Place) -> Finding {
    let evidence = format!("{place}: TLS stands, and no request was answered in time");
    Finding { fault: &NO_ANSWER, evidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_to_drift_before_it_is_told_to_be_wrong() {
        let place = Place { key: Key::manager(), host: "h".to_owned(), port: 1, what: "manager" };
        let code = |ours| clock(&place, 1_000_000, ours).map(|finding| finding.fault.code);
        assert_eq!(code(1_000_005), None);
        assert_eq!(code(999_960), Some("clock-drifts"));
        assert_eq!(code(1_000_400), Some("clock-skewed"));
    }
}
