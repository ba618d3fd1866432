//! Replaces the identity while everything runs: carries out what `bundle/rotation.rs` and `renewal.rs` decide.
//!
//! ```text
//! files (bundle/watch) ─► judged (bundle/candidate) ─┐
//! renewal due ─► POST /dp/rotate-cert ─► judged ─────┴─► proved by a heartbeat ─► kept on disk ─► in force
//! ```
//!
//! Until the last step nothing has changed for anybody. With it, every session sees the new identity at once, lets what is
//! on the way finish, and dials anew; a heartbeat goes out. Whatever goes wrong is told once in the log, counted, and
//! shown until it is over.

mod ask;
mod files;
mod order;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info};

use self::files::Files;
pub use self::order::{Asked, ORDERS_MAX};
use super::heartbeat::Author;
use super::manager::{Manager, ManagerError};
use super::renewal::{Hints, Mode, Renewal, Request};
use super::rotation_report::ReportCell;
use super::tls::InForce;
use crate::backoff::chance;
use crate::bundle::candidate::Reading;
use crate::bundle::check::date;
use crate::bundle::rotation::{Action, By, Candidate, Input, Rotation};
use crate::bundle::{Bundle, unix};
use crate::findings::{Findings, Topic};
use crate::settings::Managed;
use crate::state::seal::DataKey;

/// A disk that takes longer than this to keep a bundle is left behind: the bundle comes into force all the same.
const KEEP_LIMIT: Duration = Duration::from_secs(10);
/// How often a bundle that could not be kept is tried again, and the certificate's dates are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

type Work<T> = Pin<Box<dyn Future<Output = T>>>;

/// What a rotation needs.
pub struct Parts {
    /// Where the bundle comes from and where it is kept.
    pub managed: Managed,
    /// Is wrapped anew under each new key.
    pub data_key: DataKey,
    /// What is in force.
    pub in_force: watch::Sender<Arc<InForce>>,
    /// How to get to the Cloud.
    pub manager: Manager,
    /// Writes the heartbeat that proves a new identity.
    pub author: Rc<Author>,
    /// Asks for a heartbeat now.
    pub nudge: Arc<Notify>,
    /// What the Cloud wishes.
    pub hints: watch::Receiver<Hints>,
    /// Orders to renew the certificate now.
    pub orders: mpsc::Receiver<Asked>,
    /// Where trouble is shown.
    pub findings: Findings,
    /// Where the rest is shown.
    pub report: ReportCell,
}

struct Rotator {
    parts: Parts,
    /// What is in force, kept here so that nobody else need look it up.
    bundle: Bundle,
    rotation: Rotation,
    renewal: Renewal,
    files: Files,
    proof: Option<Work<Result<(), ManagerError>>>,
    request: Option<Work<(Request, Result<Bytes, ManagerError>)>>,
    /// Who waits to be told what comes of the renewal under way; at most [`ORDERS_MAX`].
    waiting: Vec<oneshot::Sender<order::Outcome>>,
    /// What the Cloud said of the certificate that it has just renewed.
    rotate_before: Option<i64>,
    /// The candidate's refusal has been counted.
    is_refusal_counted: bool,
    /// What is wrong with the renewal.
    renewal_trouble: Option<String>,
    /// The disk does not have what is in force, and is tried again at this time.
    unkept: Option<Instant>,
    /// Held by whoever writes to the disk: one that is left behind may still do so.
    keeping: Arc<Mutex<()>>,
    /// What is wrong with the state directory since the start.
    lasting: Vec<String>,
    /// Why the disk does not have what is in force.
    unkept_why: Option<String>,
    /// What is wrong with the dates of the certificate in force.
    dates: Option<String>,
}

