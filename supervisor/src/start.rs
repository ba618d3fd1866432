//! From the command line to a running supervisor: what can be wrong is found here, before anything is served.

mod serve;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use shared::turns;
use tokio::task::LocalSet;
use tracing::{debug, info};

use self::serve::serve;
use crate::bundle::BundleError;
use crate::bundle::source::BundleSource;
use crate::bundle_report;
use crate::cli::{self, Command};
use crate::cloud::tls::IdentityError;
use crate::doctor;
use crate::export;
use crate::findings::{Findings, Topic};
use crate::handover::exec::Own;
use crate::handover::preflight::CheckError;
use crate::handover::taken::Taken;
use crate::listener::ListenError;
use crate::listener_tls::PairError;
use crate::log::{self, FilterError};
use crate::origin::{Cloud, OpenError, Origin};
use crate::process::launch::ProgramError;
use crate::process::{own, reserve_descriptors, signals};
use crate::resources::ResourcesError;
use crate::settings::{Settings, SettingsError, Source};
use crate::state::lock::{StateError, StateLock};
use crate::supervisor::{Ended, RunError};
use crate::systemd;
use crate::validate::{check_handover, validate};
use crate::worker_log;

/// How long a turn of ours is asked to be: longer than any of a worker's. Where both have one core a worker that has something to do goes
/// before threads of ours, those to come included, which take as much of it as before, but have their turn later.
const TURN: Duration = Duration::from_millis(20);

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Resources(#[from] ResourcesError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    ListenerTls(#[from] PairError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot start: {attempted}: {source}")]
    System { attempted: &'static str, source: io::Error },
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("cannot execute another program, nor this one again: {0}")]
    Execute(#[source] io::Error),
}

/// Runs the program and turns what came of it into an exit status: 0 in order, 1 for any error, 2 for a wrong command line.
pub fn main() -> ExitCode {
    let done = match cli::parse() {
        Command::Run { config } => run(&config, None).map_err(|error| error.to_string()),
        Command::Resume { config, state, failed } => resume(&config, state, failed),
        Command::CheckHandover { config } => {
            check_handover(&config).map_err(|error| error.to_string())
        }
        Command::Validate { config, resources } => {
            validate(config.as_deref(), resources.as_deref()).map_err(|error| match error {
                // Who asks whether a file is right wants all of it; who starts gets one line.
                StartError::Resources(error) => error.report(),
                error => error.to_string(),
            })
        }
        Command::Ask(question) => return question.ask(),
        Command::Doctor(options) => return doctor::run(&options),
        Command::BundleReport(options) => {
            bundle_report::run(&options).map_err(|error| error.to_string())
        }
        Command::Export(options) => export::run(&options).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}Error: {error}", log::error_prefix());
            ExitCode::FAILURE
        }
    }
}

/// Goes on where the program before has stopped; one that cannot start lets that one go on.
fn resume(config: &Path, state: i32, failed: Option<String>) -> Result<(), String> {
    let taken = Rc::new(Taken::take(state, failed).map_err(|error| error.to_string())?);
    // Otherwise the process is called by the number of the descriptor that it was executed from. For people only.
    let _ = nix::sys::prctl::set_name(c"aisix");
    run(config, Some(Rc::clone(&taken))).map_err(|error| {
        if !taken.may_go_back() {
            return error.to_string();
        }
        let reason = format!("version {} cannot start: {error}", shared::version::VERSION);
        eprintln!("{reason}; the program before goes on");
        let failed = taken.go_back(&Own::of_this_process(), &reason);
        format!("{error}; nor can the program before go on: {failed}")
    })
}

