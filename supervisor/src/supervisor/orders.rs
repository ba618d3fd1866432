//! What is ordered over the control socket, carried out.

use std::path::PathBuf;

use shared::version::VERSION;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::info;

use super::Supervisor;
use crate::control::status::{
    Certificate, Cloud, Configuration, Sandbox as Confined, Status, Usage,
};
use crate::control::{Answer, Asked, Order};
use crate::doctor;
use crate::fleet::{Sandbox, Summary};
use crate::log::{self, Change};
use crate::origin::Origin;
use crate::pages::{Sources, finding_statuses, moment};
use crate::projection::report::rfc3339;
use crate::sandbox_report::{Level, WorkerStatus};
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
}

impl About {
    /// The gateway with these settings.
    pub fn of(settings: &Settings, origin: &Origin) -> Self {
        let (mode, state_dir) = match &settings.source {
            Source::Managed(managed) => ("managed", Some(managed.state_dir().to_owned())),
            Source::Etcd(_) => ("etcd", None),
            Source::File(_) => ("file", None),
        };
        let environment = origin.env_id().to_owned();
        Self { mode, environment, state_dir, sandbox: settings.workers.sandbox }
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

    /// Looks for what is wrong, in a task.
    fn examine(&self, reply: oneshot::Sender<Answer>) {
        let _ = reply.send(Answer::report(doctor::diagnose(Vec::new())));
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

    /// Everything but the configuration is known here; that is asked for by a task.
    fn tell_status(&self, reply: oneshot::Sender<Answer>) {
        let workers = self.parts.fleet.summaries();
        let sources = self.parts.sources.clone();
        let applied = self.parts.applied.get();
        let about = &self.parts.about;
        let complete = self.parts.fleet.is_complete();
        let state = state(self.stage, self.was_ready, complete, applied.is_some());
        let mut status = Status {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_secs: sources.started.elapsed().as_secs(),
            mode: about.mode.to_owned(),
            environment: Some(about.environment.clone()).filter(|it| !it.is_empty()),
            state_dir: about.state_dir.as_ref().map(|path| path.display().to_string()),
            ready: state == "ready",
            state: state.to_owned(),
            sandbox: Confined {
                policy: about.sandbox.name().to_owned(),
                level: weakest(&workers).map(Level::number),
            },
            workers: workers.iter().map(WorkerStatus::of).collect(),
            ..Status::default()
        };
        tokio::task::spawn_local(async move {
            if let Ok(report) = sources.projection.report(applied.unwrap_or_default()).await {
                status.configuration = Configuration {
                    observed_revision: report.status.source.observed_revision,
                    applied_revision: applied.map(|revision| revision.0),
                    source_connected: report.status.source.connected,
                };
            }
            add_sources(&mut status, &sources);
            let _ = reply.send(Answer::status(status));
        });
    }
}

fn weakest(workers: &[Summary]) -> Option<Level> {
    workers.iter().filter_map(|worker| worker.level).min()
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

fn add_sources(status: &mut Status, sources: &Sources) {
    let usage = sources.telemetry.report();
    status.usage = Usage {
        waiting: usage.spool.waiting,
        bytes: usage.spool.bytes,
        accepted: usage.accepted,
        error: usage.error,
    };
    if sources.identity.is_some() {
        let heartbeat = sources.heartbeat.get();
        status.cloud = Some(Cloud {
            last_heartbeat_at: heartbeat.last_success.map(moment),
            heartbeat_failures: heartbeat.failures,
            error: heartbeat.error,
        });
    }
    let (renewal, next_renewal_at) = sources.rotation.renewal();
    status.certificate = sources.certificate_expires_at_unix().map(|expires_at| Certificate {
        expires_at: rfc3339(expires_at),
        renewal: renewal.map(str::to_owned),
        next_renewal_at,
    });
    status.findings = finding_statuses(&sources.findings);
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
