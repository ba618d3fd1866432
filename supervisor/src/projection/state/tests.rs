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
        Event::Put(key, value) => Entry { key, value, created: 1 },
        Event::Delete(_) => unreachable!(),
    });
    Observed::Loaded { revision, entries: entries.collect() }
}

fn status(state: &mut State, applied: i64) -> serde_json::Value {
    status_at(state, applied, 1_790_000_100)
}

fn status_at(state: &mut State, applied: i64, now: UnixSeconds) -> serde_json::Value {
    serde_json::to_value(state.report(Revision(applied), now).status).unwrap()
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
    assert_eq!(status_at(&mut state, 0, 1)["state"], "never_loaded");
    let first = status_at(&mut state, 3, 2);
    assert_eq!(first["state"], "synced");
    assert_eq!(first["applied"]["config_hash"], first["source"]["source_hash"]);

    state.observe(Observed::Changed { revision: 4, events: vec![put("b", GOOD)] }, 2);
    let behind = status_at(&mut state, 3, 3);
    assert_eq!(behind["applied"], first["applied"]);
    assert_ne!(behind["source"]["source_hash"], first["source"]["source_hash"]);
    let facts = state.report(Revision(3), 3).into_facts();
    assert_eq!(facts.applied_revision, 3);
    assert_eq!(facts.config_hash.unwrap(), first["applied"]["config_hash"]);
    let caught_up = status_at(&mut state, 4, 4);
    assert_eq!(caught_up["applied"]["config_hash"], behind["source"]["source_hash"]);
    assert_eq!(caught_up["applied"]["resource_counts"], json!({"models": 2}));
    assert_eq!(caught_up["applied"]["apply_seq"], 2);
}

#[test]
fn workers_that_are_always_a_little_behind_do_not_stop_what_is_told() {
    let mut state = State::new("/e/");
    state.observe(loaded(3, &[("a", GOOD)]), 1);
    status_at(&mut state, 3, 1);
    for revision in 4..10 {
        let events = vec![put(&revision.to_string(), GOOD)];
        state.observe(Observed::Changed { revision, events }, revision);
        let told = status_at(&mut state, revision - 1, revision);
        assert_eq!(told["applied"]["applied_revision"], revision - 1);
        assert_eq!(told["applied"]["resource_counts"]["models"], revision - 3);
    }
}

#[test]
fn within_one_second_what_was_hashed_stays_what_is_told_of_its_revision() {
    let mut state = State::new("/e/");
    state.observe(loaded(3, &[("a", GOOD)]), 1);
    let first = status_at(&mut state, 3, 7);
    state.observe(Observed::Changed { revision: 4, events: vec![put("b", GOOD)] }, 7);
    let again = status_at(&mut state, 4, 7);
    assert_eq!((&again["applied"], &again["source"]), (&first["applied"], &first["source"]));
    let later = status_at(&mut state, 4, 8);
    assert_eq!(later["applied"]["applied_revision"], 4);
    assert_eq!(later["source"]["observed_revision"], 4);
    assert_eq!(later["applied"]["config_hash"], later["source"]["source_hash"]);
    // What changes nothing is told at once.
    state.observe(Observed::Progress { revision: 9 }, 8);
    assert_eq!(status_at(&mut state, 4, 8)["source"]["observed_revision"], 9);
}

#[test]
fn what_was_confirmed_before_the_store_was_set_back_confirms_nothing_of_it() {
    let mut state = State::new("/e/");
    state.observe(loaded(100, &[("a", GOOD)]), 1);
    let before = status_at(&mut state, 100, 2);
    state.observe(loaded(50, &[("b", GOOD), ("c", GOOD)]), 3);
    assert_eq!(status_at(&mut state, 100, 4)["applied"], before["applied"]);
    assert_eq!(status_at(&mut state, 50, 5)["applied"]["resource_counts"]["models"], 2);
}

