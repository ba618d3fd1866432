//! The egress role: resolves names and makes connections, for proxy workers and for the supervisor.
//!
//! 1. A connection is asked for by the key of an entry of the one destination table, which the supervisor keeps; nobody can
//!    name an address. A proxy worker may ask for upstreams only, the export role for collectors only, the supervisor for what is its own
//!    only.
//! 2. A host that is named in a projected resource is checked again when it has been resolved (`permitted`).
//! 3. What is handed over is a connected socket; bytes of it are never seen here, and neither is any provider's key.
//! 4. At most [`CONNECTS_MAX`] questions of a client are open, [`TOTAL_MAX`] of all, or fewer where descriptors might not
//!    be enough; beyond, a question is refused at once. Workers never use up what the supervisor may ask. A client that asks for more than its share and does not read what it is told is given up.

mod client;
mod connect;
mod hosts;
mod permitted;
mod resolv_conf;
mod resolve;
mod table;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
#[cfg(doc)]
use shared::egress::CONNECTS_MAX;
use shared::egress::{self, Key, Origin, Purpose, Refusal};
use shared::message::{Client, Confinement, ToWorker};
use shared::worker_settings::RoleSettings;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::resolve::{Resolve, ResolverError};
use self::table::Table;
use crate::helper::{self, Helper};
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::role::RoleError;
use crate::sys;

/// Questions of all clients that are open at a time.
const TOTAL_MAX: usize = 2048;
/// Descriptors of one question: connections that are tried side by side, and sockets to resolvers.
const FILES_PER_QUESTION: usize = 4;
/// Descriptors for other things than questions: what the worker was born with, its runtime, a channel to each client.
const OTHER_FILES: usize = 128;
/// No connection is tried for longer, whatever is configured: the kernel gives up at about this time as well.
const LIMIT_MAX: Duration = Duration::from_secs(120);

/// Resolves and connects.
pub struct Egress {
    table: Table,
    resolve: RefCell<Rc<Resolve>>,
    provider_limit: Duration,
    open: Cell<usize>,
    open_max: usize,
}

/// What came of a question: the socket or why there is none, and where the table leads.
struct Outcome {
    result: Result<TcpStream, Refusal>,
    place: Option<(String, u16)>,
}

impl Egress {
    /// With an empty table. Connecting to a provider may take `connect_timeout_ms`; 0 = no limit of its own.
    pub fn new(connect_timeout_ms: u64) -> Result<Rc<Self>, ResolverError> {
        let resolve = Resolve::new(&egress::Resolver::default())?;
        let provider_limit = match Duration::from_millis(connect_timeout_ms) {
            Duration::ZERO => LIMIT_MAX,
            limit => limit.min(LIMIT_MAX),
        };
        Ok(Rc::new(Self {
            table: Table::default(),
            resolve: RefCell::new(Rc::new(resolve)),
            provider_limit,
            open: Cell::new(0),
            open_max: total_max(sys::files_max()),
        }))
    }

    /// Serves whoever is at the other end of `channel` until it is gone, within a `LocalSet`.
    pub fn serve(
        self: &Rc<Self>,
        who: Client,
        channel: OwnedFd,
    ) -> impl Future<Output = ()> + 'static {
        client::serve(Rc::clone(self), who, channel)
    }

    /// Puts changes of the table in force, or all of it.
    pub fn destinations(&self, whole: bool, changes: Vec<egress::Change>) {
        self.table.apply(whole, changes);
    }

    /// Resolves with these files from now on; what is on the way ends with those before.
    fn resolve_with(&self, files: &egress::Resolver) {
        match Resolve::new(files) {
            Ok(resolve) => drop(self.resolve.replace(Rc::new(resolve))),
            Err(error) => tracing::error!(%error, "names are resolved as before"),
        }
    }

    async fn connect(&self, who: Client, key: &Key) -> Outcome {
        let refused = |refusal, place| Outcome { result: Err(refusal), place };
        if !may_ask(who, key.purpose) {
            let reason = format!("{who:?} may not ask for {key}");
            tracing::warn!("{reason}");
            return refused(Refusal::NotPermitted(reason), None);
        }
        let Some(entry) = self.table.find(key).await else {
            return refused(Refusal::Unknown, None);
        };
        let limit = match key.purpose {
            Purpose::Provider
            | Purpose::Token
            | Purpose::Route
            | Purpose::Keys
            | Purpose::Redis
            | Purpose::Export => self.provider_limit,
            Purpose::Manager | Purpose::Store | Purpose::CloudProxy => LIMIT_MAX,
        };
        let result = match timeout(limit, self.reach(&entry)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Timeout(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))),
        };
        if let Err(Refusal::NotPermitted(reason)) = &result
            && self.table.is_news(key, reason)
        {
            tracing::warn!(destination = %key, "connection refused: {reason}");
        }
        Outcome { result, place: Some((entry.host.clone(), entry.port)) }
    }

    async fn reach(&self, entry: &egress::Entry) -> Result<TcpStream, Refusal> {
        let resolve = Rc::clone(&self.resolve.borrow());
        let addresses = resolve.addresses(&entry.host).await.map_err(Refusal::Resolve)?;
        match entry.origin {
            Origin::Configuration => {}
            Origin::Projection => {
                permitted::check(&entry.host, &addresses).map_err(Refusal::NotPermitted)?;
            }
        }
        connect::connect_any(addresses, entry.port).await.map_err(|error| {
            Refusal::Connect(error.raw_os_error().unwrap_or_default(), error.to_string())
        })
    }
}

/// Questions of all clients that so many descriptors are enough for.
fn total_max(files: usize) -> usize {
    (files.saturating_sub(OTHER_FILES) / FILES_PER_QUESTION).clamp(1, TOTAL_MAX)
}

/// Proxy workers reach upstreams, the export role reaches collectors, the supervisor reaches the Cloud.
fn may_ask(who: Client, purpose: Purpose) -> bool {
    match who {
        Client::Worker(_) => matches!(
            purpose,
            Purpose::Provider | Purpose::Token | Purpose::Route | Purpose::Keys | Purpose::Redis
        ),
        Client::Exporter(_) => purpose == Purpose::Export,
        Client::Supervisor => {
            matches!(purpose, Purpose::Manager | Purpose::Store | Purpose::CloudProxy)
        }
    }
}

struct Role(Rc<Egress>);

impl Helper for Role {
    fn serve(&self, client: Client, channel: OwnedFd) -> LocalBoxFuture<'static, ()> {
        Box::pin(self.0.serve(client, channel))
    }

    fn told(&self, message: ToWorker, memory: Option<OwnedFd>) -> Result<(), LinkError> {
        match (message, memory) {
            (ToWorker::Destinations { whole }, Some(memory)) => {
                let changes = egress::read_table(memory).map_err(LinkError::Egress)?;
                self.0.destinations(whole, changes);
            }
            (ToWorker::Resolver, Some(memory)) => {
                let files = egress::Resolver::read(memory).map_err(LinkError::Egress)?;
                self.0.resolve_with(&files);
            }
            _ => return Err(LinkError::Unexpected { expected: "a message for the egress role" }),
        }
        Ok(())
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Egress(role) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the egress role" }.into());
    };
    let egress = Egress::new(role.connect_timeout_ms)
        .map_err(|error| RoleError::Resolver(error.to_string()))?;
    helper::run(link, &Role(egress)).await
}

#[cfg(test)]
mod tests;
