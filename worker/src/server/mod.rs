//! The listener of the proxy role: connections in, requests handed on, nothing cut off when it stops.
//!
//! Everything here lives on one thread, within a `LocalSet`.

mod activity;
mod body;
mod calm;
mod come_back;
mod connection;
mod entrance;
mod health;
mod http1;
mod incoming;
mod listener;
mod pressure;
mod socket;
mod spread;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use nix::errno::Errno;
use shared::counters::Counters;
use shared::dial::Dial;
use shared::usage::UsageEvent;
use shared::version::VERSION;
use shared::worker_settings::ProxySettings;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::budgets::Budgets;
use crate::cache::{CacheClient, RedisCache};
use crate::export::Traces;
use crate::identity::KeyStore;
use crate::limits::Limits;
use crate::metrics::{ClientTypes, Metrics};
use crate::provider;
use crate::request::Rewrites;
use crate::routing::Groups;
use crate::sys;
use crate::tables::Tables;
use crate::tls::Tls;
use crate::upstream::{Connector, TrustRoots, Upstreams};
use listener::Listener;
use spread::Spread;

pub use body::{Body, Broken, ByteStream};
pub use calm::Calm;
pub use entrance::{Entrance, Refused, paused};
pub use health::{Health, InFlight};
pub use http1::look_at;
pub use incoming::Incoming;

/// How long nothing is accepted when the process has no descriptor or memory left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors for other things than connections: what the worker was born with, its runtime, what comes over channels.
const OTHER_FILES: usize = 256;

