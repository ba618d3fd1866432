//! Owns the parts and runs the one event loop of the supervisor.
//!
//! Nothing in the loop waits: what takes time (a page, a heartbeat, an upload, decoding a projection) is a task or a thread
//! of its own that reports back here.

mod ending;
mod hand_over;
mod orders;
mod reports;
mod upgrade;
mod usage;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use shared::egress::Resolver;
use shared::egress::client::EgressDial;
use shared::id::{Revision, Role, WorkerId};
use shared::message::ToWorker;
use shared::resource::Endpoint;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::awake::Awake;
use crate::changes::Changes;
use crate::cloud::budget::Budgets;
use crate::cloud::rotate;
use crate::cloud::spend::SpendSink;
use crate::control::Asked;
use crate::egress_watch::{EgressWatch, News};
use crate::findings::Topic;
use crate::fleet::{Event, Fleet, Happening, Unconfined};
use crate::handover::exec::Prepared;
use crate::handover::record::RecordError;
use crate::listener_tls;
use crate::log;
use crate::metrics::Collector;
use crate::pages::Sources;
use crate::process::{forget_program, signals};
use crate::projection::{Reload, Update};
use crate::reload::Reloader;
use crate::sandbox_report;
use crate::shutdown::{Limits, Stage};
use crate::spool::Report;
use crate::systemd::Notifier;

pub use self::upgrade::Life;
use self::upgrade::Upgrade;

/// Pages that may be in the making: as many as the status worker has connections. It asks for more only if it was taken
/// over.
const PAGES_MAX: usize = 256;
/// Pages made at a time.
const PAGES_AT_ONCE: usize = 1;

pub use self::orders::About;

/// What the supervisor is made of.
pub struct Parts {
    /// The workers.
    pub fleet: Fleet,
    /// Makes the connections of the supervisor.
    pub egress: EgressDial,
    /// The files that names are resolved with, whenever they have changed.
    pub resolver_changes: mpsc::Receiver<Resolver>,
    /// What their tasks report.
    pub events: mpsc::Receiver<Event>,
    /// What the spool reports.
    pub spool_reports: mpsc::UnboundedReceiver<Report>,
    /// Who is told of what requests have cost.
    pub spend: Option<Arc<dyn SpendSink>>,
    /// Changes of configuration, validated.
    pub updates: mpsc::Receiver<Update>,
    /// Where Bedrock is for provider keys that do not say it.
    pub bedrock_endpoint: Option<Endpoint>,
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
    /// What is ordered over the control socket.
    pub orders: mpsc::Receiver<Asked>,
    /// Has the certificate renewed now; `None` without a Cloud.
    pub rotate: Option<mpsc::Sender<rotate::Asked>>,
    /// What this gateway is all its life.
    pub about: About,
    /// What is to be done about the listener's certificate; `None` where callers speak no TLS.
    pub listener_tls: Option<mpsc::Receiver<listener_tls::Order>>,
    /// Has the resources file read again; `None` where resources do not come from a file.
    pub reload: Option<Reload>,
    /// Reads the settings again.
    pub reloader: Reloader,
    /// How another program takes over, and what this one has taken over itself.
    pub life: Life,
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
    /// Another program was to take over, and its state could not be written.
    #[error("cannot hand over: {0}")]
    HandOver(#[from] RecordError),
}

/// What comes after the event loop.
#[derive(Debug)]
pub enum Ended {
    /// Nothing.
    InOrder,
    /// Another program, in this process.
    HandedOver(Box<Prepared>),
}

/// A page that was made for the status worker.
type MadePage = (WorkerId, u64, ToWorker, OwnedFd);

/// The running supervisor. Its time is that of [`Awake`].
pub struct Supervisor {
    pub(crate) parts: Parts,
    sandbox: sandbox_report::Report,
    awake: Awake,
    pub(crate) changes: Changes,
    stage: Stage,
    was_ready: bool,
    /// What was kept is in force: workers may be welcomed.
    begun: bool,
    /// The workers are behind and have to be sent the whole configuration.
    pub(crate) owed: bool,
    progress_at: Instant,
    egress_watch: EgressWatch,
    pages: mpsc::Sender<MadePage>,
    page_turns: Rc<Semaphore>,
    pages_in_making: Rc<Cell<usize>>,
    pub(crate) notifier: Notifier,
    upgrade: Upgrade,
}

/// Runs until a signal has ended everything in order.
pub async fn run(parts: Parts) -> Result<Ended, RunError> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut upgrade = listen(SignalKind::user_defined2())?;
    let mut child = listen(SignalKind::child())?;
    signals::release();
    let (pages, mut made) = mpsc::channel(PAGES_MAX);
    let quarantine = parts.sources.projection.quarantine().clone();
    let sandbox = sandbox_report::Report::new(parts.about.sandbox, &parts.sources.findings);
    let (checks, mut checked) = mpsc::channel(1);
    let now = Instant::now();
    let mut supervisor = Supervisor {
        changes: Changes::new(quarantine, parts.sources.findings.clone()),
        parts,
        sandbox,
        awake: Awake::new(now),
        stage: Stage::Running,
        was_ready: false,
        begun: false,
        owed: false,
        progress_at: Instant::now(),
        egress_watch: EgressWatch::default(),
        pages,
        page_turns: Rc::new(Semaphore::new(PAGES_AT_ONCE)),
        pages_in_making: Rc::default(),
        notifier: Notifier::new(now),
        upgrade: Upgrade::new(checks, now),
    };
    supervisor.take_over();
    // What was counted before us is among the counters now.
    supervisor.parts.sources.history.start();
    while supervisor.stage != Stage::Done {
        supervisor.tick();
        supervisor.notify();
        if let Some(target) = supervisor.upgrade.target.take() {
            let ended = supervisor.hand_over(target, &mut made).await;
            // What came meanwhile was taken by handlers that end with this image.
            for (heard, kind) in [
                (&mut terminate, SignalKind::terminate()),
                (&mut interrupt, SignalKind::interrupt()),
                (&mut hangup, SignalKind::hangup()),
            ] {
                if heard.recv().now_or_never().flatten().is_some() {
                    signals::leave_to_the_next(kind.as_raw_value());
                }
            }
            return ended;
        }
        let wake_at = supervisor.wake_at();
        tokio::select! {
            // A worker that served before would refuse every caller.
            () = supervisor.parts.begun.notified(), if !supervisor.begun => supervisor.begin(),
            Some(event) = supervisor.parts.events.recv(), if supervisor.begun => {
                let handled = supervisor.handle(event);
                supervisor.go_back_if(handled)?;
            }
            Some(report) = supervisor.parts.spool_reports.recv() => supervisor.spooled(report),
            // While one is tried the next ones wait, and whoever reads the store stops when too many do.
            Some(update) = supervisor.parts.updates.recv(), if supervisor.changes.is_free() => {
                supervisor.take_in(update);
            }
            Some(files) = supervisor.parts.resolver_changes.recv() => {
                supervisor.parts.fleet.resolver_changed(files);
            }
            Some((worker, request, page, body)) = made.recv() => {
                supervisor.parts.fleet.answer(worker, request, page, body);
            }
            _ = terminate.recv() => supervisor.signalled("SIGTERM"),
            _ = interrupt.recv() => supervisor.signalled("SIGINT"),
            _ = hangup.recv() => drop(supervisor.reload()),
            _ = upgrade.recv() => supervisor.upgrade(None),
            Some(checked) = checked.recv() => supervisor.checked(checked),
            _ = child.recv() => supervisor.reap(),
            Some(asked) = supervisor.parts.orders.recv() => supervisor.ordered(asked),
            order = next(supervisor.parts.listener_tls.as_mut()) => {
                supervisor.parts.fleet.hand_over_tls(order);
            }
            () = news(supervisor.parts.sources.budgets.as_ref()) => supervisor.tell_budgets(),
            () = sleep_until(wake_at.into()) => {}
        }
        supervisor.advance();
    }
    supervisor.finish().await;
    Ok(Ended::InOrder)
}

