//! From the command line to a running supervisor: what can be wrong is found here, before anything is served.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shared::dial::Dial;
use shared::id::Role;
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tracing::{debug, info, warn};

use crate::bundle::{Bundle, BundleError};
use crate::cli::{self, Command};
use crate::cloud::heartbeat::OutcomeCell;
use crate::cloud::telemetry;
use crate::cloud::tls::IdentityError;
use crate::dial::DirectDial;
use crate::findings::{Findings, Topic};
use crate::fleet::{Fleet, Post};
use crate::listener::{self, ListenError};
use crate::log::{self, FilterError};
use crate::metrics::Collector;
use crate::origin::{Cloud, OpenError, Origin, Told};
use crate::pages::Sources;
use crate::process::identity::Users;
use crate::process::launch::{Program, ProgramError};
use crate::process::reserve_descriptors;
use crate::projection;
use crate::settings::{Settings, SettingsError, Source};
use crate::shutdown::Limits;
use crate::spool::{EVENTS_MAX, Spool};
use crate::state::lock::{StateError, StateLock};
use crate::supervisor::{self, Parts, RunError};
use crate::worker_settings;

/// Events of workers that wait for the loop; their tasks wait then.
const EVENTS_QUEUED_MAX: usize = 1024;

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("resources_file is not served by this build; use managed.enabled or etcd.endpoints")]
    ResourcesFile,
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
    Program(#[from] ProgramError),
    #[error("cannot start: {attempted}: {source}")]
    System { attempted: &'static str, source: io::Error },
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs the program and turns what came of it into an exit status: 0 in order, 1 for any error, 2 for a wrong command line.
pub fn main() -> ExitCode {
    let done = match cli::parse() {
        Command::Run { config } => run(&config),
        Command::Validate { config } => validate(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks the configuration and, in managed mode, the bundle. Starts nothing and writes nothing.
fn validate(config: &Path) -> Result<(), StartError> {
    let loaded = Settings::load(config, std::env::vars_os())?;
    let bundle = match &loaded.settings.source {
        Source::Managed(managed) => Some(Bundle::examine(managed, SystemTime::now())?),
        Source::Etcd(_) => None,
        Source::File(_) => return Err(StartError::ResourcesFile),
    };
    println!("OK: {} is a valid configuration", config.display());
    if let Some(bundle) = bundle {
        println!("OK: the certificate bundle belongs to environment {}", bundle.env_id);
        for finding in &bundle.findings {
            println!("note: {finding}");
        }
    }
    if !loaded.not_yet_in_effect.is_empty() {
        println!("note: accepted, not yet in effect: {}", loaded.not_yet_in_effect.join(", "));
    }
    Ok(())
}

fn run(config: &Path) -> Result<(), StartError> {
    // Before anything else opens a descriptor; kept until the end.
    let _reserved = reserve_descriptors().map_err(system("reserving descriptors"))?;
    let loaded = Settings::load(config, std::env::vars_os())?;
    let settings = loaded.settings;
    let log_filter = log::start(&settings.observability.log_level)?;
    info!(version = shared::version::VERSION, config = %config.display(),
        service = settings.observability.service_name, "starting");
    if !loaded.not_yet_in_effect.is_empty() {
        warn!("accepted, not yet in effect: {}", loaded.not_yet_in_effect.join(", "));
    }
    if loaded.not_yet_in_effect.iter().any(|key| key.starts_with("proxy.tls.")) {
        warn!(
            "proxy.tls is not in effect: the proxy listener speaks plain HTTP; end TLS in front of it"
        );
    }
    for variable in &loaded.ignored_variables {
        debug!("{variable} is not configuration and is ignored");
    }
    protect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting the runtime"))?;
    let findings = Findings::default();
    let ended = match settings.source.clone() {
        Source::Managed(managed) => {
            let _lock = lock(managed.state_dir(), &findings)?;
            let cloud = Origin::Cloud(Box::new(Cloud::open(&managed, &findings)?));
            LocalSet::new().block_on(&runtime, serve(&settings, cloud, &log_filter, findings))
        }
        Source::Etcd(etcd) => {
            let etcd = Origin::Etcd(etcd);
            LocalSet::new().block_on(&runtime, serve(&settings, etcd, &log_filter, findings))
        }
        Source::File(_) => Err(StartError::ResourcesFile),
    };
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    ended
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

/// No core dump and no debugger sees our secrets; workers inherit as many descriptors as we may have.
fn protect() {
    let undumpable = nix::sys::prctl::set_dumpable(false);
    let no_core = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let files = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    for (what, result) in [("dumps", undumpable), ("core files", no_core), ("open files", files)] {
        if let Err(error) = result {
            warn!(%error, "cannot set the limit of {what}");
        }
    }
}

async fn serve(
    settings: &Settings,
    origin: Origin,
    log_filter: &str,
    findings: Findings,
) -> Result<(), StartError> {
    let now = Instant::now();
    // First what is refused at once; nothing runs yet.
    let posts = posts(settings, origin.env_id(), log_filter)?;
    let program = Program::open(settings.workers.program.as_deref())?;
    debug!(path = %program.path.display(), "worker program");

    let limit = settings.upstream.connect_timeout.unwrap_or(Duration::from_secs(60));
    let dial: Arc<dyn Dial> = Arc::new(DirectDial::new(limit));
    let nudge = Arc::new(Notify::new());
    let store = origin.source()?;
    let store_dial: Arc<dyn Dial> = Arc::new(DirectDial::new(store.dial_limit));
    let told = projection::Told { findings: findings.clone(), nudge: Arc::clone(&nudge) };
    let (projection, updates) =
        projection::start(store, store_dial, told).map_err(system("starting the projection"))?;

    let session = match &origin {
        Origin::Cloud(cloud) => Some(cloud.session(&dial)),
        Origin::Etcd(_) => None,
    };
    let (telemetry, upload) = telemetry::new(Spool::with_capacity(EVENTS_MAX), session);
    tokio::task::spawn_local(upload.run());

    let applied = Rc::new(Cell::new(None));
    let heartbeat = OutcomeCell::default();
    let mut expires = None;
    if let Origin::Cloud(cloud) = &origin {
        expires = Some(cloud.bundle.not_after_unix);
        let told = Told {
            projection: projection.clone(),
            applied: Rc::clone(&applied),
            nudge: Arc::clone(&nudge),
            outcome: heartbeat.clone(),
        };
        cloud.beat(&dial, told);
    }

    let observability = &settings.observability;
    let collector = Collector::new(&observability.e2e_buckets, &observability.ttft_buckets);
    let (events_in, events) = mpsc::channel(EVENTS_QUEUED_MAX);
    let users = Users::choose(settings.workers.uid_base);
    let fleet = Fleet::new(program, users, settings.workers.sandbox, posts, events_in, now);
    let parts = Parts {
        fleet,
        events,
        updates,
        sources: Sources {
            collector: Rc::new(RefCell::new(collector)),
            projection,
            telemetry,
            heartbeat,
            findings,
            certificate_expires_at_unix: expires,
            started: now,
        },
        applied,
        nudge,
        limits: Limits {
            min_drain: settings.shutdown.drain_min,
            max_drain: settings.shutdown.drain_max,
        },
    };
    Ok(supervisor::run(parts).await?)
}

/// The listeners, open, and who serves them.
fn posts(settings: &Settings, env_id: &str, log_filter: &str) -> Result<Vec<Post>, ListenError> {
    let address = settings.proxy.address;
    let mut posts = vec![Post {
        role: Role::Proxy,
        workers: settings.proxy.workers.get(),
        listener: listener::bind(address, "proxy.addr")?,
        settings: worker_settings::proxy(settings, env_id, log_filter),
    }];
    info!(%address, workers = settings.proxy.workers, "proxy listener open");
    if let Some(metrics) = &settings.observability.metrics {
        let address = metrics.address;
        posts.push(Post {
            role: Role::Status,
            workers: 1,
            listener: listener::bind(address, "observability.metrics.prometheus.addr")?,
            settings: worker_settings::status(settings, metrics, log_filter),
        });
        info!(%address, path = metrics.path, "metrics listener open");
    }
    Ok(posts)
}
