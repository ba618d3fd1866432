//! What the workers are told, and what the status says, after each thing that can be seen of the store.

use serde_json::json;
use shared::update::Change;

use super::*;

const GOOD: &str =
    r#"{"display_name":"a","provider":"openai","model_name":"m","provider_key_id":"p"}"#;
const BAD: &str = r#"{"display_name":5}"#;

fn put(id: &str, value: &str) -> Event {
    Event::Put(format!("/e/models/{id}").into_bytes(), value.as_bytes().to_vec())
}

fn loaded(revision: i64, entries: &[(&str, &str)]) -> Observed {
    let entries = entries.iter().map(|(id, value)| match put(id, value) {
        Event::Put(key, value) => (key, value),
        Event::Delete(_) => unreachable!(),
    });
    Observed::Loaded { revision, entries: entries.collect() }
}

fn status(state: &mut State, applied: i64) -> serde_json::Value {
    serde_json::to_value(state.report(Revision(applied), 1_790_000_100).status).unwrap()
}

#[test]
fn before_anything_is_seen_the_status_says_so() {
    let mut state = State::new("/e/");
    assert_eq!(
        status(&mut state, 0),
        json!({"state": "never_loaded", "source": {"type": "etcd", "connected": false},
            "last_failure": null, "rejected": [], "partially_compatible": []})
    );
    state.observe(Observed::Lost { error: "refused".to_owned() }, 1_790_000_000);
    let status = status(&mut state, 0);
    assert_eq!(status["last_failure"]["last_error_kind"], "fetch");
    assert_eq!(status["last_failure"]["last_error"], "refused");
}

#[test]
fn the_first_load_is_whole_and_a_reload_holds_only_what_is_different() {
    let mut state = State::new("/e/");
    let update = state.observe(loaded(5, &[("a", GOOD), ("b", GOOD)]), 1).unwrap();
    assert!(update.whole);
    assert_eq!((update.revision, update.changes.len()), (Revision(5), 2));

    let update = state.observe(loaded(9, &[("a", GOOD), ("b", GOOD)]), 2).unwrap();
    assert!(!update.whole && update.changes.is_empty());
    assert_eq!(update.revision, Revision(9));

    let update = state.observe(loaded(12, &[("b", GOOD), ("c", GOOD)]), 3).unwrap();
    assert!(!update.whole);
    assert!(matches!(&update.changes[..], [Change::Delete(_, id), Change::Put(_)] if id == "a"));
}

#[test]
fn the_events_of_one_revision_are_one_update() {
    let mut state = State::new("/e/");
    state.observe(loaded(1, &[]), 1);
    let events = vec![put("a", GOOD), put("b", BAD), put("c", GOOD)];
    let update = state.observe(Observed::Changed { revision: 2, events }, 2).unwrap();
    assert_eq!(update.changes.len(), 2);
}

#[test]
fn a_rejected_document_alone_does_not_advance_the_applied_revision() {
    let mut state = State::new("/e/");
    state.observe(loaded(3, &[("a", GOOD)]), 1_790_000_000);
    let events = vec![put("a", BAD)];
    assert!(state.observe(Observed::Changed { revision: 4, events }, 1_790_000_020).is_none());
    let report = state.report(Revision(3), 1_790_000_100);
    let status = serde_json::to_value(&report.status).unwrap();
    assert_eq!(status["state"], "degraded");
    assert_eq!(status["source"]["observed_revision"], 4);
    assert_eq!(status["applied"]["applied_revision"], 3);
    assert_eq!(
        status["rejected"],
        json!([{"resource_kind": "models", "resource_id": "a", "last_error_kind": "schema_failed",
            "last_error": "schema validation failed at `/display_name`: expected a string",
            "first_seen_at": "2026-09-21T14:13:40Z", "last_seen_at": "2026-09-21T14:13:40Z",
            "serving_stale_since": "2026-09-21T14:13:40Z", "serving_stale_age_seconds": 80}])
    );
    assert_eq!(report.rejected_resources[0].key, "/e/models/a");
    assert_eq!(report.gauges.stale["models"], 1);
    assert_eq!(report.gauges.reload_failures["validate"], 1);
}

#[test]
fn hash_and_revision_belong_together_while_workers_are_catching_up() {
    let mut state = State::new("/e/");
    state.observe(loaded(3, &[("a", GOOD)]), 1);
    assert_eq!(status(&mut state, 0)["state"], "never_loaded");
    let first = status(&mut state, 3);
    assert_eq!(first["state"], "synced");
    assert_eq!(first["applied"]["config_hash"], first["source"]["source_hash"]);

    state.observe(Observed::Changed { revision: 4, events: vec![put("b", GOOD)] }, 2);
    let behind = status(&mut state, 3);
    assert_eq!(behind["applied"], first["applied"]);
    assert_ne!(behind["source"]["source_hash"], first["source"]["source_hash"]);
    let facts = state.report(Revision(3), 3).into_facts();
    assert_eq!(facts.applied_revision, 3);
    assert_eq!(facts.config_hash.unwrap(), first["applied"]["config_hash"]);
    let caught_up = status(&mut state, 4);
    assert_eq!(caught_up["applied"]["config_hash"], behind["source"]["source_hash"]);
    assert_eq!(caught_up["applied"]["resource_counts"], json!({"models": 2}));
}

#[test]
fn the_heartbeat_gets_the_newest_rejections() {
    let mut state = State::new("/e/");
    state.observe(loaded(1, &[]), 1);
    for n in 0..300 {
        let events = vec![put(&n.to_string(), BAD)];
        state.observe(Observed::Changed { revision: n + 2, events }, n);
    }
    let rejected = state.report(Revision(1), 400).rejected_resources;
    assert_eq!(rejected.len(), 256);
    assert_eq!(rejected[0].timestamp_unix_secs, 299);
}
