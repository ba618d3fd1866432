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
use crate::cloud::rotate;
use crate::cloud::rotation_report::ReportCell;
use crate::cloud::spend::SpendSink;
use crate::cloud::telemetry;
use crate::cloud::tls::IdentityError;
use crate::control;
use crate::dial::DirectDial;
use crate::dial_proxy::ProxyDial;
use crate::export;
use crate::findings::{Findings, Topic};
use crate::fleet::{Fleet, Post};
use crate::listener::{self, ListenError};
use crate::log::{self, FilterError};
use crate::metrics::Collector;
use crate::origin::{Cloud, Feed, OpenError, Origin, Told};
use crate::pages::Sources;
use crate::process::identity::Users;
use crate::process::launch::{Program, ProgramError};
use crate::process::reserve_descriptors;
use crate::projection;
use crate::resources::{self, ResourcesError};
use crate::settings::{Settings, SettingsError, Source};
use crate::shutdown::Limits;
use crate::spool::Spool;
use crate::spool::ring_file::RingFolders;
use crate::state::lock::{StateError, StateLock};
use crate::state::snapshot::Snapshot;
use crate::supervisor::{self, About, Parts, RunError};
use crate::worker_settings;

/// Events of workers that wait for the loop; their tasks wait then, first come, first served. Few, since one may take 256 KiB.
const EVENTS_QUEUED_MAX: usize = 128;

/// The end waits for the last write of the snapshot for so long at most.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(2);

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
enum StartError {
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
}

/// Runs the program and turns what came of it into an exit status: 0 in order, 1 for any error, 2 for a wrong command line.
pub fn main() -> ExitCode {
    let done = match cli::parse() {
        Command::Run { config } => run(&config).map_err(|error| error.to_string()),
        Command::Validate { config, resources } => {
            validate(config.as_deref(), resources.as_deref()).map_err(|error| match error {
                // Who asks whether a file is right wants all of it; who starts gets one line.
                StartError::Resources(error) => error.report(),
                error => error.to_string(),
            })
        }
        Command::Ask(question) => return question.ask(),
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

/// Checks what is named. Starts nothing and writes nothing.
fn validate(config: Option<&Path>, resources: Option<&Path>) -> Result<(), StartError> {
    config.map_or(Ok(()), validate_configuration)?;
    resources.map_or(Ok(()), validate_resources)
}

/// Checks the configuration and the bundle or the resources that it leads to.
fn validate_configuration(config: &Path) -> Result<(), StartError> {
    let loaded = Settings::load(config, std::env::vars_os())?;
    let bundle = match &loaded.settings.source {
        Source::Managed(managed) => Some(Bundle::examine(managed, SystemTime::now())?),
        Source::Etcd(_) => None,
        Source::File(resources) => {
            validate_resources(resources)?;
            None
        }
    };
    println!("OK: {} is a valid configuration", config.display());
    if let Some(bundle) = bundle {
        println!("OK: the certificate bundle belongs to environment {}", bundle.env_id);
        println!("note: it is the {} one: {}", bundle.origin, bundle.why);
        for finding in bundle.findings.iter().chain(&bundle.lasting) {
            println!("note: {finding}");
        }
    }
    for (key, reason) in &loaded.without_effect {
        println!("note: {key} has no effect: {reason}");
    }
    Ok(())
}

fn validate_resources(path: &Path) -> Result<(), StartError> {
    let read = resources::load(path, &resources::variable)?;
    println!("OK: {} loaded {} resource(s)", path.display(), read.documents.len());
    for note in &read.notes {
        println!("note: {note}");
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
        Source::File(path) => {
            let file = Origin::File(path);
            LocalSet::new().block_on(&runtime, serve(&settings, file, &log_filter, findings))
        }
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
) -> Result<(), StartError> {
    let now = Instant::now();
    // First what is refused at once; nothing runs yet.
    let posts = posts(settings, origin.env_id(), log_filter)?;
    let program = Program::open(settings.workers.program.as_deref())?;
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

    let (home, rings) = match &origin {
        Origin::Cloud(cloud) => {
            let home = cloud.spool_home();
            let rings = RingFolders::of(&home.state, &home.env_id);
            (Some(home), rings)
        }
        // Nobody is told of usage, so nothing is kept.
        Origin::Etcd(_) | Origin::File(_) => (None, RingFolders::default()),
    };
    let (spool, spool_reports) = Spool::start(home, rings.left_over(), findings.clone())
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

    let (rotate, rotate_orders) = mpsc::channel(rotate::ORDERS_MAX);
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
            orders: rotate_orders,
        };
        cloud.beat(&dial, told);
    }

    let observability = &settings.observability;
    let collector = Collector::new(&observability.e2e_buckets, &observability.ttft_buckets);
    let (events_in, events) = mpsc::channel(EVENTS_QUEUED_MAX);
    let about = About::of(settings, &origin);
    let state_dir = about.state_dir.as_deref();
    let (_control, orders) =
        control::serve::start(settings.control_socket.as_deref(), state_dir, &findings);
    let users = Users::choose(settings.workers.uid_base);
    let sandbox = settings.workers.sandbox;
    let fleet = Fleet::new(program, users, sandbox, posts, rings, events_in, now);
    let identity_orders = identity.is_some().then_some(rotate);
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
            started: now,
        },
        applied,
        nudge,
        begun,
        orders,
        rotate: identity_orders,
        about,
        reload,
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
fn posts(settings: &Settings, env_id: &str, log_filter: &str) -> Result<Vec<Post>, ListenError> {
    let address = settings.proxy.address;
    let mut posts = vec![Post {
        role: Role::Proxy,
        workers: settings.proxy.workers.get(),
        listener: Some(listener::bind(address, "proxy.addr")?),
        settings: worker_settings::proxy(settings, env_id, log_filter),
    }];
    info!(%address, workers = settings.proxy.workers, "proxy listener open");
    if let Some(metrics) = &settings.observability.metrics {
        let address = metrics.address;
        posts.push(Post {
            role: Role::Status,
            workers: 1,
            listener: Some(listener::bind(address, "observability.metrics.prometheus.addr")?),
            settings: worker_settings::status(settings, metrics, log_filter),
        });
        info!(%address, path = metrics.path, "metrics listener open");
    }
    Ok(posts)
}
