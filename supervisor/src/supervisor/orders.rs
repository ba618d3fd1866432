//! What is ordered over the control socket, carried out.

use std::path::PathBuf;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::info;
use uuid::Uuid;

use super::Supervisor;
use crate::cloud::tls::Identity;
use crate::control::status::{Seen, Status};
use crate::control::{Answer, Asked, Order};
use crate::doctor;
use crate::doctor::network::{self, Access};
use crate::fleet::Sandbox;
use crate::log::{self, Change};
use crate::origin::Origin;
use crate::settings::{Settings, Source};
use crate::shutdown::Stage;

/// What a gateway is all its life.
#[derive(Clone, Debug)]
pub struct About {
    /// Where resources come from: `managed`, `etcd` or `file`.
    pub mode: &'static str,
    /// The environment; empty if there is none.
    pub environment: String,
    /// The state directory, where there is one.
    pub state_dir: Option<PathBuf>,
    /// How strictly workers are to be confined.
    pub sandbox: Sandbox,
    /// The user of every process, where we may not give each role its own.
    pub single_user: Option<u32>,
    /// This process, as heartbeats name it.
    pub instance: Uuid,
    /// Time between two heartbeats, in seconds; 0 without a Cloud.
    pub heartbeat_secs: u64,
    /// Where resources come from, in full.
    pub source: Source,
}

impl About {
    /// The gateway with these settings.
    pub fn of(settings: &Settings, origin: &Origin, instance: Uuid) -> Self {
        let (mode, state_dir) = match &settings.source {
            Source::Managed(managed) => ("managed", Some(managed.state_dir().to_owned())),
            Source::Etcd(_) => ("etcd", None),
            Source::File(_) => ("file", None),
        };
        let environment = origin.env_id().to_owned();
        let heartbeat_secs = match &settings.source {
            Source::Managed(managed) => managed.heartbeat_interval.as_secs(),
            Source::Etcd(_) | Source::File(_) => 0,
        };
        let sandbox = settings.workers.sandbox;
        let source = settings.source.clone();
        let single_user = None;
        Self {
            mode,
            environment,
            state_dir,
            sandbox,
            single_user,
            instance,
            heartbeat_secs,
            source,
        }
    }
}

impl Supervisor {
    /// Carries out what was asked. What takes time is answered later, by a task.
    pub(super) fn ordered(&mut self, asked: Asked) {
        let Asked { order, argument, reply } = asked;
        let answer = match order {
            Order::Status => return self.tell_status(reply),
            Order::Doctor => return self.examine(reply),
            Order::Log => self.log(argument).into(),
            Order::Rotate => return self.rotate(reply),
            Order::Reload => self.reload().into(),
            Order::Upgrade => return self.upgrade(Some(reply)),
        };
        // Who asked may have left.
        let _ = reply.send(answer);
    }

    /// Tells what is logged, or changes it, here and in every worker at once.
    fn log(&mut self, wanted: Option<String>) -> Result<String, String> {
        let before = log::in_force();
        let Some(wanted) = wanted else {
            return Ok(format!("the log's filter is {before}"));
        };
        let configured = &self.parts.reloader.settings.observability.log_level;
        let change = Change::ordered(&wanted, configured).map_err(|error| error.to_string())?;
        let directives = change.directives.clone();
        let remark = change.remark.map(|remark| format!("; {remark}")).unwrap_or_default();
        // By the former filter as well as by the new one, if either lets it through.
        info!(
            before,
            now = directives,
            "the log's filter changes until the next reload or upgrade"
        );
        change.apply();
        self.parts.fleet.set_log_filter(&directives);
        Ok(format!(
            "the log's filter is {directives}, until the next reload or upgrade; it was {before}{remark}"
        ))
    }

    /// Looks for what is wrong on the way to the Cloud or the store, in a task: with the identity in force, and through the
    /// egress worker that everything else goes through.
    fn examine(&self, reply: oneshot::Sender<Answer>) {
        let sources = &self.parts.sources;
        let bundle = sources.identity.as_ref().and_then(|it| it.borrow().bundle.clone());
        let identity = bundle.map(|bundle| Identity {
            chain_pem: bundle.chain_pem,
            key_pem: bundle.key_pem,
            roots_pem: bundle.roots_pem,
            extra_roots_pem: bundle.extra_roots_pem,
        });
        let (about, egress) = (&self.parts.about, self.parts.egress.clone());
        let access = Access::of(&about.source, identity, &about.environment, egress);
        let heartbeat = sources.identity.is_some().then(|| sources.heartbeat.get());
        tokio::task::spawn_local(async move {
            let findings = match access {
                Some(access) => network::check(&Access { heartbeat, ..access }).await,
                None => Vec::new(),
            };
            // Who asked may have left.
            let _ = reply.send(Answer::report(doctor::diagnose(findings)));
        });
    }

    /// Asks for a new certificate now; whoever renews it answers.
    fn rotate(&mut self, reply: oneshot::Sender<Answer>) {
        let Some(rotate) = &self.parts.rotate else {
            let mode = self.parts.about.mode;
            let _ = reply.send(Answer::refused(format!(
                "this gateway has no certificate of a Cloud to renew: its resources come from {mode}"
            )));
            return;
        };
        let (told, outcome) = oneshot::channel();
        let busy = match rotate.try_send(told) {
            Ok(()) => None,
            Err(TrySendError::Full(_)) => Some("others wait for the same already; ask again"),
            Err(TrySendError::Closed(_)) => {
                Some("nobody rotates certificates: its thread could not be started, see the log")
            }
        };
        if let Some(reason) = busy {
            let _ = reply.send(Answer::refused(reason));
            return;
        }
        tokio::task::spawn_local(async move {
            let outcome = outcome.await;
            let _ = reply.send(match outcome {
                Ok(outcome) => outcome.into(),
                Err(_) => Answer::refused("the gateway ends"),
            });
        });
    }

    /// What the status is made of, as far as it is known here.
    pub(super) fn seen(&self) -> Seen {
        let applied = self.parts.applied.get();
        let complete = self.parts.fleet.is_complete();
        Seen {
            about: self.parts.about.clone(),
            state: state(self.stage, self.was_ready, complete, applied.is_some()),
            applied: applied.map(|revision| revision.0),
            workers: self.workers(),
        }
    }

    fn tell_status(&self, reply: oneshot::Sender<Answer>) {
        let (seen, sources) = (self.seen(), self.parts.sources.clone());
        tokio::task::spawn_local(async move {
            let _ = reply.send(Answer::status(Status::gather(seen, &sources).await));
        });
    }
}

/// The state in one word.
fn state(stage: Stage, was_ready: bool, complete: bool, configured: bool) -> &'static str {
    match stage {
        Stage::Running if !complete && !was_ready => "starting",
        Stage::Running if !complete => "degraded",
        Stage::Running if !configured => "waiting",
        Stage::Running => "ready",
        Stage::Announced { .. }
        | Stage::Finishing { .. }
        | Stage::DrainingProxies
        | Stage::DrainingStatus
        | Stage::Done => "ending",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_gateway_is_ready_only_while_every_worker_serves_some_configuration() {
        let running = Stage::Running;
        assert_eq!(state(running, false, false, false), "starting");
        assert_eq!(state(running, true, true, false), "waiting");
        assert_eq!(state(running, true, true, true), "ready");
        assert_eq!(state(running, true, false, true), "degraded");
        let ending = Stage::Announced { until: Instant::now() };
        assert_eq!(state(ending, true, true, true), "ending");
    }
}
