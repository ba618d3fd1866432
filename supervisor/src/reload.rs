//! SIGHUP and `aisix reload`: the configuration file and the variables are read again, and every worker is replaced.
//!
//! 1. What cannot be used changes nothing: the reason is logged, a finding, and the answer.
//! 2. What workers are told comes into force with their replacement, which no request fails for; should the new ones not
//!    become ready, those that run go on and the former settings stay.
//! 3. A key that only a start can put in force is named, and stays as it was.
//! 4. Where resources come from a file, that is read again as well.
//! 5. The service manager is told that it begins, and that it is over, whatever came of it.

use std::path::PathBuf;

use shared::id::Role;
use shared::secret::Secret;
use shared::worker_settings::WorkerSettings;
use tracing::{info, warn};

use crate::findings::Topic;
use crate::log::Change;
use crate::settings::raw::Raw;
use crate::settings::{Loaded, MetricsListener, Observability, Proxy, Settings, Workers};
use crate::shutdown::{Limits, Stage};
use crate::supervisor::Supervisor;
use crate::worker_settings;

/// Keys, or groups of them by their dot, that come into force without a start. The edges of histograms do not: what was
/// counted by the former ones could not be told together with what is counted by others.
const LIVE: &[&str] = &[
    "proxy.request_body_limit_bytes",
    "proxy.real_ip.",
    "proxy.request_id.",
    "proxy.workers",
    "proxy.url_rewrites",
    "observability.log_level",
    "observability.access_log",
    "observability.status_page",
    "observability.metrics.prometheus.path",
    "observability.metrics.client_type_rules",
    "upstream.",
    "downstream.",
    "shutdown.",
    "supervisor.replace_drain_secs",
];

/// The keys of addresses, and who listens there.
const ADDRESSES: [(&str, Role); 2] =
    [("proxy.addr", Role::Proxy), ("observability.metrics.prometheus.addr", Role::Status)];

/// What a later reading is compared with.
pub struct Reloader {
    /// The configuration file.
    pub config: PathBuf,
    /// Its text when it was last read.
    pub text: Secret<String>,
    /// As it was written at the start: what only a start can change is that.
    pub started_with: Raw,
    /// As it was written when it was last read.
    pub last: Raw,
    /// What is in force.
    pub settings: Settings,
    /// The environment, which workers label metrics with.
    pub env_id: String,
}

/// What a reading has come to.
struct Reading {
    changed: Vec<&'static str>,
    needs_start: Vec<&'static str>,
    roles: Vec<(Role, usize, WorkerSettings)>,
    log_filter: String,
}

impl Reloader {
    /// Reads the settings again and takes over what can come into force now.
    fn read(&mut self) -> Result<Reading, String> {
        let loaded = Settings::load(&self.config, std::env::vars_os());
        let Loaded { settings, raw, text, .. } = loaded.map_err(|error| error.to_string())?;
        let change = Change::configured(&settings.observability.log_level)
            .map_err(|error| error.to_string())?;
        let log_filter = change.directives.clone();
        change.apply();
        let is_live = |name: &&'static str| LIVE.iter().any(|live| is_of(name, live));
        let changed = raw.differing(&self.last).filter(is_live).collect();
        let needs_start = raw.differing(&self.started_with).filter(|name| !is_live(name)).collect();
        self.settings = in_force(&self.settings, settings);
        self.last = raw;
        self.text = text;
        let roles = worker_settings::of_roles(&self.settings, &self.env_id, &log_filter);
        Ok(Reading { changed, needs_start, roles, log_filter })
    }
}

fn is_of(name: &str, live: &str) -> bool {
    if live.ends_with('.') { name.starts_with(live) } else { name == live }
}

/// What else is to be changed for an address whose listener comes from a socket unit.
fn of_socket_unit(needs_start: &[&str], of_units: &[String]) -> String {
    let is_of_unit = |(key, role): &(&str, Role)| {
        needs_start.contains(key) && of_units.iter().any(|of_unit| of_unit == role.name())
    };
    let keys: Vec<_> = ADDRESSES.into_iter().filter(is_of_unit).map(|(key, _)| key).collect();
    if keys.is_empty() {
        return String::new();
    }
    format!(
        "; a socket unit of the service manager listens for {}: give its ListenStream= the same address and restart that unit too, or its port stays open and nobody serves it",
        keys.join(" and ")
    )
}

