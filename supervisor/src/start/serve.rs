//! From the settings to the parts of a running supervisor, each made once and handed to those who need it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use shared::dial::Dial;
use shared::egress::client::{self, EgressDial};
use shared::id::Role;
use shared::secret::Secret;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info};
use uuid::Uuid;

use super::{Before, StartError, system};
use crate::bundle::source::CREDENTIALS;
use crate::cloud::heartbeat::OutcomeCell;
use crate::cloud::rotate;
use crate::cloud::rotation_report::ReportCell;
use crate::cloud::spend::SpendSink;
use crate::cloud::telemetry;
use crate::control;
use crate::control::status::SingleUser;
use crate::destinations::Destinations;
use crate::dial_proxy::ProxyDial;
use crate::exporters::Exporters;
use crate::findings::Findings;
use crate::fleet::egress::Knowledge;
use crate::fleet::{Fleet, Post};
use crate::handover;
use crate::handover::listeners::{Left, Listeners};
use crate::handover::orphans::Orphan;
use crate::history::Keeper;
use crate::listener::ListenError;
use crate::listener_tls::ListenerTls;
use crate::metrics::Collector;
use crate::origin::{Feed, Origin, Told};
use crate::pages::Sources;
use crate::process::identity::Users;
use crate::process::launch::Program;
use crate::projection;
use crate::reload::Reloader;
use crate::resolver_files;
use crate::resources::{self};
use crate::settings::raw::Raw;
use crate::settings::{Settings, Source};
use crate::shutdown::Limits;
use crate::spool::Spool;
use crate::spool::ring_file::RingFolders;
use crate::state::snapshot::Snapshot;
use crate::supervisor::{self, About, Ended, Life, Parts};
use crate::systemd;
use crate::worker_settings;

/// Events of workers that wait for the loop; their tasks wait then, first come, first served. Few, since one may take 256 KiB.
const EVENTS_QUEUED_MAX: usize = 128;

/// How long a connection of the supervisor waits for an egress worker that is not there, or not yet.
const EGRESS_WAIT: Duration = Duration::from_secs(5);

/// The end waits for the last write of the snapshot for so long at most.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(2);

/// The projection, its updates, and what has its file read again, if it is one.
type Followed =
    (projection::Handle, mpsc::Receiver<projection::Update>, Option<projection::Reload>);

