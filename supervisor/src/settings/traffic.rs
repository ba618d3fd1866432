//! Settings of requests: the listener of callers, their connections, and calls of providers.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use http::HeaderName;
use shared::cidr::Cidr;
use shared::secret::Secret;
use shared::worker_settings::UrlRewrite;

use super::error::Problem;
use super::raw::Raw;
use super::rewrite;

/// Headers that carry credentials or have a meaning of their own: never a request id. As published.
const NOT_REQUEST_IDS: [&str; 12] = [
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "x-amz-security-token",
    "x-amz-date",
    "x-amz-content-sha256",
    "proxy-authorization",
    "cookie",
    "host",
    "traceparent",
    "tracestate",
];

/// The listener of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many worker processes serve it.
    pub workers: NonZeroUsize,
    /// Largest request body; `None` = unlimited.
    pub request_body_bytes_max: Option<u64>,
    /// TLS with callers; `None` = in clear.
    pub tls: Option<ProxyTls>,
    /// How the caller's address is found.
    pub real_ip: RealIp,
    /// Headers a caller may name its request in, in order; empty = always ours.
    pub request_id_headers: Vec<HeaderName>,
    /// Rules that give a request another path, in order.
    pub url_rewrites: Vec<UrlRewrite>,
}

/// TLS with callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTls {
    /// Certificate and key.
    pub files: ListenerFiles,
    /// Whether TLS 1.2 is spoken too.
    pub tls12: bool,
}

/// Where the listener's certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFiles {
    /// PEM: the listener's certificate, then its issuers.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// How the caller's address is found behind proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealIp {
    /// Peers whose header is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Whether the header is walked back through every trusted proxy.
    pub recursive: bool,
    /// The header.
    pub header: HeaderName,
}

/// Most repetitions of an attempt: a provider that fails so often does not recover within a request.
const RETRIES_MAX: u32 = 10;

/// Most worker processes: more than any machine has cores.
const WORKERS_MAX: u64 = 1024;

impl Proxy {
    pub(super) fn new(raw: &Raw) -> Result<Self, Problem> {
        let address = raw.address("proxy.addr")?.ok_or(Problem::Missing {
            key: "proxy.addr",
            reason: "the address callers connect to, such as 0.0.0.0:3000",
        })?;
        let workers = match raw.integer("proxy.workers") {
            Some(number @ 1..=WORKERS_MAX) => usize::try_from(number)
                .ok()
                .and_then(NonZeroUsize::new)
                .unwrap_or(NonZeroUsize::MIN),
            Some(_) => {
                let reason =
                    format!("must be at least 1 and at most {WORKERS_MAX}: each is a process");
                return Err(raw.problem("proxy.workers", reason));
            }
            None => available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };
        Ok(Self {
            address,
            workers,
            request_body_bytes_max: raw
                .integer("proxy.request_body_limit_bytes")
                .filter(|bytes| *bytes > 0),
            tls: tls(raw)?,
            real_ip: RealIp {
                trusted_proxies: trusted_proxies(raw)?,
                recursive: raw.flag("proxy.real_ip.recursive"),
                header: header(
                    raw,
                    "proxy.real_ip.header",
                    raw.text("proxy.real_ip.header").unwrap_or_default(),
                )?,
            },
            request_id_headers: request_id_headers(raw)?,
            url_rewrites: rewrite::rules(raw)?,
        })
    }
}