/// The new settings, with what only a start can change as it is.
fn in_force(now: &Settings, new: Settings) -> Settings {
    let metrics = match (&now.observability.metrics, new.observability.metrics) {
        (Some(now), Some(new)) => Some(MetricsListener { address: now.address, path: new.path }),
        (now, _) => now.clone(),
    };
    Settings {
        source: now.source.clone(),
        control_socket: now.control_socket.clone(),
        bedrock_endpoint: now.bedrock_endpoint.clone(),
        proxy: Proxy { address: now.proxy.address, tls: now.proxy.tls.clone(), ..new.proxy },
        upstream: new.upstream,
        downstream: new.downstream,
        redis: now.redis.clone(),
        observability: Observability {
            service_name: now.observability.service_name.clone(),
            log_form: now.observability.log_form,
            metrics,
            e2e_buckets: now.observability.e2e_buckets.clone(),
            ttft_buckets: now.observability.ttft_buckets.clone(),
            guardrail_buckets: now.observability.guardrail_buckets.clone(),
            otlp: now.observability.otlp.clone(),
            ..new.observability
        },
        shutdown: new.shutdown,
        workers: Workers { replace_drain: new.workers.replace_drain, ..now.workers.clone() },
    }
}

impl Supervisor {
    /// Reads the configuration again and replaces every worker, one after the other. Returns what has come of it, in a
    /// sentence.
    pub fn reload(&mut self) -> Result<String, String> {
        if !self.is_running() {
            return Err("not reloaded: the gateway is ending".to_owned());
        }
        self.notifier.reloading();
        let now = self.now();
        let Reading { changed, needs_start, roles, log_filter } = match self.parts.reloader.read() {
            Ok(reading) => reading,
            Err(reason) => {
                let text = format!("not reloaded, and nothing has changed: {reason}");
                self.parts.sources.findings.found(Topic::Replacement, text.clone());
                // Before the answer: who waits for it finds the service manager told.
                self.notify();
                return Err(text);
            }
        };
        let settings = &self.parts.reloader.settings;
        self.parts.limits = Limits {
            min_drain: settings.shutdown.drain_min,
            max_drain: settings.shutdown.drain_max,
            listeners_stay: self.parts.limits.listeners_stay,
        };
        let fleet = &mut self.parts.fleet;
        fleet.set_replace_drain(settings.workers.replace_drain);
        // First: should the new workers not become ready, what is in force now is in force again.
        fleet.replace_all(now);
        for (role, workers, settings) in roles {
            fleet.configure(role, workers, settings, now);
        }
        // Those that finish as well, at once.
        fleet.set_log_filter(&log_filter);
        if let Some(resources) = &self.parts.reload {
            resources.ask();
        }
        let mut text = format!(
            "{} read; every worker is being replaced",
            self.parts.reloader.config.display()
        );
        if !changed.is_empty() {
            text.push_str(&format!("; changed: {}", changed.join(", ")));
        }
        if needs_start.is_empty() {
            info!("{text}");
        } else {
            text.push_str(&format!(
                "; changed, but in force only after a restart: {}",
                needs_start.join(", ")
            ));
            let of_units = &self.parts.life.of_units;
            text.push_str(&of_socket_unit(&needs_start, of_units));
            warn!("{text}");
        }
        Ok(text)
    }

    fn is_running(&self) -> bool {
        self.stage() == Stage::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::key::Key;

    #[test]
    fn every_name_that_may_change_is_in_the_table() {
        for live in LIVE {
            let group = live.strip_suffix('.');
            assert!(group.map_or_else(|| Key::find(live).is_some(), Key::is_group), "{live}");
        }
    }

    #[test]
    fn an_address_that_changed_is_told_with_the_socket_unit_if_one_listens_there() {
        let of_units = [Role::Proxy.name().to_owned()];
        let told = of_socket_unit(&["proxy.addr", "redis.url"], &of_units);
        assert!(told.contains("for proxy.addr:") && told.contains("ListenStream="), "{told}");
        assert_eq!(of_socket_unit(&["observability.metrics.prometheus.addr"], &of_units), "");
        assert_eq!(of_socket_unit(&["proxy.addr"], &[]), "");
        assert!(ADDRESSES.iter().all(|(key, _)| Key::find(key).is_some()));
    }

    #[test]
    fn a_key_is_of_a_group_by_its_dot_only() {
        assert!(is_of("upstream.tls.ca_file", "upstream."));
        assert!(!is_of("proxy.workers_more", "proxy.workers"));
        assert!(is_of("proxy.workers", "proxy.workers"));
    }
}
