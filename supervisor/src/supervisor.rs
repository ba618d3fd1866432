//! Owns the parts and runs the one event loop of the supervisor.
//!
//! Nothing in the loop waits: what takes time (a page, a heartbeat, an upload, decoding a projection) is a task or a thread
//! of its own that reports back here.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::id::{Revision, Role, WorkerId};
use shared::message::{Page, ToWorker};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::awake::Awake;
use crate::changes::Changes;
use crate::cloud::budget::Budgets;
use crate::cloud::spend::SpendSink;
use crate::findings::Topic;
use crate::fleet::{Event, Fleet, Happening, Unconfined};
use crate::metrics::{Collector, WorkerFacts};
use crate::pages::{self, Sources};
use crate::projection::{Reload, Update};
use crate::reload::Reloader;
use crate::shutdown::{Limits, Order, Running, Stage};
use crate::spool::Report;
use crate::spool::ring_file::RingFile;

/// How often the log tells what the end still waits for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last usage events may take to reach the Cloud.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// How long helpers may take to leave; they are killed, so only a machine in trouble needs any of it.
const HELPERS_LIMIT: Duration = Duration::from_secs(2);
/// Pages that may be in the making: as many as the status worker has connections. It asks for more only if it was taken
/// over.
const PAGES_MAX: usize = 256;
/// Pages made at a time.
const PAGES_AT_ONCE: usize = 1;

/// What the supervisor is made of.
pub struct Parts {
    /// The workers.
    pub fleet: Fleet,
    /// What their tasks report.
    pub events: mpsc::Receiver<Event>,
    /// What the spool reports.
    pub spool_reports: mpsc::UnboundedReceiver<Report>,
    /// Who is told of what requests have cost.
    pub spend: Option<Arc<dyn SpendSink>>,
    /// Changes of configuration, validated.
    pub updates: mpsc::Receiver<Update>,
    /// Where pages take their content from, usage and metrics among them.
    pub sources: Sources,
    /// The revision that every worker serves, for the heartbeat.
    pub applied: Rc<Cell<Option<Revision>>>,
    /// Asks for a heartbeat now.
    pub nudge: Arc<Notify>,
    /// How the gateway ends.
    pub limits: Limits,
    /// Told when the first configuration, if one was kept, is among the updates.
    pub begun: Arc<Notify>,
    /// Has the resources file read again; `None` where resources do not come from a file.
    pub reload: Option<Reload>,
    /// Reads the settings again.
    pub reloader: Reloader,
}

