//! From the command line to a running supervisor: what can be wrong is found here, before anything is served.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shared::dial::Dial;
use shared::id::Role;
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::bundle::BundleError;
use crate::cli::{self, Command};
use crate::cloud::heartbeat::OutcomeCell;
use crate::cloud::rotation_report::ReportCell;
use crate::cloud::spend::SpendSink;
use crate::cloud::telemetry;
use crate::cloud::tls::IdentityError;
use crate::dial::DirectDial;
use crate::dial_proxy::ProxyDial;
use crate::export;
use crate::findings::{Findings, Topic};
use crate::fleet::{Fleet, Post};
use crate::handover;
use crate::handover::exec::Own;
use crate::handover::listeners::Listeners;
use crate::handover::orphans::Orphan;
use crate::handover::preflight::CheckError;
use crate::handover::taken::Taken;
use crate::listener::ListenError;
use crate::log::{self, FilterError};
use crate::metrics::Collector;
use crate::origin::{Cloud, Feed, OpenError, Origin, Told};
use crate::pages::Sources;
use crate::process::identity::Users;
use crate::process::launch::{Program, ProgramError};
use crate::process::{reserve_descriptors, signals};
use crate::projection;
use crate::resources::{self, ResourcesError};
use crate::settings::{Settings, SettingsError, Source};
use crate::shutdown::Limits;
use crate::spool::Spool;
use crate::spool::ring_file::RingFolders;
use crate::state::lock::{StateError, StateLock};
use crate::state::snapshot::Snapshot;
use crate::supervisor::{self, Ended, Life, Parts, RunError};
use crate::systemd;
use crate::validate::{check_handover, validate};
use crate::worker_settings;

/// Events of workers that wait for the loop; their tasks wait then.
const EVENTS_QUEUED_MAX: usize = 1024;

