//! Looks whether the Cloud, or the store of the configuration, can be reached and does what it should: name, route, proxy,
//! TLS, API, in this order, each with a deadline of its own. Nothing that is asked changes anything, and no secret is sent
//! to anybody who has not proved to be of the bundle's CA.
//!
//! ```text
//! reach    name → connection, through the proxy if there is one
//! tls      handshake; what the other side has shown, whether it or the gateway was refused (`judge`)
//! look     a second look at who is no Cloud: plain HTTP? a web site? (without the gateway's certificate)
//! manager  each endpoint with a request that changes nothing; the clock by its answers
//! store    one key of the prefix
//! ```

mod answers;
mod endpoints;
mod faults;
mod faults_cloud;
mod faults_tls;
mod judge;
mod look;
mod manager;
mod reach;
mod store;
mod tls;

use std::time::Duration;

use shared::egress::Key;
use shared::egress::client::EgressDial;
use shared::resource::Endpoint;
use shared::secret::Secret;
use tokio::time::Instant;

use super::{Fault, Finding};
use crate::cloud::heartbeat::Outcome;
use crate::cloud::manager::ManagerUrl;
use crate::cloud::tls::Identity;
use crate::settings::source::scope;
use crate::settings::{ProxyUrl, Source};

pub use self::faults::{CLOCK, EGRESS};

/// Longest time for one step.
const STEP: Duration = Duration::from_millis(2500);
/// Time for everything here.
pub const LIMIT: Duration = Duration::from_millis(7000);

/// What to look at, and with what.
pub struct Access {
    /// The Cloud's manager, if there is one.
    pub manager: Option<ManagerUrl>,
    /// The stores of the configuration.
    pub stores: Vec<Endpoint>,
    /// Keys begin with this.
    pub prefix: String,
    /// What to show, and whom to trust; `None` if it cannot be read: then nothing is looked at beyond connections.
    pub identity: Option<Identity>,
    /// The name in the store's certificate, where it is not the endpoint's host.
    pub server_name: Option<String>,
    /// Name and password of an etcd user.
    pub user: Option<(String, Secret<String>)>,
    /// The way to the Cloud.
    pub proxy: Option<ProxyUrl>,
    /// Makes the connections.
    pub egress: EgressDial,
    /// What became of the latest heartbeats, if any were sent.
    pub heartbeat: Option<Outcome>,
    /// When to be done.
    pub deadline: Instant,
}

/// One place to connect to.
#[derive(Clone, Debug)]
struct Place {
    key: Key,
    host: String,
    port: u16,
    /// What it is, for evidence.
    what: &'static str,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(formatter, "{} {host}:{}", self.what, self.port)
    }
}

impl Access {
    /// What a gateway from this source connects to. `identity` is its bundle, where it is managed; `env_id` the environment
    /// that this names.
    pub fn of(
        source: &Source,
        identity: Option<Identity>,
        env_id: &str,
        egress: EgressDial,
    ) -> Option<Self> {
        let deadline = Instant::now() + LIMIT;
        let access = Self {
            manager: None,
            stores: Vec::new(),
            prefix: String::new(),
            identity: None,
            server_name: None,
            user: None,
            proxy: None,
            egress,
            heartbeat: None,
            deadline,
        };
        match source {
            Source::Managed(managed) => Some(Self {
                manager: Some(managed.manager.clone()),
                stores: vec![managed.etcd.clone()],
                prefix: scope(&managed.prefix, env_id),
                identity,
                proxy: managed.proxy.clone(),
                ..access
            }),
            Source::Etcd(etcd) => Some(Self {
                stores: etcd.endpoints.clone(),
                prefix: etcd.prefix.clone(),
                identity: etcd.tls.as_ref().map(|tls| Identity {
                    chain_pem: tls.chain_pem.clone(),
                    key_pem: tls.key_pem.clone(),
                    roots_pem: tls.roots_pem.clone(),
                    extra_roots_pem: None,
                }),
                server_name: etcd.tls.as_ref().and_then(|tls| tls.server_name.clone()),
                user: etcd.user.clone(),
                ..access
            }),
            Source::File(_) => None,
        }
    }

    /// How long the next step may take.
    fn step(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(STEP).max(Duration::from_millis(50))
    }
}

/// Looks at all of it.
pub async fn check(access: &Access) -> Vec<Finding> {
    let manager = async {
        match &access.manager {
            Some(url) => manager::check(access, url).await,
            None => manager::Seen::default(),
        }
    };
    let (manager, stores) = tokio::join!(manager, store::check(access));
    let mut findings = manager.findings;
    for seen in stores {
        match (&access.manager, seen.finding) {
            (_, None) => {}
            // The manager tells of the same place.
            (Some(url), Some(_))
                if !manager.answers
                    && (&url.endpoint().host, url.endpoint().port) == (&seen.host, seen.port) => {}
            (Some(_), Some(finding)) if manager.answers && !seen.reached => {
                let evidence = format!("{}: {}", finding.fault.title, finding.evidence);
                findings.push(Finding { fault: &faults_cloud::ETCD_AWAY, evidence });
            }
            (_, Some(finding)) => findings.push(finding),
        }
    }
    findings
}

/// Every fault that is found here, in layers; that of the clock is none of them.
pub fn catalogue() -> impl Iterator<Item = &'static Fault> {
    let endpoints = endpoints::ALL.iter().flat_map(endpoints::Endpoint::faults);
    let before = faults::ALL.iter().chain(faults_tls::ALL).chain(faults_cloud::ALL).copied();
    before.chain(endpoints).filter(|fault| fault.code != CLOCK.code)
}