/// Takes usage events.
pub trait UsageSink {
    /// Takes one event, without waiting. Called before the last byte of the answer leaves.
    fn record(&self, event: UsageEvent<Cow<'_, str>>);

    /// Gives back memory: nothing is to be recorded for a while.
    fn rest(&self) {}
}

/// Everything a request needs, for the life of the worker.
pub struct Proxy {
    /// What the configuration file says for this role.
    pub settings: ProxySettings,
    /// The resources in force.
    pub tables: RefCell<Tables>,
    /// Which caller keys may spend more.
    pub budgets: Budgets,
    /// Keys of identity providers.
    pub identity_keys: KeyStore,
    /// Whether the worker serves.
    pub health: Health,
    /// Where requests begin.
    pub entrance: Rc<Entrance>,
    /// Where usage goes.
    pub usage: Rc<dyn UsageSink>,
    /// Where is counted.
    pub metrics: Rc<Metrics>,
    /// What all workers of the node count together.
    pub counters: Counters,
    /// What was worked out for groups of models.
    pub groups: Groups,
    /// How much is let through.
    pub limits: Limits,
    /// The way to providers.
    pub upstreams: Rc<Upstreams>,
    /// Tokens for Google's models.
    pub google: provider::vertex::Tokens,
    /// Other paths for requests.
    pub rewrites: Rewrites,
    /// Which program calls.
    pub client_types: ClientTypes,
    /// Answers that may be given again.
    pub cache: Rc<CacheClient>,
    /// The same in the Redis of `cache.redis`.
    pub cache_redis: Option<Rc<RedisCache>>,
    /// Whom requests are told of when they are over.
    pub traces: Traces,
    /// Memory that connections have used.
    pub calm: Rc<Calm>,
    /// In which a caller may name its request.
    pub request_id_headers: Vec<HeaderName>,
    /// What every answer calls the gateway.
    pub server_name: HeaderValue,
}

impl Proxy {
    /// A proxy without resources.
    pub fn new(
        settings: ProxySettings,
        dial: Rc<dyn Dial>,
        trust: TrustRoots,
        usage: Rc<dyn UsageSink>,
        metrics: Rc<Metrics>,
        counters: Counters,
    ) -> Rc<Self> {
        let cache_redis = settings.cache_redis.as_ref().and_then(|redis| {
            RedisCache::new(Rc::clone(&dial), &trust, redis, &settings.env_id, Rc::clone(&metrics))
        });
        let limits = Limits::new(counters, &settings, &dial, &trust);
        let upstream = &settings.upstream;
        let connector = Connector::new(dial, trust, upstream.clone());
        let idle_limit = Duration::from_millis(upstream.pool_idle_ms);
        let upstreams = Upstreams::new(connector, idle_limit, upstream.pool_idle_max);
        // A packager may set a version that no header can carry.
        let server_name = HeaderValue::try_from(format!("AISIX/{VERSION}"));
        let budgets = Budgets::new(settings.budget_unknown.clone());
        let traces = Traces::new(settings.trace_ratio, Rc::clone(&metrics));
        Rc::new(Self {
            traces,
            calm: Rc::default(),
            // A name that no header can have names none.
            request_id_headers: settings
                .request_id_headers
                .iter()
                .filter_map(|name| HeaderName::try_from(name).ok())
                .collect(),
            rewrites: Rewrites::new(&settings.url_rewrites),
            client_types: ClientTypes::new(&settings.client_rules),
            settings,
            tables: RefCell::default(),
            budgets,
            identity_keys: KeyStore::new(Some(counters)),
            health: Health::new(),
            entrance: Entrance::new(connections_max(sys::files_max())),
            usage,
            metrics,
            counters,
            groups: Groups::default(),
            limits,
            upstreams,
            cache: Rc::default(),
            cache_redis,
            google: provider::vertex::Tokens::default(),
            server_name: server_name.unwrap_or(HeaderValue::from_static("AISIX")),
        })
    }
}

/// Serves connections until `stop`, and returns when the last of them is finished.
///
/// On `stop` nothing more is accepted; an idle connection is closed, unless a request was on its way over it, a busy one
/// finishes its answers first. Nothing is accepted either while there are so many that descriptors might run out: one that egress hands over and that finds no room
/// would end the channel to it.
pub async fn serve(
    listener: TcpListener,
    proxy: Rc<Proxy>,
    tls: Option<Rc<Tls>>,
    stop: impl Future,
) {
    let (stopping, stopped) = watch::channel(false);
    let (calm, usage) = (Rc::clone(&proxy.calm), Rc::clone(&proxy.usage));
    let calm = tokio::task::spawn_local(async move { calm.give_back(|| usage.rest()).await });
    // What the start has used.
    proxy.calm.rests();
    let mut stop = pin!(stop);
    let connections_max = connections_max(sys::files_max());
    let mut is_full = false;
    let mut listener = match Listener::new(listener) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(%error, "the listener cannot be watched, and nothing is served");
        }
    };
    let mut spread = Spread::new(proxy.counters);
    loop {
        let live = spread.live();
        if live >= connections_max {
            if !is_full {
                tracing::warn!(
                    connections = live,
                    "no further connections are accepted until some have ended; raise the limit of open files"
                );
            }
            is_full = true;
            spread.accepts(false);
            tokio::select! {
                _ = &mut stop => break,
                () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
            }
        }
        // Said again only if it was better for a while, not for every connection that takes the place of another.
        is_full &= live >= connections_max.saturating_sub(connections_max / 8);
        spread.accepts(true);
        let accepted = tokio::select! {
            _ = &mut stop => break,
            accepted = listener.accept(&mut spread) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let live = spread.one();
                let (proxy, stopped) = (proxy.clone(), stopped.clone());
                match tls.clone() {
                    Some(tls) => drop(tokio::task::spawn_local(connection::serve_tls(
                        stream, tls, peer, proxy, stopped, live,
                    ))),
                    None => drop(tokio::task::spawn_local(connection::serve(
                        stream, peer, proxy, stopped, live,
                    ))),
                }
                // One at a time: of many that come at once, workers that have nothing to do take their share meanwhile.
                tokio::task::yield_now().await;
            }
            Err(error) if is_exhausted(&error) => {
                tracing::warn!(%error, "cannot accept connections for now; raise the limit of open files");
                tokio::select! {
                    _ = &mut stop => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
            // That one connection is gone again: the next one is not concerned.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                tracing::debug!(%error, "a connection was not accepted");
            }
            Err(error) => {
                tracing::error!(%error, "the listener does not accept connections");
                tokio::select! {
                    _ = &mut stop => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    listener.leave();
    spread.accepts(false);
    drop(stopped);
    stopping.send_replace(true);
    // Each connection holds a receiver for as long as it lives.
    stopping.closed().await;
    calm.abort();
}

/// Connections of callers at a time, and requests, of so many descriptors: each may need another one, to an upstream.
fn connections_max(files: usize) -> usize {
    (files.saturating_sub(OTHER_FILES) / 2).max(1)
}

/// Whether accepting fails for want of something that other connections hold.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.contains(&Errno::from_raw(code)))
}
