//! The settings: every key, every source, one checked result.
//!
//! ```text
//! key          the table of all keys
//! file, environment ─► raw     what is written: later sources replace earlier ones, key by key
//! raw ─► refused    values that ask for what this build does not do
//!     └► source, traffic, rewrite, observability, client_type ─► Settings     what the program uses; past here nothing is
//!                    checked again
//! ```
//!
//! Promises:
//! 1. an unknown key is an error that names the key, the place and the nearest known key, wherever it stands;
//! 2. a text stays as it was written: its type is known before it is read;
//! 3. no secret appears in an error;
//! 4. what is written is acted on, or has nothing to act on, or is refused: nothing is silently ignored.

mod client_type;
pub mod control;
mod environment;
pub mod error;
mod file;
pub mod key;
pub mod observability;
mod proxy_url;
pub mod raw;
mod redis;
mod refused;
mod rewrite;
pub mod source;
pub mod text;
pub mod tracing;
pub mod traffic;
pub mod value;

use shared::resource::Endpoint;
use shared::secret::Secret;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::environment::Environment;
pub use self::error::{Problem, SettingsError};
pub use self::observability::{MetricsListener, Observability};
pub use self::proxy_url::ProxyUrl;
use self::raw::Raw;
pub use self::redis::Redis;
pub use self::source::{Etcd, EtcdTls, Managed, Source};
pub use self::tracing::Otlp;
pub use self::traffic::{
    ClientIdentity, Downstream, ListenerFiles, Proxy, ProxyTls, RealIp, Upstream, UpstreamTls,
};
use crate::fleet::Sandbox;

/// All that can be set, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the resources come from.
    pub source: Source,
    /// The listener of callers.
    pub proxy: Proxy,
    /// Calls of providers.
    pub upstream: Upstream,
    /// Connections of callers.
    pub downstream: Downstream,
    /// What is kept in Redis.
    pub redis: Redis,
    /// Logs and metrics.
    pub observability: Observability,
    /// Where Bedrock is for provider keys that do not say it; `None` = in their region.
    pub bedrock_endpoint: Option<Endpoint>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// The worker processes.
    pub workers: Workers,
    /// Where the control socket stands; `None` = at the first usual place that can be had.
    pub control_socket: Option<PathBuf>,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// New connections are still taken for this long, so that load balancers notice.
    pub drain_min: Duration,
    /// Requests in flight are given up after this long; `None` = never.
    pub drain_max: Option<Duration>,
}

/// The worker processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How strictly they are confined.
    pub sandbox: Sandbox,
    /// First user id for roles without a user name, where the supervisor is root.
    pub uid_base: u32,
    /// How long one that is replaced may take to finish; `None` = for ever.
    pub replace_drain: Option<Duration>,
    /// Their program; `None` = beside the supervisor's own.
    pub program: Option<PathBuf>,
}

/// Settings, and what there is to say about how they were written.
#[derive(Debug)]
pub struct Loaded {
    /// What the program uses.
    pub settings: Settings,
    /// Keys that were written and that there is nothing here to act on for, with the reason.
    pub without_effect: Vec<(&'static str, &'static str)>,
    /// Variables that values come from.
    pub variables: Vec<String>,
    /// Variables with our prefix that are nobody's configuration.
    pub ignored_variables: Vec<String>,
    /// As written, to be compared with what is written later.
    pub raw: Raw,
    /// The whole text of the file, which may hold a key.
    pub text: Secret<String>,
}

impl Settings {
    /// Reads the file at `path`, then the variables: those of this process are `std::env::vars_os()`. Files that a setting
    /// names are read as well, except those of the certificate bundle and of the listener.
    ///
    /// The error names every unknown key and every value of the wrong type, or else the first value that cannot be used.
    pub fn load(
        path: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, SettingsError> {
        let known = path.extension().and_then(|extension| extension.to_str());
        if !matches!(known, Some("yaml" | "yml" | "json" | "toml")) {
            return Err(SettingsError::Extension(path.to_owned()));
        }
        Self::load_text(path, file::text(path)?, environment)
    }

    /// The same with a text that the file at `path` had once.
    pub fn load_text(
        path: &Path,
        text: String,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, SettingsError> {
        let environment: Environment = environment.into_iter().collect();
        let mut raw = Raw::defaults();
        let mut problems = file::read(path, &text, &mut raw)?;
        let findings = environment::read(&environment, &mut raw);
        problems.extend(findings.problems);
        if !problems.is_empty() {
            return Err(SettingsError::Invalid(problems));
        }
        let refused = refused::find(&raw);
        if !refused.is_empty() {
            return Err(SettingsError::Invalid(refused));
        }
        let settings = Self::new(&raw, &environment)?;
        let without_effect = raw.without_effect();
        Ok(Loaded {
            settings,
            without_effect,
            variables: raw.variables(),
            ignored_variables: findings.ignored,
            raw,
            text: Secret::new(text),
        })
    }

    fn new(raw: &Raw, environment: &Environment) -> Result<Self, Problem> {
        let source = Source::new(raw, environment)?;
        let proxy = Proxy::new(raw)?;
        let observability = Observability::new(raw)?;
        let metrics = observability.metrics.as_ref().map(|metrics| metrics.address);
        if metrics == Some(proxy.address) && proxy.address.port() != 0 {
            return Err(Problem::Together(format!(
                "proxy.addr and observability.metrics.prometheus.addr are both {}: each listener needs its own",
                proxy.address
            )));
        }
        Ok(Self {
            source,
            proxy,
            upstream: Upstream::new(raw)?,
            downstream: Downstream::new(raw),
            redis: Redis::new(raw)?,
            observability,
            bedrock_endpoint: bedrock_endpoint(raw)?,
            shutdown: Shutdown {
                drain_min: raw.seconds("shutdown.min_drain_secs"),
                drain_max: raw.limit_secs("shutdown.max_drain_secs"),
            },
            control_socket: control::socket(raw)?,
            workers: Workers {
                sandbox: match raw.text("supervisor.sandbox") {
                    Some("required") => Sandbox::Required,
                    Some("off") => Sandbox::Off,
                    _ => Sandbox::BestEffort,
                },
                uid_base: raw.bounded("supervisor.worker_uid_base")?,
                replace_drain: raw.limit_secs("supervisor.replace_drain_secs"),
                program: raw.path("supervisor.worker_path"),
            },
        })
    }
}

fn bedrock_endpoint(raw: &Raw) -> Result<Option<Endpoint>, Problem> {
    const KEY: &str = "bedrock_endpoint_url";
    let url = raw.text(KEY).filter(|url| !url.is_empty());
    url.map(|url| url.parse::<Endpoint>().map_err(|error| raw.problem(KEY, error))).transpose()
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
