//! What stays served, what is told to workers, and what is remembered about what was not taken.

use proptest::prelude::*;
use shared::resource::{Kind, Resource};

use super::*;

const GOOD: &str =
    r#"{"display_name":"chat","provider":"openai","model_name":"m","provider_key_id":"p"}"#;
const BETTER: &str =
    r#"{"display_name":"chat","provider":"openai","model_name":"n","provider_key_id":"p"}"#;
const BAD: &str =
    r#"{"display_name":"chat","provider":"openai","model_name":7,"provider_key_id":"p"}"#;

/// SHA-256 of nothing.
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn set() -> LastGood {
    LastGood::new("/e/")
}

fn put(set: &mut LastGood, key: &str, value: &str, now: UnixSeconds) -> Step {
    set.put(key.as_bytes().to_vec(), value.as_bytes().to_vec(), now)
}

fn model_name(step: &Step) -> Option<&str> {
    match step.change.as_ref()? {
        Change::Put(resource) => match &**resource {
            Resource::Model(Model {
                kind: shared::resource::ModelKind::Direct(direct),
                ..
            }) => Some(&direct.model_name),
            _ => None,
        },
        Change::Delete(..) => None,
    }
}

#[test]
fn a_guardrail_of_an_unknown_kind_is_rejected_and_guards_until_it_is_gone_or_understood() {
    const NEWER: &str = r#"{"name":"g","kind":"telepathy"}"#;
    const KNOWN: &str = r#"{"name":"g","kind":"keyword","patterns":[]}"#;
    const OFF: &str = r#"{"name":"g","kind":"keyword","patterns":[],"enabled":false}"#;
    let key = "/e/guardrails/g";
    let told = |step: &Step| match &step.change {
        Some(Change::Put(resource)) => resource.kind() == Kind::Guardrail,
        _ => false,
    };
    let gone = |step: &Step| matches!(step.change, Some(Change::Delete(Kind::Guardrail, _)));
    let mut set = set();
    let step = put(&mut set, key, NEWER, 10);
    assert!(told(&step) && step.refused.is_some());
    assert_eq!((set.config_hash().as_str(), set.rejected().count()), (NOTHING, 1));
    assert_eq!(set.guards()["guardrails"], 1);
    assert!(put(&mut set, key, NEWER, 20).change.is_none(), "workers know");
    assert!(put(&mut set, key, "no JSON", 30).change.is_none(), "it says nothing else");
    // The snapshot brings it back.
    put(&mut set, key, NEWER, 40);
    let mut restarted = LastGood::new("/e/");
    for (key, kept) in set.everything() {
        assert_eq!(restarted.take_back(key, kept.unwrap(), None, 50).len(), 1);
    }
    assert!(gone(&restarted.delete(key.as_bytes())));
    assert_eq!(restarted.guards()["guardrails"], 0);
    // Switched off, in words that are understood or in others.
    assert!(gone(&put(&mut set, key, OFF, 60)));
    assert_eq!(set.guards()["guardrails"], 0);
    set.delete(key.as_bytes());
    put(&mut set, key, NEWER, 70);
    let monitor = r#"{"name":"g","kind":"telepathy","enforcement_mode":"monitor"}"#;
    assert!(gone(&put(&mut set, key, monitor, 80)));
    // One that is switched off is nothing to serve in its place.
    assert!(put(&mut set, key, OFF, 82).change.is_none());
    assert!(told(&put(&mut set, key, NEWER, 84)));
    assert!(gone(&set.delete(key.as_bytes())));
    assert!(set.guards().values().chain(set.counts().values()).all(|count| *count == 0));
    // What is served in its place goes on.
    assert!(told(&put(&mut set, key, KNOWN, 90)));
    assert!(put(&mut set, key, NEWER, 100).change.is_none());
    assert_eq!(set.guards()["guardrails"], 1);
}

