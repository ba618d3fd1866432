//! The log of the whole gateway: what this process says, and what its workers write, in one form and in one place.
//!
//! 1. Under systemd the journal gets every line with its fields (`journal`), a terminal gets text for people, a container
//!    JSON, everything else text on standard error (`form`, `render`); `observability.log_format` decides otherwise.
//! 2. Role, worker, process and time of a line are this process's words. A worker's own are its message and its fields.
//! 3. A failure that is repeated is told once, then summarised (`repeats`); a line of another level always is told.
//! 4. Nothing here waits for long: what a full pipe or a busy journal does not take is dropped, counted and told (`outlet`).
//! 5. What is logged can be changed while the gateway runs (`directives`), in the workers too: see [`Change`].

mod alike;
pub mod directives;
mod form;
mod journal;
mod outlet;
mod render;
mod repeats;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use shared::id::{Role, WorkerId};
use shared::log_line::{Level, Line};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::form::Around;
use self::journal::Journal;
use self::outlet::Outlet;

pub use self::alike::Alike;
pub use self::directives::FilterError;
pub use self::form::{Form, is_container};
pub use self::outlet::Telling;
pub use self::repeats::Repeats;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// What the worker is for; `None` = this process.
    pub worker: Option<(Role, WorkerId)>,
    /// Its process.
    pub pid: i32,
}

impl Speaker {
    /// This process.
    fn own() -> Self {
        Self { worker: None, pid: i32::try_from(std::process::id()).unwrap_or_default() }
    }

    /// What it is for.
    fn role(&self) -> &'static str {
        self.worker.map_or("supervisor", |(role, _)| role.name())
    }

    /// What stands before its lines.
    fn prefix(&self) -> String {
        self.worker.map(|(role, id)| format!("{role}[{id}] ")).unwrap_or_default()
    }
}

/// Something that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<S = String> {
    /// A line.
    Line(Line<S>),
    /// Words of a process that is not in a state to write one: a panic, a forbidden call.
    Raw(String),
}

struct Log {
    state: Mutex<State>,
    filter: reload::Handle<EnvFilter, Registry>,
}

struct State {
    outlet: Outlet,
    own: Repeats,
    /// The directives in force.
    directives: String,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// What stands before a last word on standard error, so that the journal takes it for an error. See sd-daemon(3).
pub fn error_prefix() -> &'static str {
    if Around::of_this_process().fitting() == Form::Journal { "<3>" } else { "" }
}

/// Starts logging. `RUST_LOG`, if set, counts more than the configured directives. Returns the directives in force, which
/// workers are told.
pub fn start(configured: &str, form: Option<Form>) -> Result<String, FilterError> {
    let (filter, directives) = directives::configured(configured)?;
    let around = Around::of_this_process();
    let form = form.map_or_else(|| around.fitting(), |form| around.as_wanted(form));
    let journal = (form == Form::Journal).then(Journal::open);
    let (journal, trouble) = match journal.transpose() {
        Ok(journal) => (journal, None),
        Err(error) => (None, Some(error)),
    };
    let form = if trouble.is_some() { Form::Text } else { form };
    let (filter, handle) = reload::Layer::new(filter);
    let state = State {
        outlet: Outlet::new(form, journal),
        own: Repeats::default(),
        directives: directives.clone(),
    };
    // Fails only if there is one already, which then goes on.
    if tracing_subscriber::registry().with(filter).with(Own).try_init().is_ok() {
        let _ = LOG.set(Log { state: Mutex::new(state), filter: handle });
    }
    if let Some(error) = trouble {
        tracing::warn!("the journal cannot be reached, the log is text on standard error: {error}");
    }
    Ok(directives)
}

/// A change of what is logged.
#[derive(Debug)]
pub struct Change {
    filter: EnvFilter,
    /// The directives, which workers are told.
    pub directives: String,
    /// What whoever asked for it may not expect.
    pub remark: Option<&'static str>,
}

impl Change {
    /// What is configured; or `RUST_LOG`, if it is set.
    pub fn configured(configured: &str) -> Result<Self, FilterError> {
        let (filter, directives) = directives::configured(configured)?;
        Ok(Self { filter, directives, remark: None })
    }

    /// What an operator asks for. What the directives leave open stays as `configured`.
    pub fn ordered(ordered: &str, configured: &str) -> Result<Self, FilterError> {
        let (filter, directives) = directives::ordered(ordered, configured)?;
        let remark = directives::hides_requests(&filter)
            .then_some("requests are not logged then: their lines are of the level info");
        Ok(Self { filter, directives, remark })
    }

    /// Puts it in force in this process.
    pub fn apply(self) {
        let Some(log) = LOG.get() else { return };
        let _ = log.filter.reload(self.filter);
        log.lock().directives = self.directives;
    }
}

/// The directives in force.
pub fn in_force() -> String {
    LOG.get().map(|log| log.lock().directives.clone()).unwrap_or_default()
}

/// Lets `tell` say what a worker has said, in order and with nothing in between. Returns how many lines nobody took. Nothing may
/// be logged meanwhile.
pub fn telling(speaker: Speaker, tell: impl FnOnce(&mut Telling<'_>)) -> u64 {
    LOG.get().map_or(0, |log| log.lock().outlet.telling(speaker, SystemTime::now(), tell))
}

/// Tells of failures that were repeated, whose time has come.
pub fn tick(now: Instant) {
    let Some(log) = LOG.get() else { return };
    let mut state = log.lock();
    let due = state.own.due(now);
    state.tell_own(due);
}

/// Tells of all failures that were repeated: this process ends, or another program follows in it.
pub fn finish() {
    let Some(log) = LOG.get() else { return };
    let mut state = log.lock();
    let due = state.own.finish();
    state.tell_own(due);
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell_own(&mut self, lines: Vec<Line>) {
        if !lines.is_empty() {
            self.outlet.telling(Speaker::own(), SystemTime::now(), |telling| {
                lines.into_iter().for_each(|line| telling.say(&Said::Line(line)));
            });
        }
    }
}

/// What this process logs.
struct Own;

impl<S: Subscriber> Layer<S> for Own {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(log) = LOG.get() else { return };
        let line = shared::log_event::line(event);
        let mut state = log.lock();
        if state.own.hear(&line, Instant::now()) {
            state.tell_own(vec![line]);
        }
    }
}

/// Standard error.
fn standard_error() -> BorrowedFd<'static> {
    static STDERR: OnceLock<std::io::Stderr> = OnceLock::new();
    STDERR.get_or_init(std::io::stderr).as_fd()
}

/// A line that the log says of itself.
fn note(message: String) -> Line {
    Line::new(Level::Warn, module_path!(), message)
}
