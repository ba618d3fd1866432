//! The proxy role: ties the request path to the supervisor. What it is told it does, what happens it tells.

use std::fs;
use std::rc::Rc;

use shared::budget;
use shared::channel::Received;
use shared::dial::Dial;
use shared::id::{Revision, Role};
use shared::message::{Confinement, ToSupervisor, ToWorker};
use shared::update::Changes;
use shared::worker_settings::RoleSettings;
use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, warn};

use crate::dial::DirectDial;
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::metrics::Metrics;
use crate::role::{RoleError, listen};
use crate::server::{self, Proxy};
use crate::tls::{Handshakes, Tls};
use crate::upstream::TrustRoots;
use crate::usage_ring::UsageRing;

/// What the role needs of the file system, read before the sandbox closes.
pub struct Files {
    trust: TrustRoots,
    resolv_conf: String,
    hosts: String,
}

impl Files {
    /// Reads trust roots and resolver configuration. What is not there is as if it were empty.
    pub fn read() -> Self {
        Self {
            trust: TrustRoots::load(),
            resolv_conf: fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            hosts: fs::read_to_string("/etc/hosts").unwrap_or_default(),
        }
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(
    inheritance: Inheritance,
    files: Files,
    handshakes: Option<Handshakes>,
    confinement: Confinement,
) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Proxy(role) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the proxy role" }.into());
    };
    let announce = {
        let link = Rc::clone(&link);
        move |series| {
            // Never refused: only questions are.
            let _ = link.tell(ToSupervisor::Series(series));
        }
    };
    let metrics = Metrics::open(inheritance.metrics, announce).map_err(RoleError::Metrics)?;
    metrics.configure(&role.env_id, &settings.e2e_buckets, &settings.ttft_buckets);
    let metrics = Rc::new(metrics);
    let dial = DirectDial::new(&files.resolv_conf, &files.hosts)
        .map_err(|error| RoleError::Resolver(error.to_string()))?;
    let dial: Rc<dyn Dial> = Rc::new(dial);
    let ring = inheritance.usage.ok_or(LinkError::Unexpected { expected: "a usage ring" })?;
    let usage = Rc::new(UsageRing::new(ring, Rc::clone(&link), Rc::clone(&metrics)));
    // Never in clear where TLS was asked for.
    if role.tls != handshakes.is_some() {
        return Err(LinkError::Unexpected { expected: "one word about TLS" }.into());
    }
    let tls = handshakes.map(|handshakes| Tls::new(handshakes, Rc::clone(&metrics)));
    let proxy = Proxy::new(*role, dial, files.trust, Rc::clone(&usage) as _, metrics);

    let mut listener = Some(listen(inheritance.listener)?);
    let stop = Rc::new(Notify::new());
    let (finished, mut drained) = oneshot::channel();
    let mut finished = Some(finished);
    let mut leaving = false;
    // Totals that no room was found for yet outlive us only in the ring.
    while !leaving || usage.has_to_wait() {
        let Received { message, descriptor, .. } = tokio::select! {
            received = link.receive() => received?,
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
        match (message, descriptor) {
            (ToWorker::Activate, _) => {
                let (Some(listener), Some(finished)) = (listener.take(), finished.take()) else {
                    return Err(LinkError::Unexpected { expected: "one activation" }.into());
                };
                if tls.as_ref().is_some_and(|tls| !tls.is_ready()) {
                    return Err(LinkError::Unexpected { expected: "a certificate" }.into());
                }
                let (proxy, tls, stop) = (Rc::clone(&proxy), tls.clone(), Rc::clone(&stop));
                tokio::task::spawn_local(async move {
                    server::serve(listener, proxy, tls, stop.notified()).await;
                    let _ = finished.send(());
                });
                let _ = link.tell(ToSupervisor::Ready);
            }
            (ToWorker::Configuration { revision, whole }, Some(memory)) => {
                let applied = Changes::read(memory)
                    .and_then(|changes| proxy.tables.borrow_mut().apply(whole, changes));
                let _ = link.tell(confirm(&proxy, revision, applied.map_err(|e| e.to_string())));
            }
            (ToWorker::Budgets { whole }, Some(memory)) => {
                let verdicts = budget::read(memory).map_err(LinkError::Budgets)?;
                proxy.budgets.take_in(whole, verdicts);
            }
            (ToWorker::Peer(Role::Signer), Some(channel)) if let Some(tls) = &tls => {
                tls.introduce_signer(channel).map_err(RoleError::Signer)?;
            }
            (ToWorker::Certificate, Some(memory)) if let Some(tls) = &tls => {
                tls.take_certificate(memory).map_err(LinkError::Certificate)?;
            }
            (ToWorker::Ping(number), _) => {
                let in_flight = u32::try_from(proxy.health.in_flight()).unwrap_or(u32::MAX);
                let _ = link.tell(ToSupervisor::Pong(number, in_flight));
            }
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
                | ToWorker::SigningKey(_)
                | ToWorker::Certificate,
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
