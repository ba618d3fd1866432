//! Where resources come from and whom the gateway reports to: AISIX Cloud, or an etcd of one's own.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use shared::dial::Dial;
use shared::id::Revision;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::bundle::{Bundle, BundleError};
use crate::cloud::heartbeat::{self, Facts, OutcomeCell};
use crate::cloud::manager::{Manager, Session};
use crate::cloud::tls::{Credentials, CredentialsInForce, Identity, IdentityError};
use crate::findings::{Findings, Topic};
use crate::projection::{self, Report, SourceTls};
use crate::settings::source::scope;
use crate::settings::{Etcd, EtcdTls, Managed};
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
}

/// The Cloud side of a managed gateway.
pub struct Cloud {
    managed: Managed,
    /// The bundle in force.
    pub bundle: Bundle,
    /// What the state directory is sealed with.
    pub data_key: DataKey,
    credentials: CredentialsInForce,
    /// Keeps the credentials in force; a rotation will put new ones here.
    _credentials_source: watch::Sender<Arc<Credentials>>,
}

impl Cloud {
    /// Finds the bundle, checks it and puts it in force.
    pub fn open(managed: &Managed, findings: &Findings) -> Result<Self, OpenError> {
        let (bundle, data_key) = Bundle::open(managed, SystemTime::now())?;
        if !bundle.findings.is_empty() {
            findings.found(Topic::Certificate, bundle.findings.join("; "));
        }
        info!(env_id = bundle.env_id, dp_id = bundle.dp_id.as_deref().unwrap_or("(none)"),
            origin = %bundle.origin, "certificate bundle in force");
        let credentials = Credentials::new(&Identity {
            chain_pem: bundle.chain_pem.clone(),
            key_pem: bundle.key_pem.clone(),
            roots_pem: bundle.roots_pem.clone(),
            extra_roots_pem: bundle.extra_roots_pem.clone(),
        })?;
        let (source, credentials) = watch::channel(Arc::new(credentials));
        Ok(Self {
            managed: managed.clone(),
            bundle,
            data_key,
            credentials,
            _credentials_source: source,
        })
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
        Session::new(Manager {
            url: self.managed.manager.clone(),
            dial: Arc::clone(dial),
            credentials: self.credentials.clone(),
        })
    }

    /// Starts the heartbeat, unless the identity lacks the id that it is sent under.
    pub fn beat(&self, dial: &Arc<dyn Dial>, told: Told) {
        let Some(dp_id) = self.bundle.dp_id.clone() else {
            warn!(
                "no heartbeat is sent: the persisted identity has no data plane id; supply the bundle again"
            );
            return;
        };
        let sender = heartbeat::Sender {
            dp_id,
            instance_id: uuid::Uuid::new_v4(),
            hostname: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            started: Instant::now(),
        };
        let Told { projection, applied, nudge, outcome } = told;
        let facts = move || {
            let (projection, applied) = (projection.clone(), applied.get());
            async move {
                let report = projection.report(applied.unwrap_or_default()).await;
                report.map_or_else(|_| Facts::default(), Report::into_facts)
            }
        };
        let session = self.session(dial);
        let interval = self.managed.heartbeat_interval;
        tokio::task::spawn_local(heartbeat::run(sender, session, interval, nudge, outcome, facts));
    }
}

impl Origin {
    /// The environment; empty if there is none.
    pub fn env_id(&self) -> &str {
        match self {
            Self::Cloud(cloud) => &cloud.bundle.env_id,
            Self::Etcd(etcd) => &etcd.env_id,
        }
    }

    /// Where the projection comes from.
    pub fn source(&self) -> Result<projection::Source, IdentityError> {
        Ok(match self {
            Self::Cloud(cloud) => projection::Source {
                endpoints: vec![cloud.managed.etcd.to_string()],
                prefix: scope(&cloud.managed.prefix, &cloud.bundle.env_id),
                tls: Some(SourceTls { credentials: cloud.credentials.clone(), server_name: None }),
                user: None,
            },
            Self::Etcd(etcd) => projection::Source {
                endpoints: etcd.endpoints.iter().map(ToString::to_string).collect(),
                prefix: etcd.prefix.clone(),
                tls: etcd.tls.as_ref().map(etcd_tls).transpose()?,
                user: etcd.user.clone(),
            },
        })
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
    let (_, credentials) = watch::channel(Arc::new(credentials));
    Ok(SourceTls { credentials, server_name: tls.server_name.clone() })
}
