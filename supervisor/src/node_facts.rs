//! What the metrics tell of the node, gathered from whoever knows it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shared::id::Role;

use crate::cloud::usage_status::usage_facts;
use crate::findings::Topic;
use crate::fleet::Summary;
use crate::metrics::{ChannelFacts, ConfigFacts, NodeFacts, ProcessFacts};
use crate::pages::{Sources, Workers};
use crate::process::{View, usage};
use crate::projection::report::Gauges;
use crate::state::snapshot::Snapshot;
use crate::worker_log;

/// The node at this moment. `gauges` is what the projection tells of itself.
pub fn of(sources: &Sources, gauges: Gauges, workers: &Workers) -> NodeFacts {
    let found = sources.findings.list();
    let is_found = |topic| found.iter().any(|(other, _)| *other == topic);
    let in_force = sources.identity.as_ref().map(|identity| identity.borrow());
    let bundle = in_force.as_ref().and_then(|in_force| in_force.bundle.as_ref());
    NodeFacts {
        channels: channels(sources, &gauges),
        config: config(sources, gauges),
        workers: workers.facts.clone(),
        processes: processes(sources, workers),
        snapshot: sources.snapshot.as_ref().map(Snapshot::status),
        usage: usage_facts(&sources.telemetry.report()),
        heartbeat_failures: sources.heartbeat.get().failures,
        findings: Topic::ALL.into_iter().map(|topic| (topic.name(), is_found(topic))).collect(),
        rotation: sources.rotation.facts(),
        certificate: bundle.map(|bundle| (bundle.not_before_unix, bundle.not_after_unix)),
        log_lines_dropped: worker_log::dropped(),
        uptime_seconds: sources.started.elapsed().as_secs(),
    }
}

/// The supervisor, and every worker that runs.
fn processes(sources: &Sources, workers: &Workers) -> Vec<ProcessFacts> {
    let supervisor = ProcessFacts {
        role: "supervisor",
        worker: None,
        usage: usage::of(&View::own()),
        started_at_unix: ago(sources.started.elapsed()),
        sandbox: None,
        serving: None,
    };
    let worker = |worker: &Summary| ProcessFacts {
        role: worker.role.name(),
        worker: Some(worker.id.0),
        usage: usage::of(&worker.view),
        started_at_unix: ago(worker.uptime),
        sandbox: worker.level.map(|level| (level.number(), worker.landlock_abi)),
        serving: (worker.role == Role::Proxy)
            .then_some((worker.in_flight, worker.revision.map(|revision| revision.0))),
    };
    [supervisor].into_iter().chain(workers.each.iter().map(worker)).collect()
}

/// How the Cloud, or whatever store there is, is reached.
fn channels(sources: &Sources, gauges: &Gauges) -> Vec<ChannelFacts> {
    let mut channels = vec![ChannelFacts {
        name: "configuration",
        is_up: Some(gauges.source_connected),
        last_success_at_unix: gauges.last_contact,
        failures: gauges.reload_failures.get("fetch").copied().unwrap_or_default(),
    }];
    if sources.identity.is_some() {
        let heartbeat = sources.heartbeat.get();
        let is_tried = heartbeat.last_success.is_some() || heartbeat.failures > 0;
        channels.push(ChannelFacts {
            name: "heartbeat",
            is_up: is_tried.then_some(heartbeat.error.is_none()),
            last_success_at_unix: heartbeat.last_success.map(unix),
            failures: heartbeat.failures,
        });
        let usage = sources.telemetry.report();
        let is_tried = usage.last_success.is_some() || usage.failures > 0;
        channels.push(ChannelFacts {
            name: "usage",
            is_up: is_tried.then_some(usage.error.is_none()),
            last_success_at_unix: usage.last_success.map(unix),
            failures: usage.failures,
        });
    }
    channels.extend(sources.budgets.as_ref().and_then(|budgets| budgets.channel()));
    channels
}

fn config(sources: &Sources, gauges: Gauges) -> ConfigFacts {
    let counts = |map: std::collections::BTreeMap<String, u64>| map.into_iter().collect();
    let (propagation, under_way) = sources.projection.propagation().facts(Instant::now());
    let failures = gauges.reload_failures.into_iter();
    ConfigFacts {
        last_reload_successful: gauges.last_reload_successful,
        last_reload_success_at_unix: gauges.last_reload_success,
        reloads: gauges.reloads,
        reload_failures: failures.map(|(reason, count)| (reason.to_owned(), count)).collect(),
        rejected: counts(gauges.rejected),
        partially_compatible: counts(gauges.partially_compatible),
        stale_served: counts(gauges.stale),
        observed_revision: Some(gauges.observed_revision),
        applied_revision: Some(gauges.applied_revision),
        hash: gauges.config_hash,
        former_hashes: gauges.former_hashes,
        source_connected: gauges.source_connected,
        propagation,
        under_way,
    }
}

fn ago(age: Duration) -> i64 {
    unix(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH))
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
