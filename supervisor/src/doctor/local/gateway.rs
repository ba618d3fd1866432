//! What the running gateway says of itself: every topic of its findings, and what its status shows that is no topic, each a
//! fault with a remedy.

use super::look::Look;
use super::{Fault, error, note, warning};
use crate::control::status::Status;

static DEGRADED: Fault = error(
    "gateway-degraded",
    "a worker that should serve does not",
    "A worker ended, hangs or has not become ready. Others of its role serve meanwhile; one whose place cannot be filled is tried again, ever later.",
    "read the lines of the worker before its end in the log (aisix status names it); then aisix reload, or wait: it is started again by itself",
    &[],
);
static EGRESS: Fault = error(
    "gateway-egress-missing",
    "the worker that makes connections is not there",
    "Every connection to a provider and to the Cloud is made by the egress worker. Without it those that are open go on, and no new one is made.",
    "read its last lines in the log; it is started again by itself; if it is refused, install aisix-worker of the same package",
    &[
        "gateway-degraded",
        "gateway-source-away",
        "gateway-heartbeat-failing",
        "gateway-usage-undelivered",
        "gateway-budgets-undecided",
        "cloud-",
    ],
);
static RESTARTING: Fault = warning(
    "gateway-workers-restarting",
    "workers end by themselves again and again",
    "A worker that ends by itself is replaced, and what it was answering fails. Memory limits, a missing system call or a resource that it cannot bear are the usual reasons.",
    "read their last lines in the log; look at the memory limit, and at what was changed last in the configuration",
    &["gateway-degraded"],
);
static QUARANTINE: Fault = error(
    "gateway-quarantine",
    "workers died of a change of the configuration, and it is set aside",
    "Two workers ended right after the same change. Its resources are served as they were before, and those that are new are not served.",
    "change or remove the resources that the evidence names, in AISIX Cloud; a later change of them is tried again; keep the log for a support case",
    &["gateway-workers-restarting", "gateway-worker-behind", "gateway-resources-rejected"],
);
static NO_CONFIGURATION: Fault = error(
    "gateway-no-configuration",
    "the gateway has no configuration yet",
    "It runs, and no resource has come from its source since the first start; readiness is refused until one does.",
    "see to it that the source can be reached (what follows below, or aisix status), and that the environment has resources",
    &[],
);
static SOURCE_AWAY: Fault = error(
    "gateway-source-away",
    "the source of the configuration is away",
    "Changes do not arrive. What was projected last is served for as long as it takes.",
    "see why in the evidence; the network's faults are looked for separately, and would stand before this one",
    &["gateway-no-configuration"],
);
static HEARTBEAT: Fault = error(
    "gateway-heartbeat-failing",
    "the Cloud does not accept the heartbeat",
    "The Cloud shows this gateway as offline. Traffic goes on.",
    "see why in the evidence; the network's faults are looked for separately, and would stand before this one",
    &[],
);
static NOT_ENFORCED: Fault = warning(
    "gateway-not-enforced",
    "resources guard traffic in a way that this build cannot enforce",
    "What they guard is refused with 501, so that nothing passes that should have been held back.",
    "change or detach what the evidence names, or install a version that enforces it",
    &[],
);
static REJECTED: Fault = warning(
    "gateway-resources-rejected",
    "resources of the projection were rejected",
    "A document cannot be understood or refers to one that is not there. An older version of it is served, where there is one.",
    "correct the resources that the evidence names, in AISIX Cloud",
    &[],
);
static BEHIND: Fault = warning(
    "gateway-worker-behind",
    "a worker serves an older configuration than another",
    "A change is told to one worker first, and to the others once that has answered; it takes milliseconds.",
    "ask again; if it stays, aisix reload replaces the workers one after the other",
    &[],
);
static FAILING: Fault = warning(
    "gateway-requests-failing",
    "requests are not served by any upstream",
    "Several in a row have ended with an error for their upstream's sake: the provider is away, refuses its key, or cannot be reached from here.",
    "the last lines of the access log have `attempts` and the reason (`journalctl -u aisix`), `/status/models` the state of each model; check the provider's status page, its key and the way to its host",
    &[],
);
static EXPORT: Fault = warning(
    "gateway-export-failing",
    "a collector of traces does not take them",
    "Traces are kept for a while and then dropped; traffic is not affected.",
    "look at the collector's address, its certificate and the headers that it wants",
    &[],
);
static SPOOL: Fault = error(
    "gateway-spool",
    "usage events cannot be kept on disk",
    "They wait in memory, and are lost if the gateway is killed.",
    "make room on the disk, and the state directory writable for the user that runs the gateway",
    &[],
);
static USAGE: Fault = warning(
    "gateway-usage-lost",
    "usage events were refused for good, or only their totals are kept",
    "The Cloud will not accept some events (they are in dead_letters.jsonl), or there was no more room and details were folded into exact totals.",
    "let the gateway reach the Cloud, or raise managed.spool_max_bytes; look at the reasons in dead_letters.jsonl",
    &[],
);
static UNDELIVERED: Fault = warning(
    "gateway-usage-undelivered",
    "usage events wait for the Cloud",
    "They are kept until the Cloud accepts them; its figures and budgets lag meanwhile.",
    "see why in the evidence: usually the Cloud cannot be reached, or refuses this gateway",
    &[],
);
static BUDGETS: Fault = warning(
    "gateway-budgets-undecided",
    "the Cloud gives no budget decisions",
    "Each caller key is served by its last decision until that is too old, then by its fail mode; keys without one by managed.budget_unknown.",
    "let the gateway reach the Cloud; check that the keys belong to this environment",
    &[],
);
static REDIS: Fault = warning(
    "gateway-redis-away",
    "the Redis that limits are shared by cannot be used",
    "Limits are counted on this node alone, so that all nodes together allow more.",
    "see to ratelimit.redis: address, password, TLS, whether it runs; the log of the workers says why",
    &[],
);
static OVERLOADED: Fault = warning(
    "gateway-overloaded",
    "more requests come than the workers can serve",
    "Some are answered with 503 and Retry-After, the others wait in order; aisix_proxy_overload_rejections_total counts them.",
    "give the gateway more processors (proxy.workers) or more nodes, or have callers send less",
    &[],
);
static CERTIFICATE: Fault = warning(
    "gateway-certificate",
    "the certificate bundle in force is not as it should be",
    "The gateway serves with it; dates, modes or where it is kept need a look.",
    "do what the evidence says; aisix rotate asks the Cloud for a new certificate",
    &[],
);
static LISTENER: Fault = warning(
    "gateway-listener-certificate",
    "the files of the listener's certificate are not good, and the former ones are in force",
    "Changed files are checked before they come into force. Callers see the former certificate until they are good.",
    "correct the files of proxy.tls; they are read again by themselves",
    &[],
);
static ROTATION: Fault = warning(
    "gateway-rotation-refused",
    "a new certificate did not come into force",
    "A candidate is proved by a heartbeat before it is taken. The former identity goes on until its end.",
    "do what the evidence says, then aisix rotate",
    &[],
);
static STATE: Fault = warning(
    "gateway-state-directory",
    "the state directory cannot be used as it should be",
    "Without it nothing is kept for the next start, while this one goes on.",
    "do what the evidence says, then restart",
    &["gateway-snapshot", "gateway-spool"],
);
static SNAPSHOT: Fault = warning(
    "gateway-snapshot",
    "the snapshot of resources is not kept as it should be",
    "A restart while the Cloud is away serves the snapshot; with an old or without any it serves older resources or none.",
    "do what the evidence says; it is written again by itself",
    &[],
);
static NOT_CONFINED: Fault = warning(
    "gateway-not-confined",
    "workers are not fully confined",
    "What the host offers is in force; whoever took over a worker could do more than on a host that offers all of it.",
    "see what is missing in the evidence; supervisor.sandbox: required makes the gateway refuse to run so",
    &[],
);
static SOCKET: Fault = note(
    "gateway-socket-missing",
    "the gateway has no control socket where it should be",
    "Orders (status, doctor, reload, rotate, upgrade) do not reach it there.",
    "do what the evidence says, then restart",
);
static REPLACEMENT: Fault = warning(
    "gateway-replacement-failed",
    "a reload was refused, or the replacement of the workers was given up",
    "New workers have to become ready before old ones go; those that were there go on with the former settings.",
    "correct what the evidence names, check it with aisix validate, then aisix reload",
    &[],
);
static UPGRADE: Fault = warning(
    "gateway-upgrade-failed",
    "an upgrade did not take place, and the former version goes on",
    "The new program is tried first, and the old one goes on where it cannot take over.",
    "do what the evidence says, then aisix upgrade",
    &[],
);
static OTHER: Fault = warning(
    "gateway-finding",
    "the gateway reports something that this version of the doctor does not know",
    "Gateway and doctor are of different versions.",
    "read the evidence; use the doctor of the version that runs",
    &[],
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[
    &STATE,
    &EGRESS,
    &QUARANTINE,
    &RESTARTING,
    &DEGRADED,
    &HEARTBEAT,
    &SOURCE_AWAY,
    &NO_CONFIGURATION,
    &SPOOL,
    &REPLACEMENT,
    &UPGRADE,
    &CERTIFICATE,
    &ROTATION,
    &LISTENER,
    &SNAPSHOT,
    &NOT_ENFORCED,
    &REJECTED,
    &BEHIND,
    &FAILING,
    &EXPORT,
    &USAGE,
    &UNDELIVERED,
    &BUDGETS,
    &REDIS,
    &OVERLOADED,
    &NOT_CONFINED,
    &SOCKET,
    &OTHER,
];

/// So many requests in a row that no upstream has served are told.
const FAILED_MAX: u64 = 3;
/// Ended so often by itself, a role is in trouble.
const RESTARTS_MAX: u64 = 3;
/// What waits for longer, in seconds, should have been delivered.
const USAGE_AGE_MAX: u64 = 300;
/// Rejected resources that the evidence names.
const NAMED_MAX: usize = 5;

/// The fault of a topic. A topic that is added needs one.
fn of_topic(name: &str) -> &'static Fault {
    match name {
        "certificate" => &CERTIFICATE,
        "listener_certificate" => &LISTENER,
        "rotation" => &ROTATION,
        "state_directory" => &STATE,
        "snapshot" => &SNAPSHOT,
        "spool" => &SPOOL,
        "usage" => &USAGE,
        "budgets" => &BUDGETS,
        "egress" => &EGRESS,
        "sandbox" => &NOT_CONFINED,
        "control_socket" => &SOCKET,
        "not_enforced" => &NOT_ENFORCED,
        "quarantine" => &QUARANTINE,
        "export" => &EXPORT,
        "redis" => &REDIS,
        "overload" => &OVERLOADED,
        "replacement" => &REPLACEMENT,
        "upgrade" => &UPGRADE,
        _ => &OTHER,
    }
}