/// Why the supervisor ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker is not as confined as it must be.
    #[error(transparent)]
    Unconfined(#[from] Unconfined),
    /// Signals cannot be received.
    #[error("cannot listen to signals: {0}")]
    Signals(#[source] io::Error),
}

/// A page that was made for the status worker.
type MadePage = (WorkerId, u64, ToWorker, OwnedFd);

/// The running supervisor. Its time is that of [`Awake`].
pub struct Supervisor {
    pub(crate) parts: Parts,
    awake: Awake,
    pub(crate) changes: Changes,
    stage: Stage,
    was_ready: bool,
    /// What was kept is in force: workers may be welcomed.
    begun: bool,
    /// The workers are behind and have to be sent the whole configuration.
    pub(crate) owed: bool,
    progress_at: Instant,
    pages: mpsc::Sender<MadePage>,
    page_turns: Rc<Semaphore>,
    pages_in_making: Rc<Cell<usize>>,
}

/// Runs until a signal has ended everything in order.
pub async fn run(parts: Parts) -> Result<(), RunError> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (pages, mut made) = mpsc::channel(PAGES_MAX);
    let quarantine = parts.sources.projection.quarantine().clone();
    let mut supervisor = Supervisor {
        changes: Changes::new(quarantine, parts.sources.findings.clone()),
        parts,
        awake: Awake::new(Instant::now()),
        stage: Stage::Running,
        was_ready: false,
        begun: false,
        owed: false,
        progress_at: Instant::now(),
        pages,
        page_turns: Rc::new(Semaphore::new(PAGES_AT_ONCE)),
        pages_in_making: Rc::default(),
    };
    while supervisor.stage != Stage::Done {
        supervisor.tick();
        let wake_at = supervisor.wake_at();
        tokio::select! {
            // A worker that served before would refuse every caller.
            () = supervisor.parts.begun.notified(), if !supervisor.begun => supervisor.begin(),
            Some(event) = supervisor.parts.events.recv(), if supervisor.begun => {
                supervisor.handle(event)?;
            }
            Some(report) = supervisor.parts.spool_reports.recv() => supervisor.spooled(report),
            // While one is tried the next ones wait, and whoever reads the store stops when too many do.
            Some(update) = supervisor.parts.updates.recv(), if supervisor.changes.is_free() => {
                supervisor.take_in(update);
            }
            Some((worker, request, page, body)) = made.recv() => {
                supervisor.parts.fleet.answer(worker, request, page, body);
            }
            _ = terminate.recv() => supervisor.signalled("SIGTERM"),
            _ = interrupt.recv() => supervisor.signalled("SIGINT"),
            _ = hangup.recv() => drop(supervisor.reload()),
            () = news(supervisor.parts.sources.budgets.as_ref()) => supervisor.tell_budgets(),
            () = sleep_until(wake_at.into()) => {}
        }
        supervisor.advance();
    }
    let deadline = tokio::time::Instant::now() + FLUSH_LIMIT;
    let telemetry = &mut supervisor.parts.sources.telemetry;
    let left = telemetry.flush(deadline).await;
    let unwritten = telemetry.report().spool.unwritten;
    match left.saturating_sub(unwritten) {
        0 if unwritten == 0 => info!("ended in order"),
        0 => {}
        kept => warn!("ended; {kept} usage events wait in the spool for the next start"),
    }
    if unwritten > 0 {
        error!(
            "ended; {unwritten} usage events could neither be sent nor written, and are lost but for those that are still in the rings of workers: look at the disk that the spool is on"
        );
    }
    supervisor.end_helpers().await;
    // After the last delivery, which decides what the Cloud knows of.
    if let Some(budgets) = &supervisor.parts.sources.budgets {
        budgets.keep();
    }
    Ok(())
}

/// Returns when there are budget verdicts to tell.
async fn news(budgets: Option<&Budgets>) {
    match budgets {
        Some(budgets) => budgets.changed().await,
        None => std::future::pending().await,
    }
}

fn listen(kind: SignalKind) -> Result<Signal, RunError> {
    signal(kind).map_err(RunError::Signals)
}

impl Supervisor {
    /// The time, without the pauses of this process.
    pub(crate) fn now(&mut self) -> Instant {
        self.awake.at(Instant::now())
    }

