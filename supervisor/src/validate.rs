//! `aisix validate`, and the same questions asked before another program takes over. Starts nothing and writes nothing.

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use crate::bundle::Bundle;
use crate::doctor::local::environment;
use crate::doctor::local::look::Places;
use crate::handover::preflight;
use crate::listener_tls::ListenerTls;
use crate::resources;
use crate::settings::{Settings, Source};
use crate::start::StartError;

/// Names and values.
type Variables = Vec<(OsString, OsString)>;

/// Checks what is named.
pub(crate) fn validate(config: Option<&Path>, resources: Option<&Path>) -> Result<(), StartError> {
    if let Some(config) = config {
        // With what the service unit sets, where it is its configuration that is checked.
        let of_unit = environment::of_gateway(None, Some(config), &Places::default());
        validate_configuration(config, of_unit.variables)?;
    }
    resources.map_or(Ok(()), validate_resources)
}

/// Checks the configuration and the bundle or the resources that it leads to.
fn validate_configuration(config: &Path, variables: Variables) -> Result<(), StartError> {
    let loaded = Settings::load(config, variables)?;
    let bundle = match &loaded.settings.source {
        Source::Managed(managed) => Some(Bundle::examine(managed, SystemTime::now())?),
        Source::Etcd(_) => None,
        Source::File(resources) => {
            validate_resources(resources)?;
            None
        }
    };
    let tls = loaded.settings.proxy.tls.as_ref();
    let tls = tls.map(|tls| ListenerTls::open(tls, SystemTime::now())).transpose()?;
    println!("OK: {} is a valid configuration", config.display());
    if tls.is_some() {
        println!("OK: the certificate and the key of the listener belong together");
    }
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

/// Whether this program could take over from another one that runs now.
pub(crate) fn check_handover(config: &Path) -> Result<(), StartError> {
    validate_configuration(config, std::env::vars_os().collect())?;
    let loaded = Settings::load(config, std::env::vars_os())?;
    Ok(preflight::check(loaded.settings.workers.program.as_deref())?)
}