#[test]
fn a_policy_in_unknown_words_guards_its_subject_or_whatever_it_may_count() {
    use shared::resource::{Condition, PolicyScope, Subject};
    let scope = |policy: &str| match put(&mut set(), "/e/rate_limit_policies/p", policy, 10) {
        Step { change: Some(Change::Put(resource)), refused: Some(_), .. } => match *resource {
            Resource::RateLimitPolicy(policy) => Some(policy.scope),
            _ => None,
        },
        _ => None,
    };
    let of_team = PolicyScope::Subject(Subject::Team("t".to_owned()));
    let week = r#"{"name":"p","scope":"team","scope_ref":"t","window":"week","max_requests":1}"#;
    assert_eq!(scope(week), Some(of_team));
    let planet = r#"{"name":"p","scope":"planet","scope_ref":"t","window":"day","max_tokens":1}"#;
    assert_eq!(scope(planet), Some(PolicyScope::Subject(Subject::Everything)));
    let sounds = r#"{"name":"p","limits":{"rpm":1},"conditions":[
        {"dimension":"model","operator":"sounds_like","value":"x"}]}"#;
    let unknown =
        PolicyScope::Conditions { conditions: vec![Condition::Unknown], group_by: Vec::new() };
    assert_eq!(scope(sounds), Some(unknown));
    // Wrong, but in known words.
    assert_eq!(scope(r#"{"name":"p","scope":"team","window":"day","max_requests":1}"#), None);
}

#[test]
fn a_bad_document_leaves_the_older_good_one_served_until_a_good_one_comes() {
    let mut set = set();
    assert_eq!(model_name(&put(&mut set, "/e/models/a", GOOD, 10)), Some("m"));
    let served = set.config_hash();
    for now in [20, 30] {
        let step = put(&mut set, "/e/models/a", BAD, now);
        assert!(step.change.is_none());
        assert_eq!(step.refused.unwrap().kind, RefusalKind::SchemaFailed);
        let (_, rejection) = set.rejected().next().unwrap();
        assert_eq!((rejection.first_seen, rejection.last_seen), (20, now));
        assert_eq!(rejection.stale_since, Some(20));
        assert_eq!(set.config_hash(), served);
        assert_ne!(set.source_hash(), served);
        assert_eq!(set.counts()["models"], 1);
    }
    // Back to what is served anyway: nothing to tell the workers.
    assert!(put(&mut set, "/e/models/a", GOOD, 40).change.is_none());
    assert_eq!(set.rejected().count(), 0);
    assert_eq!(model_name(&put(&mut set, "/e/models/a", BETTER, 50)), Some("n"));
    assert_eq!(set.config_hash(), set.source_hash());
}

#[test]
fn a_bad_document_without_an_older_one_serves_nothing_and_counts_nothing() {
    let mut set = set();
    assert!(put(&mut set, "/e/models/a", BAD, 1).change.is_none());
    assert_eq!(set.rejected().next().unwrap().1.stale_since, None);
    assert_eq!(set.counts().values().sum::<u64>(), 0);
    assert_eq!(set.config_hash(), NOTHING);
    assert!(set.delete(b"/e/models/a").change.is_none());
    assert_eq!(set.rejected().count(), 0);
}

#[test]
fn a_delete_drops_the_last_good_document_too() {
    let mut set = set();
    put(&mut set, "/e/models/a/b", GOOD, 1);
    put(&mut set, "/e/models/a/b", BAD, 2);
    let expected = Change::Delete(Kind::Model, "a/b".to_owned());
    assert_eq!(set.delete(b"/e/models/a/b").change, Some(expected));
    assert!(set.delete(b"/e/models/a/b").change.is_none());
    assert_eq!(set.source_hash(), NOTHING);
}

#[test]
fn the_same_document_again_is_no_change_however_it_is_written() {
    let mut set = set();
    put(&mut set, "/e/models/a", GOOD, 1);
    let before = (set.served_changes(), set.observed_changes());
    assert!(put(&mut set, "/e/models/a", &GOOD.replace(',', " ,\n"), 2).change.is_none());
    assert_eq!((set.served_changes(), set.observed_changes()), before);
}

#[test]
fn every_kind_of_rejection_is_told_apart() {
    let mut set = set();
    let mut refused = |key: &str, value: &str| put(&mut set, key, value, 1).refused.unwrap().kind;
    assert_eq!(refused("/e/models/", GOOD), RefusalKind::BadKey);
    assert_eq!(refused("/other/models/a", GOOD), RefusalKind::BadKey);
    assert_eq!(refused("/e/models/a", "{"), RefusalKind::NonJson);
    assert_eq!(refused("/e/widgets/a", "{}"), RefusalKind::UnknownKind);
    assert_eq!(refused("/e/guardrails/a", "[]"), RefusalKind::SchemaFailed);
    assert_eq!(
        refused("/e/api_keys/a", r#"{"key_hash":"x","allowed_models":[],"expires_at":"x"}"#),
        RefusalKind::ParseFailed
    );
    assert_eq!(set.rejected().count(), 6);
}

#[test]
fn kinds_that_no_worker_serves_are_counted_hashed_and_reported() {
    let mut set = set();
    let step = put(&mut set, "/e/cache_policies/g", r#"{"name":"g"}"#, 1);
    assert!(step.change.is_none() && step.refused.is_none());
    assert_eq!(set.counts()["cache_policies"], 1);
    assert_eq!(set.partial_rows()[0].field, "(not enforced)");
    assert_ne!(set.config_hash(), NOTHING);
    set.delete(b"/e/cache_policies/g");
    assert!(set.partial_rows().is_empty());
}

#[test]
fn a_document_that_a_worker_could_not_read_is_not_handed_out() {
    let mut set = set();
    let models = vec!["\"\""; 900_000].join(",");
    let value = format!(r#"{{"key_hash":"x","allowed_models":[{models}]}}"#);
    let refused = put(&mut set, "/e/api_keys/k", &value, 1).refused.unwrap();
    assert!(refused.error.contains("too large"), "{refused}");
}

proptest! {
    /// Workers that apply the changes hold exactly what is served.
    #[test]
    fn workers_that_follow_the_changes_hold_what_is_served(
        steps in proptest::collection::vec((0..4u8, 0..4u8), 0..60)
    ) {
        let mut set = set();
        let mut workers = BTreeMap::new();
        let mut model = BTreeMap::new();
        for (id, what) in steps {
            let key = format!("/e/models/{id}");
            let step = match what {
                0 => { model.remove(&id); set.delete(key.as_bytes()) }
                1 => { model.insert(id, "m"); put(&mut set, &key, GOOD, 1) }
                2 => { model.insert(id, "n"); put(&mut set, &key, BETTER, 1) }
                _ => put(&mut set, &key, BAD, 1),
            };
            match &step.change {
                Some(Change::Put(resource)) => {
                    workers.insert(resource.id().to_owned(), model_name(&step).unwrap().to_owned());
                }
                Some(Change::Delete(_, id)) => { workers.remove(id); }
                None => {}
            }
            let expected: BTreeMap<_, _> =
                model.iter().map(|(id, name)| (id.to_string(), (*name).to_owned())).collect();
            prop_assert_eq!(&workers, &expected);
            prop_assert_eq!(set.counts().get("models").copied().unwrap_or(0), expected.len() as u64);
        }
    }

    #[test]
    fn no_put_can_panic(key: Vec<u8>, value: Vec<u8>) {
        let mut set = set();
        set.put([b"/e/models/", &key[..]].concat(), value.clone(), 1);
        set.put(key.clone(), value, 1);
        set.delete(&key);
    }
}