/// Returns when there are budget verdicts to tell.
async fn news(budgets: Option<&Budgets>) {
    match budgets {
        Some(budgets) => budgets.changed().await,
        None => std::future::pending().await,
    }
}

/// Returns what is to be done about the listener's certificate.
async fn next(orders: Option<&mut mpsc::Receiver<listener_tls::Order>>) -> listener_tls::Order {
    if let Some(orders) = orders
        && let Some(order) = orders.recv().await
    {
        return order;
    }
    std::future::pending().await
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
        let others = [self.stage.wake_at(), self.changes.next_tick(), self.upgrade_wake_at()];
        let next = self.awake.real(others.into_iter().flatten().fold(fleet, Instant::min));
        self.notifier.wake_at().map_or(next, |notify| next.min(notify))
    }

    fn begin(&mut self) {
        self.begun = true;
        self.parts.fleet.hear();
        while self.changes.is_free()
            && let Ok(update) = self.parts.updates.try_recv()
        {
            self.take_in(update);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        log::tick(Instant::now());
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
        self.look_at_redis();
        self.look_at_overload();
        let serves = !self.begun || self.parts.fleet.serving(Role::Egress) > 0;
        let findings = &self.parts.sources.findings;
        match self.egress_watch.look(serves, now) {
            None => {}
            Some(News::Back) => findings.settled(Topic::Egress),
            Some(News::Missing) => findings.found(
                Topic::Egress,
                "the egress worker is not there: no new connection is made, to providers or to the Cloud, while those that are open go on; the log says why it ended",
            ),
        }
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
                Happening::Egress(channel) => self.parts.egress.reached_over(channel),
                Happening::Adopted(id, ring, place, told) => {
                    self.parts.sources.telemetry.spool().adopt(id, ring, place, told);
                }
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
                    self.note_sandbox();
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
                Happening::Exporters => self.note_exporters(),
                Happening::Refused => self.parts.nudge.notify_one(),
                Happening::Replaced(done) => self.replaced(done),
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
            if let Some(revision) = applied {
                let propagation = self.parts.sources.projection.propagation();
                propagation.served(revision.0, Instant::now());
            }
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
            let state = match self.parts.applied.get() {
                Some(revision) => format!("serving revision {revision}"),
                None => "waiting for the first configuration".to_owned(),
            };
            info!("ready: every worker accepts connections, {state}");
            forget_program();
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
}
