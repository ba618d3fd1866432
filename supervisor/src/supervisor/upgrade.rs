//! Another program in this process: asked for, tried; and what this program does when it is that other one. How it is put in
//! our place is told in `hand_over.rs`.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use shared::version::VERSION;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use uuid::Uuid;

use super::{RunError, Stage, Supervisor};
use crate::control::Answer;
use crate::findings::Topic;
use crate::fleet::{REPLACE_DRAIN, Unconfined};
use crate::handover::exec::Own;
use crate::handover::orphans::Orphan;
use crate::handover::preflight::{self, Refused, Successor};
use crate::handover::taken::Taken;
use crate::process::reap;

/// By then every worker of the new program serves, or the program before goes on. Longer than a hello may take.
const IN_ORDER_LIMIT: Duration = Duration::from_secs(30);

/// What a supervisor knows of its own process, and of the one before it.
pub struct Life {
    /// How this process was started.
    pub own: Own,
    /// The lock on the state directory.
    pub lock: Option<OwnedFd>,
    /// Who the Cloud knows this process as.
    pub instance: Uuid,
    /// What the image before has handed over.
    pub taken: Option<Rc<Taken>>,
    /// Workers of a supervisor that was killed.
    pub orphans: Vec<Orphan>,
    /// Sockets in the service manager's store that are none of ours.
    pub unwanted: Vec<String>,
    /// Roles whose listener a socket unit keeps.
    pub of_units: Vec<String>,
}

/// What is to take our place.
pub(super) enum Target {
    /// A build that can take over.
    Successor(Successor),
    /// The build before, and why it has to go on.
    Before(String),
}

/// What came of a preflight.
pub(super) type Checked = (Result<Successor, Refused>, Option<oneshot::Sender<Answer>>);

/// How far an upgrade has come.
pub(super) struct Upgrade {
    checks: mpsc::Sender<Checked>,
    /// A preflight runs.
    checking: bool,
    pub(super) target: Option<Target>,
    /// This program has taken over, and has to be in order by then.
    deadline: Option<Instant>,
    /// The workers of the image before are still to be replaced.
    to_replace: bool,
    /// Every worker served once: those before may leave.
    settled: bool,
    /// Orphans that were heard of and have not left yet.
    orphans: Rc<Cell<usize>>,
    /// The end waits for them until then.
    pub(super) orphans_until: Option<Instant>,
    began: Instant,
}

impl Upgrade {
    pub(super) fn new(checks: mpsc::Sender<Checked>, began: Instant) -> Self {
        let orphans = Rc::default();
        let (checking, target, deadline) = (false, None, None);
        let (settled, orphans_until) = (false, None);
        Self {
            checks,
            checking,
            target,
            deadline,
            settled,
            orphans,
            orphans_until,
            began,
            to_replace: false,
        }
    }

    /// How many orphans the end still waits for: they were told to leave, and do so without us too.
    pub(super) fn orphans(&self, now: Instant) -> usize {
        if self.orphans_until.is_some_and(|until| now >= until) { 0 } else { self.orphans.get() }
    }
}

impl Supervisor {
    /// Puts the program that is at our own path now in our place, if it can take over. The answer says what came of it; if
    /// it comes with the word `upgrading`, this program is gone right after.
    pub(super) fn upgrade(&mut self, answer: Option<oneshot::Sender<Answer>>) {
        if let Some(reason) = self.why_no_upgrade() {
            return self.not_upgraded(reason, answer);
        }
        let state = self.sample().and_then(|state| state.write(&[]));
        let state = match state {
            Ok(state) => state,
            Err(error) => return self.not_upgraded(&error.to_string(), answer),
        };
        self.upgrade.checking = true;
        let own = self.parts.life.own.clone();
        info!(program = %own.program.display(), "upgrade asked for; trying the program");
        let checks = self.upgrade.checks.clone();
        tokio::task::spawn_local(async move {
            let name = own.program.display().to_string();
            let tried = tokio::task::spawn_blocking(move || preflight::run(&own, state)).await;
            let tried = tried.unwrap_or_else(|error| {
                Err(Refused::Execute { program: name, source: std::io::Error::other(error) })
            });
            // Fails only when the loop has ended.
            let _ = checks.send((tried, answer)).await;
        });
    }

