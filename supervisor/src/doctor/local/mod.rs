//! What can be seen on this machine without asking anybody: configuration, bundle, state directory, ports, kernel, limits,
//! programs, resolver files, clock, and what the running gateway says of itself.
//!
//! Promises:
//! 1. nothing changes: no file is made, repaired, locked or moved, no port is taken;
//! 2. what the start would say is said here, from the same code (`settings/`, `bundle/`, `state/`, `listener_tls/`);
//! 3. what this user may not look at is one note ([`look::HIDDEN`]), never a finding that may be wrong.
//!
//! It reads files and tries the worker's program: it blocks, and belongs on a thread of its own in a daemon.

mod bundle;
mod configuration;
pub mod environment;
mod gateway;
mod host;
mod kernel;
mod limits;
mod locks;
pub mod look;
mod ports;
mod programs;
mod socket;
mod state;

use std::path::Path;
use std::time::SystemTime;

use self::look::{Look, Places};
use super::{Fault, Finding, Severity};
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
pub fn check(config: Option<&Path>, gateway: Option<&Status>) -> Local {
    let places = Places::default();
    let environment = environment::of_gateway(gateway, config, &places);
    examine(Look::new(config, gateway, environment, SystemTime::now(), places))
}

/// Every fault that is found here, causes first. Those that keep a gateway from starting explain `daemon-down`.
pub fn catalogue() -> Vec<&'static Fault> {
    let groups = [
        configuration::FAULTS,
        host::FAULTS,
        kernel::FAULTS,
        limits::FAULTS,
        programs::FAULTS,
        socket::FAULTS,
        bundle::FAULTS,
        state::FAULTS,
        ports::FAULTS,
        gateway::FAULTS,
        look::FAULTS,
    ];
    groups.into_iter().flatten().copied().collect()
}

fn examine(mut look: Look<'_>) -> Local {
    let settings = configuration::check(&mut look);
    host::check(&mut look);
    let mut identity = None;
    if let Some(settings) = &settings {
        if let Source::Managed(managed) = &settings.source {
            look.settle(managed.state_dir());
            identity = bundle::check(managed, &mut look);
            state::check(managed, &mut look);
        }
        ports::check(settings, &mut look);
        socket::check(settings, &mut look);
        programs::check(settings, &mut look);
    }
    kernel::check(settings.as_deref(), &mut look);
    limits::check(settings.as_deref(), &mut look);
    gateway::check(&mut look);
    Local { findings: look.into_findings(), settings, identity }
}

/// A fault that keeps the gateway from working.
const fn error(
    code: &'static str,
    title: &'static str,
    why: &'static str,
    remedy: &'static str,
    explains: &'static [&'static str],
) -> Fault {
    Fault { code, severity: Severity::Error, title, why, remedy, explains }
}

/// Works, but not as it should.
const fn warning(
    code: &'static str,
    title: &'static str,
    why: &'static str,
    remedy: &'static str,
    explains: &'static [&'static str],
) -> Fault {
    Fault { code, severity: Severity::Warning, title, why, remedy, explains }
}

/// Worth knowing.
const fn note(
    code: &'static str,
    title: &'static str,
    why: &'static str,
    remedy: &'static str,
) -> Fault {
    Fault { code, severity: Severity::Note, title, why, remedy, explains: &[] }
}

#[cfg(test)]
mod tests;