#[test]
fn an_unchanged_reload_swaps_nothing() {
    let mut state = State::new("/e/");
    let documents = [("a", GOOD), ("b", GOOD)];
    state.observe(loaded(5, &documents), 1);
    let before = status_at(&mut state, 5, 2);
    let update = state.observe(loaded(8, &documents), 3).unwrap();
    assert!(!update.whole && update.changes.is_empty());
    let after = status_at(&mut state, 8, 4);
    for field in ["apply_seq", "config_hash", "resource_counts"] {
        assert_eq!(after["applied"][field], before["applied"][field], "{field}");
    }
}

#[test]
fn a_key_that_was_deleted_and_created_again_unseen_does_not_keep_its_old_value() {
    let reload = |created| {
        let mut state = State::new("/e/");
        state.observe(loaded(5, &[("a", GOOD)]), 1);
        let (key, value) = (b"/e/models/a".to_vec(), BAD.as_bytes().to_vec());
        let entries = vec![Entry { key, value, created }];
        let update = state.observe(Observed::Loaded { revision: 9, entries }, 2).unwrap();
        let stale = state.report(Revision(9), 3).gauges.stale.get("models").copied();
        (update.changes.len(), stale)
    };
    assert_eq!(reload(7), (1, None));
    assert_eq!(reload(4), (0, Some(1)));
    // A store that does not tell.
    assert_eq!(reload(0), (0, Some(1)));
}

#[test]
fn names_that_are_shared_are_reported_until_they_are_not() {
    let mut state = State::new("/e/");
    state.observe(loaded(5, &[("a", GOOD), ("b", GOOD)]), 1);
    let row = json!([{"resource_kind": "models", "field": "duplicate:display_name", "count": 2}]);
    assert_eq!(status_at(&mut state, 5, 2)["partially_compatible"], row);
    let events = vec![Event::Delete(b"/e/models/a".to_vec())];
    state.observe(Observed::Changed { revision: 6, events }, 3);
    assert_eq!(status_at(&mut state, 6, 4)["partially_compatible"], json!([]));
}

#[test]
fn what_guards_traffic_and_cannot_be_enforced_is_named_while_it_is_in_force() {
    let mut state = State::new("/e/");
    let key = || b"/e/guardrails/g".to_vec();
    let document = |enabled| {
        let value = json!({"name": "g", "kind": "lakera", "api_key": "k", "enabled": enabled});
        vec![Event::Put(key(), value.to_string().into_bytes())]
    };
    state.observe(Observed::Changed { revision: 2, events: document(true) }, 1);
    assert!(state.not_enforced().unwrap().contains("1 guardrails"));
    let update = state.observe(Observed::Changed { revision: 3, events: document(false) }, 1);
    assert_eq!(state.not_enforced(), None);
    assert!(matches!(&update.unwrap().changes[..], [Change::Delete(..)]));
    let update = state.observe(Observed::Changed { revision: 4, events: document(true) }, 1);
    assert!(matches!(&update.unwrap().changes[..], [Change::Put(..)]));
    let events = vec![Event::Delete(key())];
    let update = state.observe(Observed::Changed { revision: 5, events }, 1);
    assert!(matches!(&update.unwrap().changes[..], [Change::Delete(..)]));
    assert_eq!(state.not_enforced(), None);
}

#[test]
fn rejections_that_begin_or_end_are_news_and_those_that_go_on_are_not() {
    let mut state = State::new("/e/");
    state.observe(loaded(1, &[]), 1);
    let mut step = |revision, event| {
        let before = state.rejection_changes();
        state.observe(Observed::Changed { revision, events: vec![event] }, 1);
        state.rejection_changes() != before
    };
    assert!(!step(2, put("a", GOOD)));
    assert!(step(3, put("a", BAD)));
    assert!(!step(4, put("a", BAD)));
    assert!(step(5, put("a", "not JSON")));
    assert!(step(6, put("a", GOOD)));
    assert!(step(7, put("b", BAD)));
    assert!(step(8, Event::Delete(b"/e/models/b".to_vec())));
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
