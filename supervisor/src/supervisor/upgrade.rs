//! Another program in this process: asked for, tried, put in our place; and what this program does when it is that other
//! one.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use shared::version::VERSION;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, timeout, timeout_at};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Ended, MadePage, RunError, Stage, Supervisor};
use crate::findings::Topic;
use crate::fleet::{REPLACE_LIMIT, Unconfined};
use crate::handover::Passing;
use crate::handover::exec::{self, Own, Prepared};
use crate::handover::orphans::Orphan;
use crate::handover::preflight::{self, Refused, Successor};
use crate::handover::record::{FleetRecord, Programs, RecordError, State};
use crate::handover::taken::Taken;
use crate::process::reap;
use crate::spool::LiveRing;

/// By then every worker of the new program serves, or the program before goes on. Longer than a hello may take.
const IN_ORDER_LIMIT: Duration = Duration::from_secs(30);
/// How long each step may take between the last word of a worker that is heard and the end of this image.
const STEP_LIMIT: Duration = Duration::from_secs(2);

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
}

/// What is to take our place.
pub(super) enum Target {
    /// A build that can take over.
    Successor(Successor),
    /// The build before, and why it has to go on.
    Before(String),
}

/// What came of a preflight.
pub(super) type Checked = (Result<Successor, Refused>, Option<oneshot::Sender<String>>);

/// How far an upgrade has come.
pub(super) struct Upgrade {
    checks: mpsc::Sender<Checked>,
    /// A preflight runs.
    checking: bool,
    pub(super) target: Option<Target>,
    /// This program has taken over, and has to be in order by then.
    deadline: Option<Instant>,
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
        Self { checks, checking, target, deadline, settled, orphans, orphans_until, began }
    }

    /// How many orphans the end still waits for: they were told to leave, and do so without us too.
    pub(super) fn orphans(&self, now: Instant) -> usize {
        if self.orphans_until.is_some_and(|until| now >= until) { 0 } else { self.orphans.get() }
    }
}

impl Supervisor {
    /// Puts the program that is at our own path now in our place, if it can take over. The answer says what came of it; if
    /// it comes with the word `upgrading`, this program is gone right after.
    pub(super) fn upgrade(&mut self, answer: Option<oneshot::Sender<String>>) {
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
        (self.parts.sources.telemetry.report().spool.unwritten > 0).then_some(
            "usage events are in memory alone, because the disk refuses them; ask again when they are written",
        )
    }

    fn not_upgraded(&self, reason: &str, answer: Option<oneshot::Sender<String>>) {
        let text = format!("not upgraded, version {VERSION} goes on: {reason}");
        self.parts.sources.findings.found(Topic::Upgrade, &text);
        if let Some(answer) = answer {
            // Who asked may have given up waiting.
            let _ = answer.send(text);
        }
    }

