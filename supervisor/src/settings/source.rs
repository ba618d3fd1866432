//! Where resources come from: the Cloud, an etcd of one's own, or a file. One of them, never two.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::resource::{Endpoint, EndpointError};
use shared::secret::Secret;

use super::environment::Environment;
use super::error::{Problem, UrlFault};
use super::proxy_url::ProxyUrl;
use super::raw::Raw;
use crate::bundle::source::{BundleSource, Written};
use crate::cloud::budget::{Moment, Rules};
use crate::cloud::manager::ManagerUrl;
use crate::pem;

/// Shortest and longest time between heartbeats; others are clamped. As published.
const HEARTBEAT_SECS: (u64, u64) = (5, 300);

/// Where resources come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// AISIX Cloud, which this gateway also reports to.
    Managed(Box<Managed>),
    /// An etcd without a Cloud.
    Etcd(Box<Etcd>),
    /// A file of resources.
    File(PathBuf),
}

/// The managed connection.
#[derive(Clone, Debug)]
pub struct Managed {
    /// The manager's REST interface.
    pub manager: ManagerUrl,
    /// The manager's etcd interface.
    pub etcd: Endpoint,
    /// Prefix of all environments; [`scope`] narrows it to one.
    pub prefix: String,
    /// Where the certificate bundle comes from.
    pub bundle: BundleSource,
    /// PEM file of issuers trusted beside the bundle's.
    pub extra_roots: Option<PathBuf>,
    /// Folder of the bundle in force.
    pub mtls_dir: PathBuf,
    /// File that holds the id of this data plane.
    pub dp_id_file: PathBuf,
    /// File of the snapshot; `None` = resources and decisions are not kept on disk.
    pub snapshot: Option<PathBuf>,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// What applies to budgets without the Cloud.
    pub budgets: Rules,
    /// How much disk usage events may take that the Cloud has not accepted, in bytes.
    pub spool_bytes_max: u64,
    /// Whether the Cloud is asked for a new certificate in time.
    pub renew_certificate: bool,
    /// The forward proxy through which manager and etcd are reached; `None` = directly.
    pub proxy: Option<ProxyUrl>,
    /// How long the store may take.
    pub store_limits: StoreLimits,
}

/// How long a store may take.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// For a connection with its handshakes.
    pub dial: Duration,
    /// For an answer.
    pub request: Duration,
}

/// An etcd without a Cloud.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// Tried in turn; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Keys begin with this. Ends with a slash.
    pub prefix: String,
    /// The environment that `prefix` ends with; may be empty.
    pub env_id: String,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// Name and password of an etcd user.
    pub user: Option<(String, Secret<String>)>,
    /// How long it may take.
    pub limits: StoreLimits,
}

/// What to show to an etcd, and whom to take for it.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// PEM certificates of trusted issuers.
    pub roots_pem: String,
    /// PEM certificate chain of this client.
    pub chain_pem: String,
    /// PEM key of the chain's leaf.
    pub key_pem: Secret<String>,
    /// The name in the etcd's certificate, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// The keys of one environment: `/aisix` and `e` make `/aisix/e/`. Always ends with a slash, which the Cloud insists on,
/// and without which one environment's keys would include those of another whose id begins alike.
pub fn scope(prefix: &str, env_id: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    if env_id.is_empty() { format!("{prefix}/") } else { format!("{prefix}/{env_id}/") }
}

impl Source {
    pub(super) fn new(raw: &Raw, environment: &Environment) -> Result<Self, Problem> {
        let file = raw.path("resources_file");
        let has_endpoints = !raw.texts("etcd.endpoints").is_empty();
        match (raw.flag("managed.enabled"), file) {
            (true, Some(_)) => Err(Problem::Together(
                "resources_file and managed.enabled exclude each other: resources come from the file or from the Cloud"
                    .to_owned(),
            )),
            (true, None) => Ok(Self::Managed(Box::new(Managed::new(raw)?))),
            (false, Some(_)) if has_endpoints => Err(Problem::Together(
                "resources_file and etcd.endpoints exclude each other: resources come from the file or from etcd"
                    .to_owned(),
            )),
            (false, Some(file)) => Ok(Self::File(file)),
            (false, None) if has_endpoints => Ok(Self::Etcd(Box::new(Etcd::new(raw, environment)?))),
            (false, None) => Err(Problem::Missing {
                key: "etcd.endpoints",
                reason: "without managed.enabled or resources_file, resources come from etcd",
            }),
        }
    }
}