    /// How far the end has come.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    fn wake_at(&self) -> Instant {
        let fleet = self.parts.fleet.next_tick();
        let others = [self.stage.wake_at(), self.changes.next_tick()];
        self.awake.real(others.into_iter().flatten().fold(fleet, Instant::min))
    }

    /// Helpers go last: the final upload needed them.
    async fn end_helpers(&mut self) {
        let deadline = tokio::time::Instant::now() + HELPERS_LIMIT;
        let now = self.now();
        for role in Role::HELPERS {
            self.parts.fleet.drain(role, Some(now), now);
        }
        while Role::HELPERS.iter().any(|role| self.parts.fleet.running(*role) > 0) {
            let now = self.now();
            self.parts.fleet.tick(now, &mut Vec::new());
            match tokio::time::timeout_at(deadline, self.parts.events.recv()).await {
                Ok(Some(event)) => drop(self.handle(event)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn begin(&mut self) {
        self.begun = true;
        while self.changes.is_free()
            && let Ok(update) = self.parts.updates.try_recv()
        {
            self.take_in(update);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.owed
            && let Ok(Some(whole)) = self.changes.configuration().whole()
        {
            self.owed = false;
            self.parts.fleet.deliver(&whole, None);
        }
        let orders = self.changes.tick(&self.parts.fleet.proxies(), now);
        self.obey(orders, now);
        let mut happenings = Vec::new();
        self.parts.fleet.tick(now, &mut happenings);
        self.act(happenings, now);
    }

    fn handle(&mut self, event: Event) -> Result<(), Unconfined> {
        let now = self.now();
        let budgets = self.parts.sources.budgets.as_ref();
        let configuration = self.changes.configuration();
        let happenings = self.parts.fleet.handle(event, configuration, budgets, now)?;
        self.act(happenings, now);
        Ok(())
    }

    fn act(&mut self, happenings: Vec<Happening>, now: Instant) {
        self.note_applied();
        for happening in happenings {
            match happening {
                Happening::Usage(id, last) => self.parts.sources.telemetry.spool().told(id, last),
                Happening::Ring(id, ring, reason) => self.open_ring(id, ring, reason),
                Happening::KeysInUse(keys) => {
                    if let Some(budgets) = &self.parts.sources.budgets {
                        budgets.used(&keys);
                    }
                }
                Happening::Started(id, memory) => self.collector(|c| c.worker_started(id, memory)),
                // Nobody dials through it yet.
                Happening::Egress(_) => {}
                Happening::Gone(id) => {
                    self.parts.sources.telemetry.spool().gone(id);
                    self.collector(|c| c.worker_gone(id));
                }
                Happening::Series(id, series) => {
                    let taken = self.parts.sources.collector.borrow_mut().announce(id, series);
                    if let Err(reason) = taken {
                        warn!(worker = %id, "metric series refused: {reason}");
                        self.parts.fleet.misbehaved(id, now);
                    }
                }
                Happening::Fetch(id, ..) if self.pages_in_making.get() >= PAGES_MAX => {
                    warn!(worker = %id, "too many pages asked for at once");
                    self.parts.fleet.misbehaved(id, now);
                }
                Happening::Fetch(id, page, request) => self.make_page(id, page, request),
                Happening::Serving => {
                    let orders = self.changes.serving(&self.parts.fleet.proxies(), now);
                    self.obey(orders, now);
                    self.tell_if_ready();
                }
                Happening::Applied(id, revision) => self.changes.applied(id, revision),
                Happening::Answered(id) => {
                    let orders = self.changes.answered(id, now);
                    self.obey(orders, now);
                }
                Happening::Died(id, death) => {
                    let serving = self.parts.fleet.proxies();
                    let orders = self.changes.died(id, death, &serving, now);
                    self.obey(orders, now);
                }
                Happening::Refused => self.parts.nudge.notify_one(),
                Happening::Replaced(done) => self.replaced(done),
            }
        }
    }

    fn open_ring(&self, id: WorkerId, ring: RingFile, reason: Option<String>) {
        if let Some(reason) = reason {
            self.parts.sources.findings.found(
                Topic::Spool,
                format!("the usage ring of a worker is memory, and lost if this process is killed: no file could be made: {reason}; make room, and the folder ours"),
            );
        }
        self.parts.sources.telemetry.spool().open(id, ring);
    }

    fn spooled(&mut self, report: Report) {
        match report {
            Report::Taken(id, sequence) => {
                self.parts.fleet.tell(id, ToWorker::UsageTaken(sequence));
            }
            Report::Misbehaved(id, reason) => {
                warn!(worker = %id, "a worker's usage cannot be taken: {reason}");
                let now = self.now();
                self.parts.fleet.misbehaved(id, now);
            }
            Report::Spent(sums) => {
                for (key, cost_usd) in &sums {
                    self.parts.spend.iter().for_each(|sink| sink.spent(key, *cost_usd));
                }
            }
        }
    }

    fn collector(&self, change: impl FnOnce(&mut Collector)) {
        change(&mut self.parts.sources.collector.borrow_mut());
    }

    /// What every worker serves may have changed. While none serves, the last answer stays.
    fn note_applied(&self) {
        let applied = self.parts.fleet.applied();
        if applied.is_some() && applied != self.parts.applied.get() {
            let first = self.parts.applied.replace(applied).is_none();
            if first {
                info!(revision = %applied.unwrap_or_default(), "configuration in force");
                // Later revisions wait for the next beat: one beat each would cost more than the change.
                self.parts.nudge.notify_one();
            }
        }
    }

    fn tell_if_ready(&mut self) {
        if !self.was_ready && self.parts.fleet.is_complete() {
            self.was_ready = true;
            for worker in self.parts.fleet.summaries() {
                if !worker.missing.is_empty() {
                    warn!(worker = %worker.id, role = %worker.role,
                        "not fully confined: {:?}", worker.missing);
                }
            }
            let state = match self.parts.applied.get() {
                Some(revision) => format!("serving revision {revision}"),
                None => "waiting for the first configuration".to_owned(),
            };
            info!("ready: every worker accepts connections, {state}");
        }
    }

    /// Verdicts that changed go to every worker at once; those that cannot be handed over now go with the next.
    fn tell_budgets(&mut self) {
        let Some(budgets) = &self.parts.sources.budgets else { return };
        match budgets.news() {
            Ok(Some(memory)) => self.parts.fleet.tell_budgets(&Rc::new(memory)),
            Ok(None) => {}
            Err(error) => error!(%error, "cannot hand budget verdicts to the workers"),
        }
    }

    fn make_page(&self, id: WorkerId, page: Page, request: u64) {
        let (sources, pages) = (self.parts.sources.clone(), self.pages.clone());
        let applied = self.parts.applied.get();
        let fleet = &self.parts.fleet;
        let workers = Role::ALL
            .into_iter()
            .map(|role| WorkerFacts {
                role,
                up: fleet.serving(role) as u64,
                restarts: fleet.restarts(role),
            })
            .collect();
        let (turns, in_making) = (Rc::clone(&self.page_turns), Rc::clone(&self.pages_in_making));
        in_making.set(in_making.get() + 1);
        tokio::task::spawn_local(async move {
            let _turn = turns.acquire().await;
            match pages::make(page, &sources, applied, workers).await {
                // The loop has ended if nobody takes it.
                Ok((answer, body)) => drop(pages.send((id, request, answer, body)).await),
                Err(error) => warn!(?page, %error, "cannot make a status page"),
            }
            in_making.set(in_making.get().saturating_sub(1));
        });
    }

    fn signalled(&mut self, name: &str) {
        let now = self.now();
        let (stage, order) = self.stage.signalled(self.parts.limits, now);
        if order.is_some() {
            info!("{name}: ending; health routes answer 503 from now on");
        }
        self.stage = stage;
        self.carry_out(order);
    }

    /// Takes the end as far as it will go now.
    fn advance(&mut self) {
        if self.stage == Stage::Running {
            return;
        }
        let now = self.now();
        loop {
            let running = Running {
                proxies: self.parts.fleet.running(Role::Proxy),
                statuses: self.parts.fleet.running(Role::Status),
                idle: self.parts.fleet.is_idle(),
            };
            let (stage, order) = self.stage.step(running, self.parts.limits, now);
            let moved = stage != self.stage;
            if matches!((self.stage, stage), (Stage::Announced { .. }, Stage::Finishing { .. })) {
                self.progress_at = now + PROGRESS_INTERVAL;
            }
            self.stage = stage;
            self.carry_out(order);
            if !moved {
                break;
            }
        }
        if matches!(self.stage, Stage::Finishing { .. }) && now >= self.progress_at {
            self.progress_at = now + PROGRESS_INTERVAL;
            let in_flight = self.parts.fleet.in_flight();
            info!("waiting for {in_flight} requests in flight");
        }
    }

    fn carry_out(&mut self, order: Option<Order>) {
        match order {
            None => {}
            Some(Order::Retire) => self.parts.fleet.retire(),
            Some(Order::Ask) => self.parts.fleet.ask(),
            Some(Order::Drain(role, deadline)) => {
                let now = self.now();
                self.parts.fleet.drain(role, deadline, now);
            }
        }
    }
}