/// Turns the status into findings.
pub fn check(look: &mut Look<'_>) {
    let Some(status) = look.gateway else { return };
    for finding in &status.findings {
        let fault = of_topic(&finding.topic);
        let topic = &finding.topic;
        look.found(fault, format!("{topic}, since {}: {}", finding.since, finding.text));
    }
    let has = |topic: &str| status.findings.iter().any(|finding| finding.topic == topic);
    workers(status, look);
    source(status, look);
    if let Some(error) = status.cloud.as_ref().and_then(|cloud| cloud.error.as_ref()) {
        look.found(&HEARTBEAT, error.as_str());
    }
    let usage = &status.usage;
    let old = usage.oldest_age_secs.filter(|age| *age > USAGE_AGE_MAX);
    if !has("usage") && (usage.error.is_some() || old.is_some()) {
        let age = usage.oldest_age_secs.unwrap_or_default();
        let why = usage.error.as_deref().unwrap_or("no reason is known");
        let evidence = format!("{} events wait, the oldest for {age} s: {why}", usage.waiting);
        look.found(&UNDELIVERED, evidence);
    }
    let failed = status.traffic.failed_since;
    if failed >= FAILED_MAX {
        let last = status.traffic.last_success_at.as_deref().unwrap_or("none since the start");
        look.found(&FAILING, format!("the last {failed} requests; last success: {last}"));
    }
    if !has("usage") && (usage.shed > 0 || usage.dead_letters > 0) {
        let (shed, dead) = (usage.shed, usage.dead_letters);
        let evidence = format!("{dead} were refused for good, of {shed} only totals are kept");
        look.found(&USAGE, evidence);
    }
}