/// The end waits for the last write of the snapshot for so long at most.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(2);

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
        Command::Export(options) => export::run(&options).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
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
    let own = Own::of_this_process();
    // What the service manager has kept was handed to the program before, if there was one.
    let stored = if taken.is_none() { systemd::stored() } else { Vec::new() };
    // Before anything else opens a descriptor; kept until the end.
    let _reserved = reserve_descriptors().map_err(system("reserving descriptors"))?;
    let loaded = Settings::load(config, std::env::vars_os())?;
    let settings = loaded.settings;
    let log_filter = log::start(&settings.observability.log_level)?;
    info!(version = shared::version::VERSION, config = %config.display(),
        variables = loaded.variables.join(" "),
        service = settings.observability.service_name, "starting");
    for (key, reason) in &loaded.without_effect {
        debug!("{key} has no effect: {reason}");
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
    let ended =
        LocalSet::new().block_on(&runtime, serve(&settings, origin, &log_filter, findings, before));
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

/// The projection, its updates, and what has its file read again, if it is one.
type Followed =
    (projection::Handle, mpsc::Receiver<projection::Update>, Option<projection::Reload>);

fn follow(
    settings: &Settings,
    origin: &Origin,
    told: projection::Told,
    snapshot: Option<Snapshot>,
) -> Result<Followed, StartError> {
    match origin.source()? {
        Feed::Store(source) => {
            let dial = dial_for(settings, source.dial_limit);
            let (projection, updates) = projection::start(source, dial, told, snapshot)
                .map_err(system("starting the projection"))?;
            Ok((projection, updates, None))
        }
        Feed::File(path) => {
            let first = resources::load(path, &resources::variable)?;
            let (projection, updates, reload) = projection::start_from_file(path.clone(), first)
                .map_err(system("starting the projection"))?;
            told.begun.notify_one();
            Ok((projection, updates, Some(reload)))
        }
    }
}

/// Makes the connections to Cloud and store, each within `limit`.
fn dial_for(settings: &Settings, limit: Duration) -> Arc<dyn Dial> {
    let proxy = match &settings.source {
        Source::Managed(managed) => managed.proxy.clone(),
        Source::Etcd(_) | Source::File(_) => None,
    };
    match proxy {
        Some(proxy) => Arc::new(ProxyDial::new(proxy, limit)),
        None => Arc::new(DirectDial::new(limit)),
    }
}

async fn serve(
    settings: &Settings,
    origin: Origin,
    log_filter: &str,
    findings: Findings,
    before: Before,
) -> Result<Ended, StartError> {
    let now = Instant::now();
    let taken = before.taken.as_deref();
    let uptime = taken.map_or(Duration::ZERO, |it| Duration::from_millis(it.state.uptime_ms));
    let started = now.checked_sub(uptime).unwrap_or(now);
    let rings = match &origin {
        Origin::Cloud(cloud) => {
            let home = cloud.spool_home();
            RingFolders::of(&home.state, &home.env_id)
        }
        // Nobody is told of usage, so nothing is kept; nor is there a folder for sockets.
        Origin::Etcd(_) | Origin::File(_) => RingFolders::default(),
    };
    let outlive = !systemd::is_there();
    let (mut listeners, orphans) = handover::before(taken, before.stored, rings.folders());
    // First what is refused at once; nothing runs yet.
    let posts = posts(settings, origin.env_id(), log_filter, &mut listeners).await?;
    let unwanted = listeners.close();
    let program = match taken.filter(|taken| taken.failed.is_some()) {
        Some(taken) => taken.worker_program().map_err(system("opening the worker program"))?,
        None => Program::open(settings.workers.program.as_deref(), &before.own.program)?,
    };
    debug!(path = %program.path.display(), "worker program");

    let snapshot = match &origin {
        Origin::Cloud(cloud) => cloud.snapshot(&findings),
        Origin::Etcd(_) | Origin::File(_) => None,
    };
    let limit = settings.upstream.connect_timeout.unwrap_or(Duration::from_secs(60));
    let dial = dial_for(settings, limit);
    let nudge = Arc::new(Notify::new());
    let begun = Arc::new(Notify::new());
    let told = projection::Told {
        findings: findings.clone(),
        nudge: Arc::clone(&nudge),
        begun: Arc::clone(&begun),
    };
    let (projection, updates, reload) = follow(settings, &origin, told, snapshot.clone())?;

    let home = match &origin {
        Origin::Cloud(cloud) => Some(cloud.spool_home()),
        Origin::Etcd(_) | Origin::File(_) => None,
    };
    let handed_on = taken.map(|it| it.state.ring_names()).unwrap_or_default();
    let (spool, spool_reports) = Spool::start(home, rings.left_over(), handed_on, findings.clone())
        .map_err(system("starting the thread of the spool"))?;
    let session = || match &origin {
        Origin::Cloud(cloud) => Some(cloud.session(&dial)),
        Origin::Etcd(_) | Origin::File(_) => None,
    };
    let budgets = match &origin {
        Origin::Cloud(cloud) => Some(cloud.budgets(&dial, snapshot.clone(), findings.clone())),
        Origin::Etcd(_) | Origin::File(_) => None,
    };
    let spend = budgets.clone().map(|budgets| Arc::new(budgets) as Arc<dyn SpendSink>);
    let (telemetry, upload) = telemetry::new(spool, session, spend.clone(), findings.clone());
    tokio::task::spawn_local(upload.run());

    let instance = taken.map_or_else(Uuid::new_v4, |it| Uuid::from_u128(it.state.instance_id));
    let applied = Rc::new(Cell::new(None));
    let heartbeat = OutcomeCell::default();
    let rotation = ReportCell::default();
    let mut identity = None;
    if let Origin::Cloud(cloud) = &origin {
        identity = Some(cloud.in_force());
        let told = Told {
            projection: projection.clone(),
            applied: Rc::clone(&applied),
            nudge: Arc::clone(&nudge),
            outcome: heartbeat.clone(),
            findings: findings.clone(),
            rotation: rotation.clone(),
        };
        let since = tokio::time::Instant::from_std(started);
        cloud.beat(&dial, told, instance, since);
    }

    let observability = &settings.observability;
    let collector = Collector::new(&observability.e2e_buckets, &observability.ttft_buckets);
    let (events_in, events) = mpsc::channel(EVENTS_QUEUED_MAX);
    let workers_before = taken.into_iter().flat_map(|it| it.state.fleet.workers.iter());
    let ours: Vec<_> = workers_before
        .map(|worker| worker.uid)
        .chain(orphans.iter().filter_map(Orphan::uid))
        .collect();
    let users = Users::choose(settings.workers.uid_base, &ours);
    let sandbox = settings.workers.sandbox;
    let mut fleet = Fleet::new(program, users, sandbox, posts, rings, events_in, now);
    if outlive {
        fleet.let_outlive();
    }
    let life = Life {
        own: before.own,
        lock: before.lock,
        instance,
        taken: before.taken.clone(),
        orphans,
        unwanted,
    };
    let parts = Parts {
        fleet,
        events,
        updates,
        spool_reports,
        spend,
        sources: Sources {
            collector: Rc::new(RefCell::new(collector)),
            projection,
            snapshot: snapshot.clone(),
            telemetry,
            heartbeat,
            budgets,
            findings,
            identity,
            rotation,
            started,
        },
        applied,
        nudge,
        begun,
        reload,
        life,
        limits: Limits {
            min_drain: settings.shutdown.drain_min,
            max_drain: settings.shutdown.drain_max,
        },
    };
    let ended = supervisor::run(parts).await;
    if let Some(snapshot) = snapshot {
        snapshot.finish(SNAPSHOT_LIMIT);
    }
    Ok(ended?)
}

/// The listeners, open, and who serves them.
async fn posts(
    settings: &Settings,
    env_id: &str,
    log_filter: &str,
    there: &mut Listeners,
) -> Result<Vec<Post>, ListenError> {
    let address = settings.proxy.address;
    let mut posts = vec![Post {
        role: Role::Proxy,
        workers: settings.proxy.workers.get(),
        listener: Some(there.take_or_bind(Role::Proxy.name(), address, "proxy.addr").await?),
        settings: worker_settings::proxy(settings, env_id, log_filter),
    }];
    info!(%address, workers = settings.proxy.workers, "proxy listener open");
    if let Some(metrics) = &settings.observability.metrics {
        let address = metrics.address;
        let key = "observability.metrics.prometheus.addr";
        posts.push(Post {
            role: Role::Status,
            workers: 1,
            listener: Some(there.take_or_bind(Role::Status.name(), address, key).await?),
            settings: worker_settings::status(settings, metrics, log_filter),
        });
        info!(%address, path = metrics.path, "metrics listener open");
    }
    Ok(posts)
}