impl Managed {
    fn new(raw: &Raw) -> Result<Self, Problem> {
        const URL: &str = "managed.cp_base_url";
        const ETCD: &str = "managed.cp_etcd_endpoint";
        let url = raw.text(URL).ok_or(Problem::Missing {
            key: URL,
            reason: "managed.enabled needs the URL of the Cloud manager",
        })?;
        let refused = |key| move |fault| Problem::Url { key, origin: raw.origin(key), fault };
        let base = secure(url).map_err(refused(URL))?;
        let etcd = match raw.text(ETCD) {
            Some(endpoint) => secure(endpoint).and_then(at_root).map_err(refused(ETCD))?,
            // The same port serves both; a path belongs to the REST interface only.
            None => Endpoint { path: String::new(), ..base.clone() },
        };
        let interval = raw.integer("managed.heartbeat_interval_secs").unwrap_or_default();
        Ok(Self {
            manager: base.to_string().parse().map_err(|error| raw.problem(URL, error))?,
            etcd,
            prefix: raw.text("etcd.prefix").unwrap_or_default().to_owned(),
            bundle: bundle(raw)?,
            extra_roots: raw.path("managed.cp_ca_cert_file"),
            mtls_dir: raw.path("managed.mtls_dir").unwrap_or_default(),
            dp_id_file: raw.path("managed.dp_id_file").unwrap_or_default(),
            spool_bytes_max: raw.integer("managed.spool_max_bytes").unwrap_or_default(),
            snapshot: raw.path("managed.snapshot_cache_path").filter(|path| path != Path::new("")),
            heartbeat_interval: Duration::from_secs(
                interval.clamp(HEARTBEAT_SECS.0, HEARTBEAT_SECS.1),
            ),
            proxy: proxy(raw)?,
            store_limits: StoreLimits::new(raw),
            renew_certificate: raw.text("managed.cert_renewal") != Some("off"),
            budgets: budgets(raw),
        })
    }

    /// The state directory: what holds `mtls_dir`.
    pub fn state_dir(&self) -> &Path {
        self.mtls_dir.parent().unwrap_or(&self.mtls_dir)
    }
}

/// `url` with `https`, which is what a bare `host:port` means.
fn secure(url: &str) -> Result<Endpoint, UrlFault> {
    let rest = match url.split_once("://") {
        None => url,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => {
            return Err(UrlFault::PlainHttp);
        }
        Some(_) => return Err(UrlFault::Scheme),
    };
    endpoint(&format!("https://{rest}"))
}

/// The URL taken apart. The error does not show it where it holds credentials.
fn endpoint(url: &str) -> Result<Endpoint, UrlFault> {
    url.parse().map_err(|error| {
        UrlFault::Form(match error {
            EndpointError::Extra => format!("the URL {error}"),
            error => format!("{url:?} {error}"),
        })
    })
}

fn proxy(raw: &Raw) -> Result<Option<ProxyUrl>, Problem> {
    const KEY: &str = "managed.proxy_url";
    let parse = |url: &Secret<String>| url.expose().parse().map_err(|told| raw.problem(KEY, told));
    raw.secret(KEY).map(parse).transpose()
}

fn at_root(endpoint: Endpoint) -> Result<Endpoint, UrlFault> {
    if endpoint.path.is_empty() {
        Ok(endpoint)
    } else {
        Err(UrlFault::Form(format!("{endpoint} must not have a path")))
    }
}

fn budgets(raw: &Raw) -> Rules {
    let stale_max = raw.seconds("managed.budget_stale_max_secs").as_millis();
    Rules {
        stale_max: Moment::try_from(stale_max).unwrap_or(Moment::MAX),
        unknown_allowed: raw.text("managed.budget_unknown") == Some("allow"),
    }
}