fn workers(status: &Status, look: &mut Look<'_>) {
    if status.state == "degraded" {
        let down = status.workers.iter().filter(|worker| worker.state != "serving");
        let down: Vec<_> = down
            .map(|it| format!("worker {} ({}) is {} since {}", it.id, it.role, it.state, it.since))
            .collect();
        let told = if down.is_empty() { "a worker is missing".to_owned() } else { down.join("; ") };
        look.found(&DEGRADED, told);
    }
    let mut restarts: Vec<_> =
        status.workers.iter().map(|worker| (worker.role.as_str(), worker.restarts)).collect();
    restarts.sort_unstable();
    restarts.dedup();
    restarts.retain(|(_, count)| *count >= RESTARTS_MAX);
    if !restarts.is_empty() {
        let told: Vec<_> =
            restarts.iter().map(|(role, count)| format!("{role}: {count} times")).collect();
        let uptime = status.uptime_secs;
        look.found(&RESTARTING, format!("{} within {uptime} s", told.join(", ")));
    }
    let serving = status.workers.iter().filter(|it| it.role == "proxy" && it.state == "serving");
    let revisions: Vec<_> = serving.filter_map(|it| Some((it.revision?, it.id))).collect();
    if let (Some((oldest, id)), Some((newest, _))) =
        (revisions.iter().min(), revisions.iter().max())
        && oldest < newest
    {
        let evidence = format!("worker {id} serves revision {oldest}, another {newest}");
        look.found(&BEHIND, evidence);
    }
}

