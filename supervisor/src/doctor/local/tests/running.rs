//! What the running gateway says of itself.

use super::*;
use crate::control::status::{
    Certificate, Cloud, Configuration, FindingStatus, Rejected, Traffic, Usage,
};
use crate::sandbox_report::WorkerStatus;

/// A gateway that is well.
fn well() -> Status {
    Status {
        pid: std::process::id(),
        mode: "managed".to_owned(),
        ready: true,
        state: "ready".to_owned(),
        configuration: Configuration {
            observed_revision: Some(7),
            applied_revision: Some(7),
            source_connected: Some(true),
            ..Configuration::default()
        },
        cloud: Some(Cloud::default()),
        workers: vec![worker(1, 7, 0), worker(2, 7, 0)],
        ..Status::default()
    }
}

fn worker(id: u32, revision: i64, restarts: u64) -> WorkerStatus {
    let json = serde_json::json!({
        "id": id, "role": "proxy", "pid": 1, "uid": 1, "state": "serving", "since": "2030-01-01T00:00:00Z",
        "revision": revision, "in_flight": 0, "sandbox_level": 3, "sandbox": "full", "missing": [],
        "restarts": restarts,
    });
    serde_json::from_value(json).unwrap()
}

fn found(status: &Status, code: &str) -> String {
    let site = Site::new();
    only(&site.look_at(&site.config(), Some(status)), code)
}

#[test]
fn a_gateway_that_is_well_says_nothing() {
    let site = Site::new();
    assert_eq!(serious(&site.look_at(&site.config(), Some(&well()))), []);
}

#[test]
fn each_topic_is_told_with_what_the_gateway_says_of_it() {
    for (topic, code) in [
        ("certificate", "gateway-certificate"),
        ("listener_certificate", "gateway-listener-certificate"),
        ("rotation", "gateway-rotation-refused"),
        ("state_directory", "gateway-state-directory"),
        ("snapshot", "gateway-snapshot"),
        ("spool", "gateway-spool"),
        ("usage", "gateway-usage-lost"),
        ("budgets", "gateway-budgets-undecided"),
        ("egress", "gateway-egress-missing"),
        ("sandbox", "gateway-not-confined"),
        ("not_enforced", "gateway-not-enforced"),
        ("export", "gateway-export-failing"),
        ("quarantine", "gateway-quarantine"),
        ("redis", "gateway-redis-away"),
        ("overload", "gateway-overloaded"),
        ("replacement", "gateway-replacement-failed"),
        ("upgrade", "gateway-upgrade-failed"),
        ("of_a_later_version", "gateway-finding"),
    ] {
        let finding = FindingStatus {
            topic: topic.to_owned(),
            since: "2030-01-01T00:00:00Z".to_owned(),
            text: "these words".to_owned(),
        };
        let status = Status { findings: vec![finding], ..well() };
        let evidence = found(&status, code);
        assert!(evidence.contains(topic) && evidence.contains("these words"), "{evidence}");
    }
}

#[test]
fn what_the_status_shows_and_no_topic_has_is_told() {
    let status = Status { state: "degraded".to_owned(), ready: false, ..well() };
    found(&status, "gateway-degraded");
    let status = Status { state: "waiting".to_owned(), ready: false, ..well() };
    found(&status, "gateway-no-configuration");
    let away = Configuration {
        source_connected: Some(false),
        last_failure: Some("refused".to_owned()),
        ..well().configuration
    };
    let evidence = found(&Status { configuration: away, ..well() }, "gateway-source-away");
    assert!(evidence.contains("refused"), "{evidence}");
    let rejected = Rejected {
        resource: "models/m".to_owned(),
        reason: "no provider".to_owned(),
        stale_secs: Some(9),
    };
    let rejects =
        Configuration { rejected_count: 1, rejected: vec![rejected], ..well().configuration };
    let evidence =
        found(&Status { configuration: rejects, ..well() }, "gateway-resources-rejected");
    assert!(
        evidence.contains("models/m: no provider, an older one is served for 9 s"),
        "{evidence}"
    );
    let behind = vec![worker(1, 7, 0), worker(2, 6, 0)];
    let evidence = found(&Status { workers: behind, ..well() }, "gateway-worker-behind");
    assert!(evidence.contains("worker 2 serves revision 6"), "{evidence}");
    let restarting = vec![worker(1, 7, 5), worker(2, 7, 5)];
    let evidence = found(&Status { workers: restarting, ..well() }, "gateway-workers-restarting");
    assert!(evidence.contains("proxy: 5 times"), "{evidence}");
    let cloud = Cloud { error: Some("403".to_owned()), ..Cloud::default() };
    assert_eq!(found(&Status { cloud: Some(cloud), ..well() }, "gateway-heartbeat-failing"), "403");
    let usage = Usage { waiting: 3, oldest_age_secs: Some(999), ..Usage::default() };
    let evidence = found(&Status { usage, ..well() }, "gateway-usage-undelivered");
    assert!(evidence.contains("3 events wait, the oldest for 999 s"), "{evidence}");
    let traffic = Traffic { answered: 9, failed_since: 3, ..Traffic::default() };
    let evidence = found(&Status { traffic, ..well() }, "gateway-requests-failing");
    assert!(evidence.contains("the last 3 requests"), "{evidence}");
    let usage = Usage { dead_letters: 2, ..Usage::default() };
    found(&Status { usage, ..well() }, "gateway-usage-lost");
}

#[test]
fn a_renewal_that_the_cloud_wants_by_hand_counts_as_by_hand() {
    let mut site = Site::new();
    site.now = now() + 35 * DAY;
    let manual = |renewal: &str| Status {
        certificate: Some(Certificate {
            renewal: Some(renewal.to_owned()),
            ..Certificate::default()
        }),
        ..well()
    };
    only(&site.look_at(&site.config(), Some(&manual("manual"))), "bundle-renewal-manual");
    assert_eq!(serious(&site.look_at(&site.config(), Some(&manual("auto")))), []);
}
