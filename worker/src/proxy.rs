//! The proxy role: ties the request path to the supervisor. What it is told it does, what happens it tells.
//!
//! It opens nothing: connections to upstreams come from egress, configuration and trust roots as sealed memory. Time zone
//! data is not needed either: every time that is told is UTC.

use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use shared::budget;
use shared::channel::{ChannelError, Received};
use shared::counters::Counters;
use shared::dial::Dial;
use shared::egress::client;
use shared::id::{Revision, Role};
use shared::message::{Confinement, ToSupervisor, ToWorker};
use shared::metric::EdgeSets;
use shared::update::Changes;
use shared::worker_settings::RoleSettings;
use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, warn};

use crate::identity;
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::metrics::Metrics;
use crate::orphan;
use crate::role::{RoleError, listen};
use crate::routing;
use crate::server::{self, Proxy};
use crate::tls::{Handshakes, Tls};
use crate::upstream::TrustRoots;
use crate::usage_ring::UsageRing;

/// How long a new connection waits for an egress worker that is not there.
const EGRESS_WAIT: Duration = Duration::from_secs(1);

/// Runs until drained or until the supervisor is gone.
pub async fn run(
    inheritance: Inheritance,
    handshakes: Option<Handshakes>,
    confinement: Confinement,
) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Proxy(mut role) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the proxy role" }.into());
    };
    let announce = {
        let link = Rc::clone(&link);
        move |series| {
            // Never refused: only questions are.
            let _ = link.tell(ToSupervisor::Series(series));
        }
    };
    let counters = counters(&link).await?;
    let metrics = Metrics::open(inheritance.metrics, announce).map_err(RoleError::Metrics)?;
    let edges = EdgeSets::from_seconds(
        &settings.e2e_buckets,
        &settings.ttft_buckets,
        &settings.guardrail_buckets,
    );
    metrics.configure(&role.env_id, edges);
    let metrics = Rc::new(metrics);
    let (egress, driver) = client::new(EGRESS_WAIT);
    tokio::task::spawn_local(driver.run());
    let dial: Rc<dyn Dial> = Rc::new(egress.clone());
    let trust = TrustRoots::new(std::mem::take(&mut role.upstream.platform_roots));
    let ring = inheritance.usage.ok_or(LinkError::Unexpected { expected: "a usage ring" })?;
    let usage = Rc::new(UsageRing::new(ring, Rc::clone(&link), Rc::clone(&metrics)));
    // Never in clear where TLS was asked for.
    if role.tls != handshakes.is_some() {
        return Err(LinkError::Unexpected { expected: "one word about TLS" }.into());
    }
    let tls = handshakes.map(|handshakes| Tls::new(handshakes, Rc::clone(&metrics)));
    let proxy = Proxy::new(*role, dial, trust, Rc::clone(&usage) as _, metrics, counters);

    let tell = {
        let link = Rc::clone(&link);
        move |message| {
            // Never refused, as above.
            let _ = link.tell(message);
        }
    };
    tokio::task::spawn_local(identity::run(Rc::clone(&proxy), tell));
    let mut listener = Some(listen(inheritance.listener)?);
    let stop = Rc::new(Notify::new());
    let (finished, mut drained) = oneshot::channel();
    let mut finished = Some(finished);
    let mut leaving = false;
    let mut adoption = inheritance.adoption;
    // Kept for as long as we live: no other socket may get its number.
    let mut placeholder = inheritance.placeholder;
    let mut orphaned = false;
    // Totals that no room was found for yet outlive us only in the ring; without a supervisor nobody makes room.
    while !leaving || (usage.has_to_wait() && !orphaned) {
        let received = tokio::select! {
            received = link.receive(), if !orphaned => received,
            keys = proxy.budgets.in_use() => {
                // What is not taken now comes again with the next use.
                let _ = link.tell(ToSupervisor::KeysInUse(keys));
                continue;
            }
            _ = &mut drained, if !leaving => {
                leaving = true;
                continue;
            }
        };
        // Who does not serve yet has nothing to go on with.
        if let Err(LinkError::Channel(ChannelError::Closed)) = &received
            && finished.is_none()
            && let Some(socket) = adoption.take()
        {
            warn!("the supervisor is gone; serving on until the next one takes over");
            orphaned = true;
            let (placeholder, stop) = (placeholder.take(), Rc::clone(&stop));
            tokio::task::spawn_local(orphan::wait(socket, placeholder, inheritance.id, stop));
            continue;
        }
        let Received { message, descriptor, .. } = received?;
        match (message, descriptor) {
            (ToWorker::Activate, _) => {
                let (Some(listener), Some(finished)) = (listener.take(), finished.take()) else {
                    return Err(LinkError::Unexpected { expected: "one activation" }.into());
                };
                if tls.as_ref().is_some_and(|tls| !tls.is_ready()) {
                    return Err(LinkError::Unexpected { expected: "a certificate" }.into());
                }
                let (proxy, tls, stop) = (Rc::clone(&proxy), tls.clone(), Rc::clone(&stop));
                tokio::task::spawn_local(routing::check_in_background(Rc::clone(&proxy)));
                tokio::task::spawn_local(async move {
                    server::serve(listener, proxy, tls, stop.notified()).await;
                    let _ = finished.send(());
                });
                let _ = link.tell(ToSupervisor::Ready);
            }
            (ToWorker::Configuration { revision, whole }, Some(memory)) => {
                let applied = Changes::read(memory)
                    .and_then(|changes| proxy.tables.borrow_mut().apply(whole, changes));
                let tables = proxy.tables.borrow();
                proxy.identity_keys.providers_changed(|id| {
                    tables.identities().provider(id).map(|provider| provider.key_source())
                });
                drop(tables);
                let _ = link.tell(confirm(&proxy, revision, applied.map_err(|e| e.to_string())));
            }
            (ToWorker::Budgets { whole }, Some(memory)) => {
                let verdicts = budget::read(memory).map_err(LinkError::Budgets)?;
                proxy.budgets.take_in(whole, verdicts);
            }
            (ToWorker::KeySet(set), _) => proxy.identity_keys.take_in(set),
            (ToWorker::Peer(Role::Signer), Some(channel)) if let Some(tls) = &tls => {
                tls.introduce_signer(channel).map_err(RoleError::Signer)?;
            }
            (ToWorker::Certificate, Some(memory)) if let Some(tls) = &tls => {
                tls.take_certificate(memory).map_err(LinkError::Certificate)?;
            }
            // Callers do not speak TLS yet to a worker of before it was switched on, while its successor is prepared.
            (ToWorker::Peer(Role::Signer) | ToWorker::Certificate, Some(_)) => {}
            (ToWorker::Ping(number), _) => {
                let in_flight = u32::try_from(proxy.health.in_flight()).unwrap_or(u32::MAX);
                let _ = link.tell(ToSupervisor::Pong(number, in_flight));
            }
            (ToWorker::Peer(Role::Egress), Some(channel)) => egress.reached_over(channel),
            (ToWorker::Peer(Role::Cache), Some(channel)) => proxy.cache.reached_over(channel),
            (ToWorker::Peer(Role::Export), Some(channel)) => proxy.traces.reached_over(channel),
            (ToWorker::UsageTaken(sequence), _) if usage.taken(sequence) => {}
            (ToWorker::Retire, _) => proxy.health.retire(),
            // Not activated yet: there is nothing to finish.
            (ToWorker::Drain, _) if finished.is_some() => break,
            (ToWorker::Drain, _) => stop.notify_one(),
            (
                ToWorker::Configuration { .. }
                | ToWorker::Welcome
                | ToWorker::Page(..)
                | ToWorker::Budgets { .. }
                | ToWorker::UsageTaken(_)
                | ToWorker::Peer(_)
                | ToWorker::Client(_)
                | ToWorker::Destinations { .. }
                | ToWorker::Resolver
                | ToWorker::SigningKey(_)
                | ToWorker::Certificate
                | ToWorker::Counters { .. }
                | ToWorker::Exporters
                | ToWorker::Outlive,
                _,
            ) => {
                warn!("the supervisor sent a message that is not for the proxy role");
                return Err(
                    LinkError::Unexpected { expected: "a message for the proxy role" }.into()
                );
            }
        }
    }
    link.flushed().await;
    Ok(())
}

/// What all workers count together: said first, before anything that needs it.
async fn counters(link: &Link) -> Result<Counters, RoleError> {
    let Received { message: ToWorker::Counters { lane }, descriptor: Some(memory), .. } =
        link.receive().await?
    else {
        return Err(LinkError::Unexpected { expected: "the counters of the node" }.into());
    };
    Counters::open(&File::from(memory), usize::from(lane)).map_err(RoleError::Counters)
}

/// What to tell of an attempt to put a revision in force.
fn confirm<T: std::fmt::Debug>(
    proxy: &Proxy,
    revision: Revision,
    applied: Result<T, String>,
) -> ToSupervisor {
    match applied {
        Ok(applied) => {
            debug!(%revision, ?applied, "configuration in force");
            proxy.health.configured();
            ToSupervisor::Applied(revision)
        }
        Err(reason) => {
            error!(%revision, reason, "configuration not applied");
            ToSupervisor::Refused(revision, reason)
        }
    }
}