fn source(status: &Status, look: &mut Look<'_>) {
    let configuration = &status.configuration;
    if configuration.source_connected == Some(false) {
        let why = configuration.last_failure.as_deref().unwrap_or("no reason is known");
        let seen = configuration.last_contact_at.as_deref().unwrap_or("never");
        look.found(&SOURCE_AWAY, format!("last heard of {seen}: {why}"));
    }
    if status.state == "waiting" {
        look.found(&NO_CONFIGURATION, format!("it has waited for {} s", status.uptime_secs));
    }
    if configuration.rejected_count > 0 {
        let named = configuration.rejected.iter().take(NAMED_MAX).map(|it| {
            let stale = it.stale_secs.map(|age| format!(", an older one is served for {age} s"));
            format!("{}: {}{}", it.resource, it.reason, stale.unwrap_or_default())
        });
        let named = named.collect::<Vec<_>>().join("; ");
        look.found(&REJECTED, format!("{}: {named}", configuration.rejected_count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Topic;

    #[test]
    fn every_topic_has_a_fault_of_its_own() {
        // A topic that is added is missing here until it is in `of_topic`, too.
        let all = [
            Topic::Certificate,
            Topic::ListenerCertificate,
            Topic::Rotation,
            Topic::StateDirectory,
            Topic::Snapshot,
            Topic::Spool,
            Topic::Usage,
            Topic::Budgets,
            Topic::Egress,
            Topic::Sandbox,
            Topic::ControlSocket,
            Topic::NotEnforced,
            Topic::Quarantine,
            Topic::Export,
            Topic::Redis,
            Topic::Overload,
            Topic::Replacement,
            Topic::Upgrade,
        ];
        let mut codes: Vec<_> = all.iter().map(|topic| of_topic(topic.name()).code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all.len());
        assert!(!codes.contains(&OTHER.code));
    }
}