fn follow(
    settings: &Settings,
    egress: &EgressDial,
    origin: &Origin,
    told: projection::Told,
    snapshot: Option<Snapshot>,
) -> Result<Followed, StartError> {
    match origin.source()? {
        Feed::Store(source) => {
            let dial = dial_for(settings, egress, source.dial_limit);
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

/// Makes the connections to Cloud and store through the egress worker, each within `limit`.
fn dial_for(settings: &Settings, egress: &EgressDial, limit: Duration) -> Arc<dyn Dial> {
    let proxy = match &settings.source {
        Source::Managed(managed) => managed.proxy.clone(),
        Source::Etcd(_) | Source::File(_) => None,
    };
    let egress = Arc::new(egress.within(limit));
    match proxy {
        Some(proxy) => Arc::new(ProxyDial::new(proxy, egress, limit)),
        None => egress,
    }
}

/// Runs until the end.
pub(super) async fn serve(
    settings: &Settings,
    origin: Origin,
    log_filter: &str,
    findings: Findings,
    (config, raw, text): (&Path, Raw, Secret<String>),
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
    let tls = settings.proxy.tls.as_ref();
    let tls = tls.map(|tls| ListenerTls::open(tls, SystemTime::now())).transpose()?;
    let posts = posts(settings, origin.env_id(), log_filter, &mut listeners).await?;
    let Left { unwanted, of_units } = listeners.close();
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
    let (egress, driver) = client::new(EGRESS_WAIT);
    tokio::task::spawn_local(driver.run());
    let dial = dial_for(settings, &egress, limit);
    let nudge = Arc::new(Notify::new());
    let begun = Arc::new(Notify::new());
    let told = projection::Told {
        findings: findings.clone(),
        nudge: Arc::clone(&nudge),
        begun: Arc::clone(&begun),
    };
    let (projection, updates, reload) = follow(settings, &egress, &origin, told, snapshot.clone())?;

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

    let (rotate, rotate_orders) = mpsc::channel(rotate::ORDERS_MAX);
    let instance = taken.map_or_else(Uuid::new_v4, |it| Uuid::from_u128(it.state.instance_id));
    let otlp = settings.observability.otlp.as_ref();
    let exporters = Exporters::new(&instance.to_string(), origin.env_id(), otlp.is_some());
    let applied = Rc::new(Cell::new(None));
    let heartbeat = OutcomeCell::default();
    let rotation = ReportCell::default();
    if let Source::Managed(managed) = &settings.source
        && managed.bundle.is_credential(std::env::var_os(CREDENTIALS).as_deref().map(Path::new))
    {
        rotation.needs_restart();
    }
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
            exporters: exporters.clone(),
        };
        let since = tokio::time::Instant::from_std(started);
        cloud.beat(&dial, told, instance, since);
    }

    let observability = &settings.observability;
    let collector = Collector::new(
        &observability.e2e_buckets,
        &observability.ttft_buckets,
        &observability.guardrail_buckets,
    );
    let collector = Rc::new(RefCell::new(collector));
    let (events_in, events) = mpsc::channel(EVENTS_QUEUED_MAX);
    let mut about = About::of(settings, &origin, instance);
    let state_dir = about.state_dir.as_deref();
    let (_control, orders) =
        control::serve::start(settings.control_socket.as_deref(), state_dir, &findings);
    let workers_before = taken.into_iter().flat_map(|it| it.state.fleet.workers.iter());
    let ours: Vec<_> = workers_before
        .filter_map(|worker| worker.uid)
        .chain(orphans.iter().filter_map(Orphan::uid))
        .collect();
    let users = Users::choose(settings.workers.uid_base, &ours);
    about.single_user = users.single();
    if let Some(uid) = about.single_user {
        info!("single-user: {}", SingleUser::of(uid).text);
    }
    let sandbox = settings.workers.sandbox;
    let fleet = Fleet::new(program, users, sandbox, posts, rings, events_in, now);
    let mut fleet = fleet
        .map_err(system("making the memory that workers count in together"))?
        .with_listener_tls(tls.clone())
        .with_exporters(exporters);
    let listener_tls = tls.as_ref().map(|tls| tls.start(findings.clone())).transpose();
    let listener_tls = listener_tls.map_err(system("watching the files of proxy.tls"))?;
    fleet.set_replace_drain(settings.workers.replace_drain);
    let (resolver, resolver_changes) =
        resolver_files::start().map_err(system("starting the thread of the resolver's files"))?;
    let destinations = Destinations::new(&settings.source, &settings.redis, otlp);
    fleet.egress_knows(Knowledge { destinations, resolver });
    let identity_orders = identity.is_some().then_some(rotate);
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
        of_units,
    };
    let parts = Parts {
        fleet,
        egress,
        resolver_changes,
        events,
        updates,
        bedrock_endpoint: settings.bedrock_endpoint.clone(),
        spool_reports,
        spend,
        sources: Sources {
            history: Keeper::new(Rc::clone(&collector)),
            collector,
            projection,
            snapshot: snapshot.clone(),
            telemetry,
            heartbeat,
            budgets,
            findings,
            identity,
            listener_tls: tls,
            rotation,
            started,
        },
        applied,
        nudge,
        begun,
        orders,
        rotate: identity_orders,
        about,
        listener_tls,
        reload,
        reloader: Reloader {
            config: config.to_owned(),
            text,
            started_with: raw.clone(),
            last: raw,
            settings: settings.clone(),
            env_id: origin.env_id().to_owned(),
        },
        life,
        limits: Limits {
            min_drain: settings.shutdown.drain_min,
            max_drain: settings.shutdown.drain_max,
            listeners_stay: systemd::is_there(),
        },
    };
    let ended = supervisor::run(parts).await;
    if let Some(snapshot) = snapshot {
        snapshot.finish(SNAPSHOT_LIMIT);
    }
    Ok(ended?)
}

/// The listeners, open, who serves them, and who makes connections.
async fn posts(
    settings: &Settings,
    env_id: &str,
    log_filter: &str,
    there: &mut Listeners,
) -> Result<Vec<Post>, ListenError> {
    let mut posts = Vec::new();
    for (role, workers, told) in worker_settings::of_roles(settings, env_id, log_filter) {
        let listener = match (role, &settings.observability.metrics) {
            (Role::Proxy, _) => Some((settings.proxy.address, "proxy.addr")),
            (Role::Status, Some(metrics)) => {
                Some((metrics.address, "observability.metrics.prometheus.addr"))
            }
            (Role::Status | Role::Egress | Role::Signer | Role::Cache | Role::Export, _) => None,
        };
        let listener = match listener {
            Some((address, key)) => {
                let listener = there.take_or_bind(role.name(), address, key).await?;
                info!(%role, %address, "listener open");
                Some(listener)
            }
            None => None,
        };
        posts.push(Post { role, workers, listener, settings: told });
    }
    Ok(posts)
}
