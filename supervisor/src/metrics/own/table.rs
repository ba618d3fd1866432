//! Every family of the supervisor: name, kind, labels, and what it counts. `METRICS.md` is made from it.
//!
//! The families of the configuration, of budgets and of deployments are the published ones, which dashboards and alerts
//! rely on; the others are this gateway's own. Values of labels are words of this program, names of configured resources, or
//! numbers of running processes.

use super::{Own, OwnKind, Part};

use OwnKind::{Counter, Gauge, OfProcess};

const HISTOGRAM: OwnKind = OwnKind::Histogram(Part::Buckets);

/// A line per family.
macro_rules! families {
    ($($constant:ident = $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Own =
                Own { name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )*
        /// Every family of the supervisor.
        pub static OWN: &[&Own] = &[$(&$constant),*];
    };
}

families! {
    BUILD_INFO = Gauge, "aisix_build_info", ["version", "protocol"],
        "Always 1; the labels say which build runs and the version of the protocol with its workers.";
    UPTIME = Gauge, "aisix_uptime_seconds", [], "Time since the start of the gateway.";
    FINDINGS = Gauge, "aisix_findings", ["topic"],
        "Whether something about the topic is not as it should be (1); /status/managed and aisix status say what.";
    LOG_LINES_DROPPED = Counter, "aisix_log_lines_dropped_total", ["role"],
        "Log lines of workers that were not passed on, because there were too many at once.";

    WORKERS_UP = Gauge, "aisix_workers_up", ["role"], "Worker processes that are ready, by role.";
    WORKER_RESTARTS = Counter, "aisix_worker_restarts_total", ["role", "reason"],
        "Worker processes started in place of one that had ended: crashed, hung, refused its configuration, killed from outside, or left.";
    WORKER_REQUESTS = OfProcess, "aisix_worker_requests_total", ["worker"],
        "Requests that a running proxy worker has answered.";
    WORKER_IN_FLIGHT = Gauge, "aisix_worker_in_flight_requests", ["worker"],
        "Requests that a proxy worker serves, as it last told.";
    WORKER_REVISION = Gauge, "aisix_worker_applied_revision", ["worker"],
        "Revision of the configuration that a proxy worker serves.";
    SANDBOX_LEVEL = Gauge, "aisix_sandbox_level", ["role", "worker"],
        "How well a worker is confined: 3 fully, 2 but for lesser parts, 1 partly, 0 not.";
    SANDBOX_LANDLOCK = Gauge, "aisix_sandbox_landlock_abi", ["role", "worker"],
        "Version of Landlock that confines a worker; 0 without.";

    PROCESS_CPU = OfProcess, "aisix_process_cpu_seconds_total", ["role", "worker"],
        "Processor time that a process of the gateway has used.";
    PROCESS_MEMORY = Gauge, "aisix_process_resident_memory_bytes", ["role", "worker"],
        "Memory of a process of the gateway that is resident.";
    PROCESS_OPEN_FDS = Gauge, "aisix_process_open_fds", ["role", "worker"],
        "Open file descriptors of a process of the gateway.";
    PROCESS_MAX_FDS = Gauge, "aisix_process_max_fds", ["role", "worker"],
        "File descriptors that a process of the gateway may open.";
    PROCESS_THREADS = Gauge, "aisix_process_threads", ["role", "worker"],
        "Threads of a process of the gateway.";
    PROCESS_START = Gauge, "aisix_process_start_time_seconds", ["role", "worker"],
        "When a process of the gateway was started, in seconds since 1970.";

    CERTIFICATE_EXPIRY = Gauge, "aisix_certificate_expiry_timestamp_seconds", [],
        "When the certificate in force expires.";
    CERTIFICATE_START = Gauge, "aisix_certificate_not_before_timestamp_seconds", [],
        "From when on the certificate in force is valid.";
    RENEWAL_PLANNED = Gauge, "aisix_certificate_renewal_timestamp_seconds", [],
        "When the control plane is asked for the next certificate.";
    ROTATIONS = Counter, "aisix_bundle_rotations_total", ["source"],
        "New certificate bundles that came into force, by source.";
    REJECTIONS = Counter, "aisix_bundle_rejected_total", ["reason"],
        "New certificate bundles that did not come into force, by reason.";
    LAST_ROTATION = Gauge, "aisix_bundle_last_rotation_timestamp_seconds", [],
        "When a new certificate bundle last came into force.";
    LAST_REJECTION = Gauge, "aisix_bundle_last_rejection_timestamp_seconds", [],
        "When a new certificate bundle last did not come into force.";
    LAST_OUTCOME = Gauge, "aisix_bundle_last_rotation_successful", [],
        "Whether the latest new certificate bundle came into force.";
    CANDIDATE_WAITING = Gauge, "aisix_bundle_candidate_waiting", [],
        "Whether a new certificate bundle waits for its proof.";
    LISTENER_EXPIRY = Gauge, "aisix_listener_certificate_expiry_timestamp_seconds", [],
        "When the certificate that callers are shown expires.";
    LISTENER_RELOADS = Counter, "aisix_listener_certificate_reloads_total", ["result"],
        "Changed files of the listener's certificate and key: taken, or why not.";

    CLOUD_UP = Gauge, "aisix_cloud_channel_up", ["channel"],
        "Whether the latest contact with the control plane on a channel was good: heartbeat, configuration, usage, budgets.";
    CLOUD_SUCCESS = Gauge, "aisix_cloud_last_success_timestamp_seconds", ["channel"],
        "When the control plane last answered well on a channel.";
    CLOUD_FAILURES = Counter, "aisix_cloud_failures_total", ["channel"],
        "Contacts with the control plane that failed, by channel.";
    HEARTBEAT_FAILURES = Counter, "aisix_heartbeat_failures_total", [],
        "Heartbeats that the control plane did not accept.";

    RELOAD_SUCCESSFUL = Gauge, "aisix_config_last_reload_successful", [],
        "Whether the last load of the configuration was taken without a rejection.";
    RELOAD_SUCCESS_TIME = Gauge, "aisix_config_last_reload_success_timestamp_seconds", [],
        "When the configuration was last loaded.";
    RELOADS = Counter, "aisix_config_reloads_total", [],
        "Full loads of the configuration and failures to fetch it.";
    RELOAD_FAILURES = Counter, "aisix_config_reload_failures_total", ["reason"],
        "Loads of the configuration that failed, by reason.";
    REJECTED_RESOURCES = Gauge, "aisix_config_rejected_resources", ["kind"],
        "Resources that are not valid, by kind.";
    PARTIAL_RESOURCES = Gauge, "aisix_config_partially_compatible_resources", ["kind"],
        "Resources with fields that this gateway does not know, by kind.";
    STALE_RESOURCES = Gauge, "aisix_config_stale_served_resources", ["kind"],
        "Resources of which an older version is served, by kind.";
    OBSERVED_REVISION = Gauge, "aisix_config_observed_revision", [],
        "Revision of the configuration that was seen last.";
    APPLIED_REVISION = Gauge, "aisix_config_applied_revision", [],
        "Revision of the configuration in force in every worker.";
    CONFIG_HASH = Gauge, "aisix_config_hash_info", ["hash"],
        "Hash of the configuration in force (1) and of former ones (0).";
    SOURCE_CONNECTED = Gauge, "aisix_config_source_connected", [],
        "Whether there is a connection to the source of the configuration.";
    PROPAGATION = HISTOGRAM, "aisix_config_propagation_seconds", [],
        "Time from when a revision of the configuration was seen until every worker served it, each revision once.";
    UNDER_WAY = Gauge, "aisix_config_revisions_under_way", [],
        "Revisions that were seen and are not served by every worker yet.";
    UNDER_WAY_AGE = Gauge, "aisix_config_oldest_under_way_seconds", [],
        "How long ago the oldest of those was seen; 0 without any.";

    SNAPSHOT_REVISION = Gauge, "aisix_snapshot_revision", [],
        "Revision of the configuration that is kept on disk.";
    SNAPSHOT_WRITTEN_AT = Gauge, "aisix_snapshot_last_write_timestamp_seconds", [],
        "When the snapshot was last written.";
    SNAPSHOT_BYTES = Gauge, "aisix_snapshot_bytes", [], "Size of the snapshot on disk.";
    SNAPSHOT_WRITTEN = Counter, "aisix_snapshot_written_bytes_total", [],
        "Bytes written to the snapshot and the generation before it.";
    SNAPSHOT_FAILURES = Counter, "aisix_snapshot_write_failures_total", [],
        "Writes of the snapshot that failed.";

    SPOOL_EVENTS = Gauge, "aisix_usage_spool_events", [],
        "Usage events that the control plane has not accepted yet.";
    SPOOL_UNWRITTEN = Gauge, "aisix_usage_spool_unwritten_events", [],
        "Those of them that are in memory alone.";
    SPOOL_FOLDED = Gauge, "aisix_usage_spool_folded_events", [],
        "Usage events of which only totals wait for the control plane.";
    SPOOL_BYTES = Gauge, "aisix_usage_spool_bytes", [],
        "What waiting usage events take on disk, in bytes.";
    SPOOL_AGE = Gauge, "aisix_usage_spool_oldest_age_seconds", [],
        "Age of the oldest usage event that waits.";
    USAGE_ACCEPTED = Counter, "aisix_usage_accepted_total", [],
        "Usage events that the control plane has accepted.";
    USAGE_SHED = Counter, "aisix_usage_shed_total", [],
        "Usage events whose details were dropped; their totals are kept.";
    DEAD_LETTERS = Counter, "aisix_usage_dead_letters_total", [],
        "Usage events that the control plane will not accept, kept in a file.";

    BUDGET_LIMIT = Gauge, "aisix_budget_limit_usd", ["api_key_id", "team_id", "user_id"],
        "Budget of a caller key.";
    BUDGET_SPENT = Gauge, "aisix_budget_spent_usd", ["api_key_id", "team_id", "user_id"],
        "What was spent of it.";
    BUDGET_REMAINING = Gauge, "aisix_budget_remaining_usd", ["api_key_id", "team_id", "user_id"],
        "What is left of it.";
    BUDGET_RESET = Gauge, "aisix_budget_reset_seconds", ["api_key_id", "team_id", "user_id"],
        "Time until it begins anew.";
    BUDGET_DETAILS = Gauge, "aisix_budget_details_present", ["api_key_id", "team_id", "user_id"],
        "Whether the Cloud tells amounts.";
    BUDGET_CHECKS = Counter, "aisix_budget_checks_total", [],
        "Budget decisions asked of the control plane.";
    BUDGET_FAILURES = Counter, "aisix_budget_check_failures_total", [],
        "Of those, how many brought no decision.";
    BUDGET_OLDEST = Gauge, "aisix_budget_oldest_decision_seconds", [],
        "Age of the oldest decision of a caller key in use.";
    BUDGET_KEYS = Gauge, "aisix_budget_keys", ["state"],
        "Caller keys: known, decided; in_use and of those undecided, or stale, which is served by its fail mode; denied.";

    DEPLOYMENT_STATE = Gauge, "aisix_deployment_state",
        ["provider", "model", "upstream_model", "provider_key_id"],
        "Whether an upstream model is asked: 0 if it is healthy, 2 if it is left alone or down.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use shared::metric::FAMILIES;

    use super::*;

    #[test]
    fn no_name_is_given_twice_by_whoever_counts_and_every_family_is_explained() {
        let of_workers = FAMILIES.iter().map(|family| family.name);
        let names: BTreeSet<_> = OWN.iter().map(|own| own.name).chain(of_workers).collect();
        assert_eq!(names.len(), OWN.len() + FAMILIES.len());
        for own in OWN {
            assert!(own.help.ends_with('.') && own.name.starts_with("aisix_"), "{}", own.name);
            let labels: BTreeSet<_> = own.labels.iter().collect();
            assert_eq!(labels.len(), own.labels.len(), "{}", own.name);
        }
    }

    #[test]
    fn only_what_grows_is_called_a_total() {
        for own in OWN {
            let grows = matches!(own.kind, Counter | OfProcess);
            assert_eq!(own.name.ends_with("_total"), grows, "{}", own.name);
        }
    }
}
