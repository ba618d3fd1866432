//! This image stops hearing its workers, writes down what the next one needs, and names the program that comes.
//!
//! Order: what workers have said is dealt with, what they were told is in their sockets, budgets and spool are on disk; only
//! then is the state written. Each step has its limit, and whoever does not keep to it is left to the next image.

use std::os::fd::AsFd;
use std::time::Duration;

use shared::version::VERSION;
use tokio::sync::mpsc;
use tokio::time::{self, timeout, timeout_at};
use tracing::{error, warn};

use super::upgrade::Target;
use super::{Ended, MadePage, RunError, Supervisor};
use crate::handover::{Passing, of_unit};
use crate::handover::exec::{self, Prepared};
use crate::handover::record::{FleetRecord, Programs, RecordError, State};
use crate::handover::taken::Taken;
use crate::pages;
use crate::spool::LiveRing;

/// How long each step may take.
const STEP_LIMIT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Stops hearing workers, writes everything down, and prepares the other program's start. No worker notices.
    pub(super) async fn hand_over(
        mut self,
        target: Target,
        made: &mut mpsc::Receiver<MadePage>,
    ) -> Result<Ended, RunError> {
        self.notifier.upgrading();
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
        let workers = self.workers();
        let families = pages::families(&self.parts.sources, applied, &workers);
        let families = timeout(STEP_LIMIT, families).await.ok().and_then(Result::ok);
        let families = families.unwrap_or_else(|| {
            warn!("the supervisor's own counters begin at 0: they could not be read");
            Vec::new()
        });
        let (series, counters) = self.parts.sources.collector.borrow_mut().carry(&families);
        let mut passing = Passing::begin();
        let state = self.state(&rings, &mut passing)?;
        let mut state = State { counters, ..state };
        if let (Target::Before(_), Some(taken)) = (&target, &self.parts.life.taken) {
            state.programs = self.programs_before(taken, &mut passing)?;
            state.configuration = taken.state.configuration.clone();
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
                return warn!(
                    "not everything that workers have said was dealt with; the next program goes on with it"
                );
            }
        }
    }

    /// The programs of the image before, as it handed them to us.
    fn programs_before(
        &self,
        taken: &Taken,
        passing: &mut Passing,
    ) -> Result<Programs, RecordError> {
        let (supervisor, worker) = taken.programs()?;
        Ok(Programs {
            supervisor: passing.pass(supervisor.as_fd())?,
            worker: passing.pass(worker.descriptor())?,
            worker_path: taken.state.programs.worker_path.clone(),
        })
    }

    /// What a state of ours looks like, for somebody to try.
    pub(super) fn sample(&self) -> Result<State, RecordError> {
        self.state(&[], &mut Passing::default())
    }

    fn state(&self, rings: &[LiveRing], passing: &mut Passing) -> Result<State, RecordError> {
        let (parts, now) = (&self.parts, self.awake.last());
        let collector = parts.sources.collector.borrow();
        let fleet: FleetRecord =
            parts.fleet.record(&|worker| collector.of_worker(worker), rings, passing, now)?;
        let (supervisor, worker) = (exec::running()?, parts.fleet.program());
        let programs = Programs {
            supervisor: passing.pass(supervisor.as_fd())?,
            worker: passing.pass(worker.descriptor())?,
            worker_path: worker.path.clone().into_os_string().into_encoded_bytes(),
        };
        let mut listeners = Vec::new();
        for (name, listener) in parts.fleet.listeners() {
            listeners.push((name.to_owned(), passing.pass(listener)?));
            if parts.life.of_units.iter().any(|role| role == name) {
                listeners.push((of_unit(name), passing.pass(listener)?));
            }
        }
        let lock = parts.life.lock.as_ref().map(|lock| passing.pass(lock.as_fd())).transpose()?;
        let uptime = parts.sources.started.elapsed().as_millis();
        Ok(State {
            version: VERSION.to_owned(),
            programs,
            lock,
            listeners,
            fleet,
            configuration: parts.reloader.text.clone(),
            instance_id: parts.life.instance.as_u128(),
            uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
            counters: Vec::new(),
            series: 0,
        })
    }
}
