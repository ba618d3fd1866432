//! Where resources come from and whom the gateway reports to: AISIX Cloud, an etcd of one's own, or a file.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use shared::dial::Dial;
use shared::id::Revision;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::bundle::{self, Bundle, BundleError};
use crate::cloud::budget::Budgets;
use crate::cloud::decision_store::{DecisionStore, Nowhere};
use crate::cloud::heartbeat::{self, Author, Facts, OutcomeCell};
use crate::cloud::manager::{Manager, Session};
use crate::cloud::renewal::Hints;
use crate::cloud::rotate;
use crate::cloud::rotation_report::ReportCell;
use crate::cloud::tls::{Credentials, CredentialsInForce, Identity, IdentityError, InForce};
use crate::exporters::Exporters;
use crate::findings::{Findings, Topic};
use crate::projection::{self, Report, SourceTls};
use crate::settings::source::scope;
use crate::settings::{Etcd, EtcdTls, Managed};
use crate::spool;
use crate::state::seal::DataKey;
use crate::state::snapshot::{Place, Snapshot};

/// Why a certificate bundle cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, or not a good one.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// TLS cannot use it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Where resources come from, and whom to report to.
pub enum Origin {
    /// The Cloud.
    Cloud(Box<Cloud>),
    /// An etcd without a Cloud: nothing is reported.
    Etcd(Box<Etcd>),
    /// A file: nothing is reported.
    File(PathBuf),
}

/// Where the projection comes from.
pub enum Feed<'a> {
    /// A store that is followed.
    Store(projection::Source),
    /// A file that is read.
    File(&'a PathBuf),
}

/// What the heartbeat tells, and what comes of it.
pub struct Told {
    /// State of the configuration.
    pub projection: projection::Handle,
    /// The revision that every worker serves.
    pub applied: Rc<Cell<Option<Revision>>>,
    /// Asks for a beat now.
    pub nudge: Arc<Notify>,
    /// What became of the beats.
    pub outcome: OutcomeCell,
    /// What is not as it should be.
    pub findings: Findings,
    /// What became of new identities.
    pub rotation: ReportCell,
    /// Orders to renew the certificate now.
    pub orders: mpsc::Receiver<rotate::Asked>,
    /// How exporters of traces are doing.
    pub exporters: Exporters,
}

/// The Cloud side of a managed gateway.
pub struct Cloud {
    managed: Managed,
    /// The bundle at the start; what is in force later, see [`Cloud::in_force`].
    pub bundle: Bundle,
    /// What the state directory is sealed with.
    pub data_key: DataKey,
    in_force: watch::Sender<Arc<InForce>>,
}

impl Cloud {
    /// Finds the bundle, checks it and puts it in force.
    pub fn open(managed: &Managed, findings: &Findings) -> Result<Self, OpenError> {
        let (bundle, data_key) = Bundle::open(managed, SystemTime::now())?;
        let told = [&bundle.findings[..], &bundle.lasting[..], bundle.unkept.as_slice()].concat();
        if !told.is_empty() {
            findings.found(Topic::Certificate, told.join("; "));
        }
        info!(env_id = bundle.env_id, dp_id = bundle.dp_id.as_deref().unwrap_or("(none)"),
            origin = %bundle.origin, fingerprint = bundle.fingerprint(),
            "certificate bundle in force: the {} one, since {}", bundle.origin, bundle.why);
        let (in_force, _) = watch::channel(Arc::new(InForce::new(bundle.clone())?));
        Ok(Self { managed: managed.clone(), bundle, data_key, in_force })
    }

    /// What is in force, now and later.
    pub fn in_force(&self) -> CredentialsInForce {
        self.in_force.subscribe()
    }

    fn manager(&self, dial: &Arc<dyn Dial>) -> Manager {
        Manager {
            url: self.managed.manager.clone(),
            dial: Arc::clone(dial),
            credentials: self.in_force(),
        }
    }