fn bundle(raw: &Raw) -> Result<BundleSource, Problem> {
    let text = |key| {
        raw.text(key).map(|text| pem::with_line_breaks(text).unwrap_or_else(|| text.to_owned()))
    };
    let secret = |text: &Secret<String>| {
        pem::with_line_breaks(text.expose()).map_or_else(|| text.clone(), Secret::new)
    };
    let written = Written {
        cert_pem: text("managed.cp_cert_pem"),
        key_pem: raw.secret("managed.cp_key_pem").map(secret),
        ca_pem: text("managed.cp_ca_pem"),
        cert_file: raw.path("managed.cp_cert_file"),
        key_file: raw.path("managed.cp_key_file"),
        ca_file: raw.path("managed.cp_ca_file"),
    };
    Ok(BundleSource::choose(written)?)
}

impl Etcd {
    fn new(raw: &Raw, environment: &Environment) -> Result<Self, Problem> {
        const ENDPOINTS: &str = "etcd.endpoints";
        let tls = EtcdTls::new(raw)?;
        let checked = |text: &String| {
            let url = if text.contains("://") { text.clone() } else { format!("http://{text}") };
            let endpoint = endpoint(&url)
                .and_then(at_root)
                .map_err(|reason| raw.problem(ENDPOINTS, reason))?;
            if endpoint.tls && tls.is_none() {
                return Err(raw.problem(ENDPOINTS, format!("{endpoint} needs etcd.tls")));
            }
            Ok(endpoint)
        };
        let env_id = raw.text("etcd.env_id").unwrap_or_default().to_owned();
        Ok(Self {
            endpoints: raw.texts(ENDPOINTS).iter().map(checked).collect::<Result<_, _>>()?,
            prefix: scope(raw.text("etcd.prefix").unwrap_or_default(), &env_id),
            env_id,
            tls,
            user: user(raw, environment)?,
            limits: StoreLimits::new(raw),
        })
    }
}

impl StoreLimits {
    /// 0 is as good as for ever: a day.
    fn new(raw: &Raw) -> Self {
        let limit = |key| match raw.integer(key) {
            None | Some(0) => Duration::from_secs(24 * 60 * 60),
            Some(ms) => Duration::from_millis(ms),
        };
        Self { dial: limit("etcd.dial_timeout_ms"), request: limit("etcd.request_timeout_ms") }
    }
}

impl EtcdTls {
    fn new(raw: &Raw) -> Result<Option<Self>, Problem> {
        let roots = raw.file("etcd.tls.ca_cert_file")?;
        let chain = raw.file("etcd.tls.client_cert_file")?;
        let key = raw.file("etcd.tls.client_key_file")?;
        let server_name = raw.text("etcd.tls.domain_name").map(str::to_owned);
        match (roots, chain, key) {
            (Some(roots_pem), Some(chain_pem), Some(key)) => {
                Ok(Some(Self { roots_pem, chain_pem, key_pem: Secret::new(key), server_name }))
            }
            (None, None, None) if server_name.is_none() => Ok(None),
            _ => Err(Problem::Together(
                "etcd.tls needs all of ca_cert_file, client_cert_file and client_key_file"
                    .to_owned(),
            )),
        }
    }
}

fn user(raw: &Raw, environment: &Environment) -> Result<Option<(String, Secret<String>)>, Problem> {
    const VARIABLE: &str = "etcd.password_env";
    let (user, variable) = match (raw.text("etcd.user"), raw.text(VARIABLE)) {
        (Some(user), Some(variable)) => (user, variable),
        (None, None) => return Ok(None),
        _ => {
            return Err(Problem::Together(
                "etcd.user and etcd.password_env belong together: set both, or neither for an etcd without users"
                    .to_owned(),
            ));
        }
    };
    let password = environment
        .iter()
        .find(|(name, _)| *name == variable)
        .and_then(|(_, value)| value.to_str())
        .ok_or_else(|| {
            raw.problem(
                VARIABLE,
                format!("there is no environment variable {variable} with UTF-8 text"),
            )
        })?;
    Ok(Some((user.to_owned(), Secret::new(password.to_owned()))))
}