    fn why_no_upgrade(&self) -> Option<&'static str> {
        if self.stage != Stage::Running {
            return Some("the gateway is ending");
        }
        if self.upgrade.checking || !self.upgrade.settled {
            return Some("another upgrade, or the start, is not over yet; ask again");
        }
        if !self.changes.is_free() || self.parts.sources.projection.quarantine().text().is_some() {
            return Some(
                "a change of the configuration is being tried, or was set aside because workers die of it; ask again when that is over",
            );
        }
        if self.upgrade.orphans.get() > 0 {
            return Some(
                "workers of a supervisor that was killed still finish; ask again when they have",
            );
        }
        let sources = &self.parts.sources;
        let refuses = sources.findings.list().iter().any(|(topic, _)| *topic == Topic::Spool);
        (refuses && sources.telemetry.report().spool.unwritten > 0).then_some(
            "usage events are in memory alone, because the disk refuses them; ask again when they are written",
        )
    }

    fn not_upgraded(&self, reason: &str, answer: Option<oneshot::Sender<Answer>>) {
        let text = format!("not upgraded, version {VERSION} goes on: {reason}");
        self.parts.sources.findings.found(Topic::Upgrade, &text);
        if let Some(answer) = answer {
            // Who asked may have given up waiting.
            let _ = answer.send(Answer::refused(text));
        }
    }

    /// Takes in what came of a preflight.
    pub(super) fn checked(&mut self, (tried, answer): Checked) {
        self.upgrade.checking = false;
        // What has ended meanwhile was left to us.
        self.reap();
        match tried {
            // Things may have changed while the program was tried.
            Ok(successor) => {
                if let Some(reason) = self.why_no_upgrade() {
                    return self.not_upgraded(reason, answer);
                }
                info!(version = successor.version, "upgrading: the program can take over");
                if let Some(answer) = answer {
                    let message = format!("upgrading to version {}", successor.version);
                    let _ = answer.send(Answer::done(message));
                }
                self.upgrade.target = Some(Target::Successor(successor));
            }
            Err(refused) => self.not_upgraded(&refused.to_string(), answer),
        }
    }

    /// Collects children that nobody has started here.
    pub(super) fn reap(&self) {
        // What a preflight has started is waited for on another thread.
        if !self.upgrade.checking {
            reap::orphans(&self.parts.fleet.pids());
        }
    }

    /// Goes on with what the image, or the supervisor, before has left.
    pub(super) fn take_over(&mut self) {
        let now = self.now();
        // By name: what is kept under the same name comes after.
        for name in std::mem::take(&mut self.parts.life.unwanted) {
            self.notifier.forget(&name);
        }
        let of_units = &self.parts.life.of_units;
        for (name, listener) in self.parts.fleet.listeners() {
            if !of_units.iter().any(|role| role == name) {
                self.notifier.store(name, listener);
            }
        }
        let heard = self.parts.life.orphans.iter().filter(|orphan| orphan.uid().is_some());
        self.upgrade.orphans.set(heard.count());
        let Some(taken) = self.parts.life.taken.clone() else {
            // What ended while nobody listened.
            return self.reap();
        };
        self.collector(|it| it.carried(&taken.series, taken.state.counters.clone()));
        let happenings = self.parts.fleet.adopt(&taken, now);
        self.act(happenings, now);
        // Only now: the workers of before are known, and their ends are their own.
        self.reap();
        if let Some(reason) = &taken.failed {
            let text = format!("not upgraded, version {VERSION} goes on: {reason}");
            self.parts.sources.findings.found(Topic::Upgrade, text);
            taken.settle();
            // Workers that it had started already are not ours.
            if taken.state.version != VERSION && self.parts.fleet.has_newest() {
                self.parts.fleet.replace_all(now);
            }
        } else {
            info!(
                from = taken.state.version,
                to = VERSION,
                "this program has taken over; replacing the workers of the one before"
            );
            self.upgrade.deadline = Some(now + IN_ORDER_LIMIT);
            self.upgrade.to_replace = true;
            self.replace_when_configured(now);
        }
    }

    /// Replaces the workers of the image before, which have a configuration, when there is one for those that come.
    fn replace_when_configured(&mut self, now: Instant) {
        let is_needed = self.parts.fleet.is_configured();
        let is_there = self.changes.configuration().revision().is_some();
        if self.upgrade.to_replace && (is_there || !is_needed) {
            self.upgrade.to_replace = false;
            self.parts.fleet.replace_all(now);
        }
    }

    /// Tells the service manager how we are, and takes the upgrade as far as it will go now.
    pub(crate) fn notify(&mut self) {
        self.notifier.tick(Instant::now());
        let now = self.now();
        let greeted = self.begun && self.parts.fleet.is_greeted();
        if !self.parts.fleet.is_replacing() {
            self.notifier.reloaded();
        }
        if greeted || self.parts.life.taken.is_some() {
            self.notifier.ready();
        }
        let status = match (self.stage, self.parts.applied.get()) {
            (Stage::Running, _) if !greeted => "starting".to_owned(),
            (Stage::Running, _) if self.notifier.is_reloading() => "reloading".to_owned(),
            (Stage::Running, Some(revision)) => format!("serving revision {revision}"),
            (Stage::Running, None) => "waiting for the first configuration".to_owned(),
            _ => format!("draining: {} requests in flight", self.parts.fleet.in_flight()),
        };
        let came_to_nothing = self.stage == Stage::Running
            && !self.notifier.is_reloading()
            && self.parts.sources.findings.has(Topic::Replacement);
        let remark = if came_to_nothing { "; not reloaded: aisix status says why" } else { "" };
        self.notifier.status(&format!("{status}{remark}"));
        // Who is ending needs no other program any more.
        if self.upgrade.settled || self.upgrade.target.is_some() || self.stage != Stage::Running {
            return;
        }
        self.replace_when_configured(now);
        let is_done = !self.upgrade.to_replace && !self.parts.fleet.is_replacing();
        // Orphans have a configuration: those in their place need one, too.
        let may_drain =
            self.upgrade.orphans.get() == 0 || self.changes.configuration().revision().is_some();
        if self.parts.fleet.is_complete() && is_done && may_drain {
            self.settle(now);
        } else if self.upgrade.deadline.is_some_and(|deadline| now >= deadline) {
            self.upgrade.deadline = None;
            let limit = IN_ORDER_LIMIT.as_secs();
            self.go_back(format!("version {VERSION} was not in order after {limit} s"));
        }
    }

    fn settle(&mut self, now: Instant) {
        self.upgrade.settled = true;
        self.upgrade.deadline = None;
        self.drain_orphans();
        let Some(taken) = self.parts.life.taken.take() else { return };
        taken.settle();
        if taken.failed.is_none() {
            let millis = now.saturating_duration_since(self.upgrade.began).as_millis();
            info!(
                from = taken.state.version,
                to = VERSION,
                millis,
                "upgraded: every worker is new"
            );
            self.parts.sources.findings.settled(Topic::Upgrade);
        }
    }

    /// The gateway is ending: no other program takes over, or goes on, any more.
    pub(super) fn no_upgrade_any_more(&mut self) {
        self.upgrade.deadline = None;
        self.upgrade.target = None;
    }

    /// When [`Supervisor::notify`] has something to do again.
    pub(super) fn upgrade_wake_at(&self) -> Option<Instant> {
        self.upgrade.deadline
    }

    /// Orphans may leave: others serve, or nobody is to serve any more.
    pub(super) fn drain_orphans(&mut self) {
        for orphan in self.parts.life.orphans.drain(..) {
            let left = orphan.uid().is_some().then(|| Rc::clone(&self.upgrade.orphans));
            tokio::task::spawn_local(async move {
                orphan.drain(REPLACE_DRAIN).await;
                if let Some(left) = left {
                    left.set(left.get().saturating_sub(1));
                }
            });
        }
    }

    /// An error that would end this program lets the one before go on, for as long as there is one.
    pub(super) fn go_back_if(&mut self, done: Result<(), Unconfined>) -> Result<(), RunError> {
        match done {
            Err(error) if self.may_go_back() => {
                self.go_back(error.to_string());
                Ok(())
            }
            done => Ok(done?),
        }
    }

    fn may_go_back(&self) -> bool {
        self.parts.life.taken.as_ref().is_some_and(|taken| taken.may_go_back())
    }

    /// Whether this program has taken over and is not in order yet.
    pub(crate) fn is_taking_over(&self) -> bool {
        self.upgrade.deadline.is_some()
    }

    /// Lets the program before go on, for as long as there is one.
    pub(crate) fn go_back(&mut self, reason: String) {
        // Who is ending needs no other program.
        if self.stage == Stage::Running && self.may_go_back() {
            error!("{reason}; the program before goes on");
            self.upgrade.target = Some(Target::Before(reason));
        }
    }
}