    /// Takes in what came of a preflight.
    pub(super) fn checked(&mut self, (tried, answer): Checked) {
        self.upgrade.checking = false;
        // What has ended meanwhile was left to us.
        self.reap();
        match tried {
            Ok(_) if self.stage != Stage::Running => {
                self.not_upgraded("the gateway is ending", answer);
            }
            Ok(successor) => {
                info!("upgrading: the program can take over: {}", successor.words);
                if let Some(answer) = answer {
                    let _ = answer.send(format!("upgrading: {}", successor.words));
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
    pub(super) fn take_over(&mut self, now: Instant) {
        // By name: what is kept under the same name comes after.
        for name in std::mem::take(&mut self.parts.life.unwanted) {
            self.notifier.forget(&name);
        }
        for (name, listener) in self.parts.fleet.listeners() {
            self.notifier.store(name, listener);
        }
        let heard = self.parts.life.orphans.iter().filter(|orphan| orphan.uid().is_some());
        self.upgrade.orphans.set(heard.count());
        let Some(taken) = self.parts.life.taken.clone() else { return };
        self.collector(|it| it.carried(&taken.series, taken.state.counters.clone()));
        let happenings = self.parts.fleet.adopt(&taken, now);
        self.act(happenings, now);
        if let Some(reason) = &taken.failed {
            let text = format!("not upgraded, version {VERSION} goes on: {reason}");
            self.parts.sources.findings.found(Topic::Upgrade, text);
            taken.settle();
        } else {
            info!(from = taken.state.version, to = VERSION,
                "this program has taken over; replacing the workers of the one before");
            self.upgrade.deadline = Some(now + IN_ORDER_LIMIT);
            self.parts.fleet.replace_all(now);
        }
    }

    /// Tells the service manager how we are, and takes the upgrade as far as it will go now.
    pub(super) fn notify(&mut self, now: Instant) {
        self.notifier.tick(now);
        let greeted = self.begun && self.parts.fleet.is_greeted();
        if greeted || self.parts.life.taken.is_some() {
            self.notifier.ready();
        }
        let status = match (self.stage, self.parts.applied.get()) {
            (Stage::Running, _) if !greeted => "starting".to_owned(),
            (Stage::Running, Some(revision)) => format!("serving revision {revision}"),
            (Stage::Running, None) => "waiting for the first configuration".to_owned(),
            _ => format!("draining: {} requests in flight", self.parts.fleet.in_flight()),
        };
        self.notifier.status(&status);
        if self.upgrade.settled {
            return;
        }
        if self.parts.fleet.is_complete() {
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
        self.parts.fleet.drain_replaced(now);
        if taken.failed.is_none() {
            let millis = now.saturating_duration_since(self.upgrade.began).as_millis();
            info!(from = taken.state.version, to = VERSION, millis, "upgraded: every worker is new");
            self.parts.sources.findings.settled(Topic::Upgrade);
        }
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
                orphan.drain(REPLACE_LIMIT).await;
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

    fn go_back(&mut self, reason: String) {
        if self.may_go_back() {
            error!("{reason}; the program before goes on");
            self.upgrade.target = Some(Target::Before(reason));
        }
    }

    /// Stops hearing workers, writes everything down, and prepares the other program's start. No worker notices.
    pub(super) async fn hand_over(
        mut self,
        target: Target,
        made: &mut mpsc::Receiver<MadePage>,
    ) -> Result<Ended, RunError> {
        self.notifier.reloading();
        self.fall_quiet(made).await;
        if matches!(target, Target::Before(_)) {
            self.parts.fleet.kill_unwelcome();
        }
        let deadline = time::Instant::now() + STEP_LIMIT;
        self.parts.fleet.fall_silent(deadline).await;
        let spool = self.parts.sources.telemetry.spool().clone();
        let rings = spool.live().await;
        if let Some(budgets) = &self.parts.sources.budgets {
            budgets.keep();
        }
        spool.close().await;
        let applied = self.parts.applied.get();
        let families = crate::pages::families(&self.parts.sources, applied, self.worker_facts());
        let families = timeout(STEP_LIMIT, families).await.ok().and_then(Result::ok);
        let families = families.unwrap_or_else(|| {
            warn!("the supervisor's own counters begin at 0: they could not be read");
            Vec::new()
        });
        let (series, counters) =
            self.parts.sources.collector.borrow_mut().carry(&families);
        let mut passing = Passing::begin();
        let state = self.state(&rings, &mut passing)?;
        let mut state = State { counters, ..state };
        if let (Target::Before(_), Some(taken)) = (&target, &self.parts.life.taken) {
            state.programs = self.programs_before(taken, &mut passing)?;
            // What was to be replaced stays, and what replaced it leaves.
            state.fleet.workers.iter_mut().for_each(|worker| worker.replaced = !worker.replaced);
        }
        let own = self.parts.life.own.clone();
        let (program, failed) = match target {
            Target::Successor(successor) => (successor.program, None),
            Target::Before(reason) => {
                let taken = self.parts.life.taken.clone();
                let program = taken.map(|it| it.programs()).transpose();
                let program = program.map_err(RecordError::from)?;
                let program = program.map(|(supervisor, _)| supervisor);
                let running = exec::running().map_err(RecordError::from)?;
                (program.unwrap_or(running), Some(reason))
            }
        };
        let prepared = Prepared::new(program, own, failed, &state, &series, passing)?;
        Ok(Ended::HandedOver(Box::new(prepared)))
    }

    /// Reads nothing more of workers, and finishes what they have said.
    async fn fall_quiet(&mut self, made: &mut mpsc::Receiver<MadePage>) {
        self.parts.fleet.pause();
        let deadline = time::Instant::now() + STEP_LIMIT;
        loop {
            while let Ok(event) = self.parts.events.try_recv() {
                // Who is not confined as it must be is not what this is about any more.
                if let Err(error) = self.handle(event) {
                    error!("{error}");
                }
            }
            let quiet = self.parts.fleet.is_paused() && !self.parts.fleet.has_untaken_usage();
            if quiet && self.pages_in_making.get() == 0 {
                return;
            }
            let next = async {
                tokio::select! {
                    Some(event) = self.parts.events.recv() => drop(self.handle(event)),
                    Some(report) = self.parts.spool_reports.recv() => self.spooled(report),
                    Some((worker, request, page, body)) = made.recv() => {
                        self.parts.fleet.answer(worker, request, page, body);
                    }
                    () = time::sleep(Duration::from_millis(5)) => {}
                }
            };
            if timeout_at(deadline, next).await.is_err() {
                return warn!("not everything that workers have said was dealt with; the next program goes on with it");
            }
        }
    }

    /// The programs of the image before, as it handed them to us.
    fn programs_before(&self, taken: &Taken, passing: &mut Passing) -> Result<Programs, RecordError> {
        let (supervisor, worker) = taken.programs()?;
        Ok(Programs {
            supervisor: passing.pass(supervisor.as_fd())?,
            worker: passing.pass(worker.descriptor())?,
            worker_path: taken.state.programs.worker_path.clone(),
        })
    }

    /// What a state of ours looks like, for somebody to try.
    fn sample(&self) -> Result<State, RecordError> {
        self.state(&[], &mut Passing::default())
    }

    fn state(&self, rings: &[LiveRing], passing: &mut Passing) -> Result<State, RecordError> {
        let (parts, now) = (&self.parts, Instant::now());
        let collector = parts.sources.collector.borrow();
        let fleet: FleetRecord =
            parts.fleet.record(&|worker| collector.of_worker(worker), rings, passing, now)?;
        let (supervisor, worker) = (exec::running()?, parts.fleet.program());
        let programs = Programs {
            supervisor: passing.pass(supervisor.as_fd())?,
            worker: passing.pass(worker.descriptor())?,
            worker_path: worker.path.clone().into_os_string().into_encoded_bytes(),
        };
        let listeners = parts.fleet.listeners().into_iter();
        let listeners = listeners
            .map(|(name, listener)| Ok((name.to_owned(), passing.pass(listener)?)))
            .collect::<std::io::Result<_>>()?;
        let lock = parts.life.lock.as_ref().map(|lock| passing.pass(lock.as_fd())).transpose()?;
        let uptime = parts.sources.started.elapsed().as_millis();
        Ok(State {
            version: VERSION.to_owned(),
            programs,
            lock,
            listeners,
            fleet,
            instance_id: parts.life.instance.as_u128(),
            uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
            counters: Vec::new(),
            series: 0,
        })
    }
}