fn run(config: &Path, taken: Option<Rc<Taken>>) -> Result<(), StartError> {
    signals::hold_at_start();
    // For us and every worker: a page of 2 MiB for what a few small ones hold is most of what an idle gateway would take.
    let _ = nix::sys::prctl::set_thp_disable(true);
    turns::ask_for(TURN);
    let own = Own::of_this_process();
    // What the service manager has kept was handed to the program before, if there was one.
    let stored = if taken.is_none() { systemd::stored() } else { Vec::new() };
    // Before anything else opens a descriptor; kept until the end.
    let _reserved = reserve_descriptors().map_err(system("reserving descriptors"))?;
    let before = taken.as_deref().filter(|taken| taken.failed.is_some());
    let loaded = match before {
        // What is written now may be for the program that could not go on.
        Some(before) => {
            let text = before.state.configuration.expose().clone();
            Settings::load_text(config, text, std::env::vars_os())?
        }
        None => Settings::load(config, std::env::vars_os())?,
    };
    let (settings, raw, text) = (loaded.settings, loaded.raw, loaded.text);
    let log_filter =
        log::start(&settings.observability.log_level, settings.observability.log_form)?;
    info!(version = shared::version::VERSION, commit = cli::COMMIT, config = %config.display(),
        variables = loaded.variables.join(" "),
        service = settings.observability.service_name, "starting");
    for (key, reason) in &loaded.without_effect {
        debug!("{key} has no effect: {reason}");
    }
    for variable in &loaded.ignored_variables {
        debug!("{variable} is not configuration and is ignored");
    }
    own::confine(&files(&settings, config));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting the runtime"))?;
    let findings = Findings::default();
    let written = (config, raw, text);
    let mut lock = None;
    let origin = match settings.source.clone() {
        Source::Managed(managed) => {
            lock = match taken.as_deref().and_then(lock_handed) {
                Some(lock) => Some(lock),
                None => self::lock(managed.state_dir(), &findings)?,
            };
            Origin::Cloud(Box::new(Cloud::open(&managed, &findings)?))
        }
        Source::Etcd(etcd) => Origin::Etcd(etcd),
        Source::File(path) => Origin::File(path),
    };
    let lock_copy = lock.as_ref().map(StateLock::descriptor).transpose();
    let before =
        Before { own, taken, stored, lock: lock_copy.map_err(system("keeping the lock"))? };
    let ended = LocalSet::new().block_on(&runtime, async {
        let ended = serve(&settings, origin, &log_filter, findings, written, before).await;
        if matches!(ended, Ok(Ended::InOrder)) {
            worker_log::finish().await;
        }
        ended
    });
    log::finish();
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    match ended? {
        Ended::InOrder => Ok(()),
        // Other threads end with this; the lock is held by a copy.
        Ended::HandedOver(prepared) => Err(StartError::Execute(prepared.execute())),
    }
}

/// What a start finds that was there before it.
struct Before {
    own: Own,
    taken: Option<Rc<Taken>>,
    stored: Vec<(String, OwnedFd)>,
    lock: Option<OwnedFd>,
}

/// The lock of the program before: a copy holds it as well as the original.
fn lock_handed(taken: &Taken) -> Option<StateLock> {
    let descriptor = taken.descriptor(taken.state.lock?).ok()?;
    Some(StateLock::handed(descriptor))
}

/// Without a directory to write to, nothing is kept for the next start; this one goes on.
fn lock(directory: &Path, findings: &Findings) -> Result<Option<StateLock>, StateError> {
    match StateLock::take(directory) {
        Ok(lock) => Ok(Some(lock)),
        Err(error @ StateError::InUse { .. }) => Err(error),
        Err(error @ StateError::Use { .. }) => {
            findings.found(Topic::StateDirectory, error.to_string());
            Ok(None)
        }
    }
}

fn system(attempted: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { attempted, source }
}

/// What is read and written as long as we run.
fn files<'a>(settings: &'a Settings, config: &'a Path) -> own::Files<'a> {
    let mut files = own::Files { reads: vec![config], writes: Vec::new() };
    if let Some(tls) = &settings.proxy.tls {
        files.reads.extend([tls.files.certificate.as_path(), &tls.files.key]);
    }
    match &settings.source {
        Source::Managed(managed) => {
            if let BundleSource::Files { chain, key, roots } = &managed.bundle {
                files.reads.extend([chain.as_path(), key, roots]);
            }
            files.reads.extend(managed.extra_roots.as_deref());
            files.writes.push(managed.state_dir());
            files.writes.push(&managed.dp_id_file);
            files.writes.extend(managed.snapshot.as_deref());
        }
        Source::Etcd(_) => {}
        Source::File(resources) => files.reads.push(resources),
    }
    files
}
