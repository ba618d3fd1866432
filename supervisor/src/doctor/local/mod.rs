//! What can be seen on this machine without asking anybody.

use std::path::Path;
use std::time::SystemTime;

use super::{Fault, Finding};
use crate::bundle::Bundle;
use crate::bundle::open::read_files;
use crate::bundle::source::BundleSource;
use crate::cloud::tls::Identity;
use crate::control::status::Status;
use crate::settings::{Settings, Source};

/// What was seen here, and what further checks go on with.
#[derive(Debug, Default)]
pub struct Local {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The settings, if they can be read and used.
    pub settings: Option<Box<Settings>>,
    /// The certificate bundle, if it can be read and TLS can use it; expired or not.
    pub identity: Option<Identity>,
}

/// Looks at the configuration that is named and at what it leads to. `gateway` is what the gateway says that runs with it.
pub fn check(config: Option<&Path>, _gateway: Option<&Status>) -> Local {
    let loaded = config.and_then(|config| Settings::load(config, std::env::vars_os()).ok());
    let settings = loaded.map(|loaded| Box::new(loaded.settings));
    let identity = settings.as_ref().and_then(|settings| match &settings.source {
        Source::Managed(managed) => {
            let extra_roots_pem =
                Bundle::examine(managed, SystemTime::now()).ok().and_then(|it| it.extra_roots_pem);
            let BundleSource::Files { chain, key, roots } = &managed.bundle else { return None };
            let parts = read_files(chain, key, roots).ok()?;
            Some(Identity {
                chain_pem: parts.chain,
                key_pem: parts.key,
                roots_pem: parts.roots,
                extra_roots_pem,
            })
        }
        Source::Etcd(_) | Source::File(_) => None,
    });
    Local { findings: Vec::new(), settings, identity }
}

/// Every fault that is found here, causes first. Those that keep a gateway from starting explain `daemon-down`.
pub fn catalogue() -> Vec<&'static Fault> {
    Vec::new()
}