fn tls(raw: &Raw) -> Result<Option<ProxyTls>, Problem> {
    const CERTIFICATE: &str = "proxy.tls.cert_file";
    const KEY: &str = "proxy.tls.key_file";
    const VERSION: &str = "proxy.tls.min_version";
    let tls12 = raw.text(VERSION) == Some("1.2");
    match (raw.path(CERTIFICATE), raw.path(KEY)) {
        (Some(certificate), Some(key)) => {
            Ok(Some(ProxyTls { files: ListenerFiles { certificate, key }, tls12 }))
        }
        (None, None) if tls12 => {
            let reason = format!("there is no TLS without {CERTIFICATE} and {KEY}; set both");
            Err(raw.problem(VERSION, reason))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(raw.problem(CERTIFICATE, format!("{KEY} must be set with it"))),
        (None, Some(_)) => Err(raw.problem(KEY, format!("{CERTIFICATE} must be set with it"))),
    }
}

fn trusted_proxies(raw: &Raw) -> Result<Vec<Cidr>, Problem> {
    const KEY: &str = "proxy.real_ip.trusted_proxies";
    raw.texts(KEY)
        .iter()
        .map(|text| text.parse().map_err(|error| raw.problem(KEY, error)))
        .collect()
}

fn request_id_headers(raw: &Raw) -> Result<Vec<HeaderName>, Problem> {
    const KEY: &str = "proxy.request_id.accept_headers";
    let accepted = |text: &String| {
        let name = header(raw, KEY, text)?;
        if NOT_REQUEST_IDS.contains(&name.as_str()) {
            return Err(raw.problem(KEY, format!("{name} is never a request id")));
        }
        Ok(name)
    };
    raw.texts(KEY).iter().map(accepted).collect()
}

fn header(raw: &Raw, key: &'static str, text: &str) -> Result<HeaderName, Problem> {
    text.parse().map_err(|_| raw.problem(key, format!("{text:?} is not the name of a header")))
}

/// Calls of providers. `None` for a time = no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Limit of an unary call.
    pub timeout: Option<Duration>,
    /// Longest silence within a stream; `None` = as `timeout`.
    pub stream_timeout: Option<Duration>,
    /// Limit of connecting.
    pub connect_timeout: Option<Duration>,
    /// TCP keep-alive: idle time before the first probe; `None` = no keep-alive.
    pub keepalive: Option<Duration>,
    /// TCP keep-alive: time between probes; `None` = the system's.
    pub keepalive_interval: Option<Duration>,
    /// TCP keep-alive: probes before the connection is given up; 0 = the system's.
    pub keepalive_retries: u32,
    /// Idle time after which a pooled connection is closed.
    pub pool_idle_timeout: Option<Duration>,
    /// Idle connections kept per upstream; `None` = no limit.
    pub pool_idle_max: Option<u64>,
    /// How often an attempt that failed is repeated.
    pub retries: u32,
    /// TLS towards providers.
    pub tls: UpstreamTls,
}

/// TLS towards providers.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// PEM certificates trusted beside the platform's.
    pub roots_pem: Option<String>,
    /// What is presented to a provider that asks.
    pub identity: Option<ClientIdentity>,
    /// `false` accepts any certificate.
    pub verify: bool,
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientIdentity {
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PEM.
    pub key_pem: Secret<String>,
}

impl Upstream {
    pub(super) fn new(raw: &Raw) -> Result<Self, Problem> {
        Ok(Self {
            timeout: raw.limit_ms("upstream.timeout_ms"),
            stream_timeout: raw.limit_ms("upstream.stream_timeout_ms"),
            connect_timeout: raw.limit_ms("upstream.connect_timeout_ms"),
            keepalive: raw.limit_secs("upstream.tcp_keepalive_secs"),
            keepalive_interval: raw.limit_secs("upstream.tcp_keepalive_interval_secs"),
            keepalive_retries: raw.bounded("upstream.tcp_keepalive_retries")?,
            pool_idle_timeout: raw.limit_secs("upstream.pool_idle_timeout_secs"),
            pool_idle_max: raw.integer("upstream.pool_max_idle_per_host"),
            retries: retries(raw)?,
            tls: UpstreamTls {
                roots_pem: raw.file("upstream.tls.ca_file")?,
                identity: identity(raw)?,
                verify: raw.flag("upstream.tls.verify"),
            },
        })
    }
}

fn retries(raw: &Raw) -> Result<u32, Problem> {
    const KEY: &str = "upstream.retries";
    match raw.bounded(KEY)? {
        retries @ 0..=RETRIES_MAX => Ok(retries),
        retries => Err(raw.problem(KEY, format!("must be at most {RETRIES_MAX}, found {retries}"))),
    }
}

fn identity(raw: &Raw) -> Result<Option<ClientIdentity>, Problem> {
    match (raw.file("upstream.tls.client_cert_file")?, raw.file("upstream.tls.client_key_file")?) {
        (Some(chain_pem), Some(key)) => {
            Ok(Some(ClientIdentity { chain_pem, key_pem: Secret::new(key) }))
        }
        (None, None) => Ok(None),
        _ => Err(Problem::Together(
            "upstream.tls.client_cert_file and upstream.tls.client_key_file must be set together"
                .to_owned(),
        )),
    }
}

/// Connections of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// Idle time after which a caller's HTTP/1.1 connection is closed; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Silence after which a stream carries a comment; `None` = never.
    pub sse_keepalive: Option<Duration>,
}

impl Downstream {
    pub(super) fn new(raw: &Raw) -> Self {
        Self {
            idle_timeout: raw.limit_secs("downstream.idle_timeout_secs"),
            sse_keepalive: raw.limit_secs("downstream.sse_keepalive_interval_secs"),
        }
    }
}