    /// Begins to read and to keep the snapshot, if there is to be one.
    pub fn snapshot(&self, findings: &Findings) -> Option<Snapshot> {
        let managed = &self.managed;
        let path = managed.snapshot.as_deref()?;
        let prefix = scope(&managed.prefix, &self.bundle.env_id);
        let (key, env_id) = (self.data_key.clone(), &self.bundle.env_id);
        let place = Place::new(path, &managed.mtls_dir, key, env_id, &prefix);
        match Snapshot::start(place, findings.clone()) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                let text = format!(
                    "no snapshot is kept: its thread cannot be started ({error}); raise the limit of processes"
                );
                findings.found(Topic::Snapshot, text);
                None
            }
        }
    }

    /// A connection to the manager, made when it is first used.
    pub fn session(&self, dial: &Arc<dyn Dial>) -> Session {
        Session::new(self.manager(dial))
    }

    /// Starts to follow the budgets of caller keys; decisions are kept with the snapshot.
    pub fn budgets(
        &self,
        dial: &Arc<dyn Dial>,
        snapshot: Option<Snapshot>,
        findings: Findings,
    ) -> Budgets {
        let store: Arc<dyn DecisionStore> = match snapshot {
            Some(snapshot) => Arc::new(snapshot),
            None => Arc::new(Nowhere),
        };
        let manager = self.manager(dial);
        let session = move || Session::new(manager.clone());
        Budgets::start(self.managed.budgets, store, session, findings)
    }

    /// Where usage events are kept that the Cloud has not accepted.
    pub fn spool_home(&self) -> spool::Home {
        spool::Home {
            state: self.managed.state_dir().to_owned(),
            key: self.data_key.clone(),
            env_id: self.bundle.env_id.clone(),
            bytes_max: self.managed.spool_bytes_max,
        }
    }

    /// Starts the heartbeat, and what replaces the identity when its time has come.
    /// `instance` is who the Cloud knows this process as, since `started`.
    pub fn beat(&self, dial: &Arc<dyn Dial>, told: Told, instance: uuid::Uuid, started: Instant) {
        let sender = heartbeat::Sender {
            instance_id: instance,
            hostname: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            started,
        };
        let Told { projection, applied, nudge, outcome, findings, rotation, orders, exporters } =
            told;
        let facts = move || -> heartbeat::FactsToCome {
            let (projection, applied) = (projection.clone(), applied.get());
            let exporters = exporters.clone();
            Box::pin(async move {
                let report = projection.report(applied.unwrap_or_default()).await;
                let facts = report.map_or_else(|_| Facts::default(), Report::into_facts);
                Facts { exporter_health: exporters.health(), ..facts }
            })
        };
        let author = Rc::new(Author::new(sender, facts));
        let (hints_in, hints) = watch::channel(Hints::default());
        let (session, interval) = (self.session(dial), self.managed.heartbeat_interval);
        let beats = heartbeat::run(
            Rc::clone(&author),
            session,
            interval,
            Arc::clone(&nudge),
            outcome,
            hints_in,
        );
        tokio::task::spawn_local(beats);
        match bundle::watch::start(&self.managed) {
            Ok(readings) => {
                let parts = rotate::Parts {
                    managed: self.managed.clone(),
                    data_key: self.data_key.clone(),
                    in_force: self.in_force.clone(),
                    manager: self.manager(dial),
                    author,
                    nudge,
                    hints,
                    orders,
                    findings,
                    report: rotation,
                };
                tokio::task::spawn_local(rotate::run(parts, self.bundle.clone(), readings));
            }
            Err(error) => warn!("the certificate is not rotated while running: no thread: {error}"),
        }
    }
}

impl Origin {
    /// The environment; empty if there is none.
    pub fn env_id(&self) -> &str {
        match self {
            Self::Cloud(cloud) => &cloud.bundle.env_id,
            Self::Etcd(etcd) => &etcd.env_id,
            Self::File(_) => "",
        }
    }

    /// Where the projection comes from.
    pub fn source(&self) -> Result<Feed<'_>, IdentityError> {
        Ok(Feed::Store(match self {
            Self::File(path) => return Ok(Feed::File(path)),
            Self::Cloud(cloud) => projection::Source {
                endpoints: vec![cloud.managed.etcd.to_string()],
                prefix: scope(&cloud.managed.prefix, &cloud.bundle.env_id),
                tls: Some(SourceTls { credentials: cloud.in_force(), server_name: None }),
                user: None,
                dial_limit: cloud.managed.store_limits.dial,
                request_limit: cloud.managed.store_limits.request,
            },
            Self::Etcd(etcd) => projection::Source {
                endpoints: etcd.endpoints.iter().map(ToString::to_string).collect(),
                prefix: etcd.prefix.clone(),
                tls: etcd.tls.as_ref().map(etcd_tls).transpose()?,
                user: etcd.user.clone(),
                dial_limit: etcd.limits.dial,
                request_limit: etcd.limits.request,
            },
        }))
    }
}

fn etcd_tls(tls: &EtcdTls) -> Result<SourceTls, IdentityError> {
    let credentials = Credentials::new(&Identity {
        chain_pem: tls.chain_pem.clone(),
        key_pem: tls.key_pem.clone(),
        roots_pem: tls.roots_pem.clone(),
        extra_roots_pem: None,
    })?;
    // A receiver keeps the last value when its sender is gone: these credentials never change.
    let (_, credentials) = watch::channel(Arc::new(InForce::without_bundle(credentials)));
    Ok(SourceTls { credentials, server_name: tls.server_name.clone() })
}