/// Runs until it is dropped.
pub async fn run(parts: Parts, bundle: Bundle, mut readings: mpsc::Receiver<Reading>) {
    let mut rotator = Rotator::new(parts, bundle);
    loop {
        rotator.tick().await;
        let wake_at = rotator.wake_at();
        tokio::select! {
            Some(reading) = readings.recv() => rotator.take_in(reading).await,
            result = done(&mut rotator.proof) => rotator.proved(result).await,
            (request, answer) = done(&mut rotator.request) => rotator.answered(&request, answer).await,
            Some(asked) = rotator.parts.orders.recv() => rotator.ordered(asked),
            Ok(()) = rotator.parts.hints.changed() => {
                let hints = *rotator.parts.hints.borrow_and_update();
                rotator.renewal.told(hints, unix(SystemTime::now()), chance());
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

/// The result of work under way; never, where there is none.
async fn done<T>(work: &mut Option<Work<T>>) -> T {
    match work {
        Some(under_way) => {
            let result = under_way.await;
            *work = None;
            result
        }
        None => std::future::pending().await,
    }
}

impl Rotator {
    fn new(parts: Parts, bundle: Bundle) -> Self {
        let (from, until) = (bundle.not_before_unix, bundle.not_after_unix);
        let renewal = Renewal::new(parts.managed.renew_certificate, from, until, chance());
        Self {
            keeping: Arc::default(),
            lasting: bundle.lasting.clone(),
            // The data key is not on disk either: everything sealed from now on would be lost.
            unkept: bundle.unkept.is_some().then(Instant::now),
            unkept_why: bundle.unkept.clone(),
            dates: None,
            parts,
            bundle,
            rotation: Rotation::default(),
            renewal,
            files: Files::default(),
            proof: None,
            request: None,
            waiting: Vec::new(),
            rotate_before: None,
            is_refusal_counted: false,
            renewal_trouble: None,
        }
    }

    fn wake_at(&self) -> Instant {
        let latest = Instant::now() + LOOK_INTERVAL;
        let retry = self.rotation.wake_at().map_or(latest, Instant::from_std);
        // By the wall clock, which may be set meanwhile: looked at again and again.
        let left = self.renewal.at().map(|at| at.saturating_sub(unix(SystemTime::now())));
        let is_free = self.rotation.may_renew() && self.request.is_none();
        let renewal = left.filter(|_| is_free).map(|left| {
            Instant::now()
                + Duration::from_secs(left.clamp(0, LOOK_INTERVAL.as_secs() as i64) as u64)
        });
        latest.min(retry).min(renewal.unwrap_or(latest))
    }

    /// What time alone brings about.
    async fn tick(&mut self) {
        self.step(Input::Tick).await;
        let now = unix(SystemTime::now());
        let is_due = self.renewal.at().is_some_and(|at| at <= now);
        if is_due && self.rotation.may_renew() && self.request.is_none() {
            self.ask();
        }
        self.look_at_dates(now);
        if self.unkept.is_some_and(|again_at| again_at <= Instant::now()) {
            self.keep().await;
        }
        let is_waiting = !self.rotation.is_idle();
        self.parts.report.planned(self.renewal.mode(), self.renewal.at(), is_waiting);
    }

    async fn step(&mut self, input: Input) {
        let rotation = std::mem::take(&mut self.rotation);
        let (rotation, action) = rotation.step(input, Instant::now().into_std(), chance());
        self.rotation = rotation;
        match action {
            None => {}
            Some(Action::Prove(candidate)) => self.prove(&candidate),
            Some(Action::Commit(candidate)) => self.commit(*candidate).await,
            Some(Action::GiveUp) => {
                // It may have taken the place of a bundle of the files, which is offered again.
                self.files.offered = None;
                self.renewal.failed(unix(SystemTime::now()), chance());
            }
            Some(Action::Drop) => self.proof = None,
        }
    }

    async fn offer(&mut self, bundle: Bundle, by: By) {
        self.is_refusal_counted = false;
        self.step(Input::Offer(Box::new(Candidate { bundle, by }))).await;
    }

    async fn commit(&mut self, candidate: Candidate) {
        let Candidate { bundle, by } = candidate;
        let in_force = match InForce::new(bundle.clone()) {
            Ok(in_force) => in_force,
            Err(error) => return error!(%error, "a proved bundle cannot be used"),
        };
        self.bundle = bundle;
        (self.unkept, self.unkept_why) = (None, None);
        // Kept before anybody uses it: a start after a kill has what the Cloud has seen.
        self.keep().await;
        self.parts.in_force.send_replace(Arc::new(in_force));
        self.parts.nudge.notify_one();
        let bundle = &self.bundle;
        info!(
            dp_id = bundle.dp_id.as_deref().unwrap_or("(none)"),
            origin = %bundle.origin,
            valid_until = date(bundle.not_after_unix),
            fingerprint = bundle.fingerprint(),
            "certificate bundle replaced"
        );
        let now = unix(SystemTime::now());
        self.parts.report.rotated(by, now);
        let rotate_before = self.rotate_before.take().filter(|_| by == By::Cloud);
        let (from, until) = (bundle.not_before_unix, bundle.not_after_unix);
        self.renewal.replaced(from, until, rotate_before, now, chance());
        match by {
            By::Files => {
                self.files.settled = self.files.offered.take().or(self.files.settled.take());
                self.files.trouble = None;
            }
            // What the files offer is judged anew, beside what is in force now.
            By::Cloud => self.files.offered = None,
        }
        if by == By::Cloud {
            let until = date(self.bundle.not_after_unix);
            self.outcome(&Ok(format!("the certificate is renewed, valid until {until}")));
        }
        self.renewal_trouble = None;
        self.tell();
        self.look_at_dates(now);
    }

    /// Writes the bundle in force to disk. Without that it is in force all the same.
    async fn keep(&mut self) {
        let (bundle, managed) = (self.bundle.clone(), self.parts.managed.clone());
        let data_key = self.parts.data_key.clone();
        let kept = match Arc::clone(&self.keeping).try_lock_owned() {
            Ok(alone) => {
                let kept = spawn_blocking(move || {
                    let _alone = alone;
                    bundle.keep(&managed, &data_key).map_err(|error| error.to_string())
                });
                match timeout(KEEP_LIMIT, kept).await {
                    Ok(Ok(kept)) => kept,
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("the disk has not answered within {KEEP_LIMIT:?}")),
                }
            }
            Err(_) => Err("the disk is still busy with an earlier attempt".to_owned()),
        };
        (self.unkept, self.unkept_why) = match kept {
            Ok(()) => (None, None),
            Err(error) => {
                let folder = self.parts.managed.state_dir().display();
                let why = format!(
                    "the bundle in force is not kept, the next start would use an older one: {error}; make {folder} writable"
                );
                (Some(Instant::now() + LOOK_INTERVAL), Some(why))
            }
        };
        self.tell_certificate();
    }

    /// Shows what is wrong with the bundle in force, all of it together, or that nothing is.
    fn tell_certificate(&self) {
        let known = self.bundle.findings.iter().chain(&self.lasting);
        let text: Vec<_> =
            known.chain(&self.unkept_why).chain(&self.dates).map(String::as_str).collect();
        if text.is_empty() {
            self.parts.findings.settled(Topic::Certificate);
        } else {
            self.parts.findings.found(Topic::Certificate, text.join("; "));
        }
    }

    /// Shows what is wrong with rotation, or that nothing is.
    fn tell(&self) {
        let troubles = [&self.files.trouble, &self.renewal_trouble];
        let text: Vec<_> = troubles.into_iter().flatten().map(String::as_str).collect();
        if text.is_empty() {
            self.parts.findings.settled(Topic::Rotation);
        } else {
            self.parts.findings.found(Topic::Rotation, text.join("; "));
        }
    }

    /// Whether the certificate has expired, or will and nobody renews it.
    fn look_at_dates(&mut self, now: i64) {
        let (from, until) = (self.bundle.not_before_unix, self.bundle.not_after_unix);
        let is_near = until.saturating_sub(now) < until.saturating_sub(from) / 6;
        self.dates = if now > until {
            Some(format!(
                "the certificate in force expired on {}; traffic is served, the Cloud may refuse everything else: {}",
                date(until),
                self.parts.report.remedy()
            ))
        } else if is_near && self.renewal.mode() != Mode::Auto {
            Some(format!(
                "the certificate in force expires on {} and the Cloud does not renew it ({}): {}",
                date(until),
                self.renewal.mode().name(),
                self.parts.report.remedy()
            ))
        } else {
            None
        };
        self.tell_certificate();
    }
}
