//! What is let through, what is given back, and which buckets a request is in.

use ::shared::resource::{
    ApiKey, Condition, Dimension, DirectModel, Model, ModelKind, PolicyScope, RateLimitPolicy,
    RateLimits, Routing, Subject,
};

use super::*;

const NOW: u64 = 1_800_000_000;

fn gate() -> Limits {
    Limits { counters: Counters::private(), shared: None }
}

fn bucket(name: &str, limits: RateLimits) -> Bucket {
    Bucket { name: name.to_owned(), limits, layer: Layer::ApiKey }
}

async fn admit(gate: &Limits, buckets: &[Bucket]) -> Result<Permit, Exceeded> {
    gate.admit(buckets.to_vec(), NOW).await
}

fn direct(id: &str, name: &str) -> Model {
    let kind = ModelKind::Direct(Box::new(DirectModel {
        provider: "openai".to_owned(),
        ..DirectModel::default()
    }));
    Model { id: id.to_owned(), display_name: name.to_owned(), kind, ..Model::default() }
}

fn group(id: &str, name: &str) -> Model {
    let kind = ModelKind::Routing(Box::<Routing>::default());
    Model { id: id.to_owned(), display_name: name.to_owned(), kind, ..Model::default() }
}

fn caller() -> ApiKey {
    ApiKey {
        id: "k".to_owned(),
        team_id: Some("t".to_owned()),
        user_id: Some("u".to_owned()),
        ..ApiKey::default()
    }
}

const RPM: RateLimits = RateLimits {
    rps: None,
    rpm: Some(1),
    rph: None,
    rpd: None,
    tpm: None,
    tpd: None,
    concurrency: None,
};

fn policy(id: &str, scope: PolicyScope) -> RateLimitPolicy {
    RateLimitPolicy {
        id: id.to_owned(),
        name: format!("policy {id}"),
        scope,
        limits: Some(RPM),
        schedules: Vec::new(),
    }
}

fn conditional(id: &str, conditions: Vec<Condition>, group_by: Vec<Dimension>) -> RateLimitPolicy {
    policy(id, PolicyScope::Conditions { conditions, group_by })
}

fn is(dimension: Dimension, value: &str) -> Condition {
    Condition::IsOneOf(dimension, vec![value.to_owned()])
}

fn names(policies: Vec<RateLimitPolicy>, asked: Asked<'_>) -> Vec<String> {
    let mut table = Policies::default();
    for policy in policies {
        table.put(policy).unwrap();
    }
    buckets(&table, asked, 0).into_iter().map(|bucket| bucket.name).collect()
}

#[tokio::test]
async fn what_one_bucket_gave_comes_back_when_another_refuses() {
    let gate = gate();
    let wide = bucket("a", RateLimits { rpm: Some(2), concurrency: Some(1), ..Default::default() });
    let none = bucket("b", RateLimits { rps: Some(0), ..Default::default() });
    for _ in 0..5 {
        let refused = admit(&gate, &[wide.clone(), none.clone()]).await.unwrap_err();
        assert_eq!((refused.what, refused.retry_after), (What::Requests, Some(1)));
    }
    let first = admit(&gate, std::slice::from_ref(&wide)).await.unwrap();
    let full = admit(&gate, std::slice::from_ref(&wide)).await.unwrap_err();
    assert_eq!((full.what, full.retry_after), (What::Concurrency, None));
    drop(first);
    drop(admit(&gate, std::slice::from_ref(&wide)).await.unwrap());
    assert_eq!(admit(&gate, &[wide]).await.unwrap_err().what, What::Requests);
}

#[tokio::test]
async fn tokens_refuse_only_once_they_are_above_the_limit_and_count_in_the_window_of_the_answer() {
    let gate = gate();
    let bucket = bucket("a", RateLimits { tpm: Some(10), ..Default::default() });
    admit(&gate, std::slice::from_ref(&bucket)).await.unwrap().settle(10, NOW);
    admit(&gate, std::slice::from_ref(&bucket)).await.unwrap().settle(1, NOW);
    let refused = admit(&gate, std::slice::from_ref(&bucket)).await.unwrap_err();
    assert_eq!(refused.to_string(), "token limit exceeded (tokens)");
    assert_eq!(refused.retry_after, Some(60 - NOW % 60));
    assert!(gate.admit(vec![bucket], NOW + 60).await.is_ok());
}

#[tokio::test]
async fn a_caller_is_told_what_is_left_after_its_request() {
    let gate = gate();
    let limits =
        RateLimits { rpm: Some(3), tpm: Some(100), concurrency: Some(2), ..Default::default() };
    let permit = admit(&gate, &[bucket("a", limits)]).await.unwrap();
    let values = permit.shown().values(30, NOW + 43);
    let told = |name: &str| {
        let place = Shown::NAMES.iter().position(|it| it.as_str() == format!("x-ratelimit-{name}"));
        values[place.unwrap()].as_ref().unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!((told("limit-requests"), told("remaining-requests")), ("3".into(), "2".into()));
    assert_eq!((told("limit-tokens"), told("remaining-tokens")), ("100".into(), "70".into()));
    assert_eq!((told("limit-concurrent"), told("remaining-concurrent")), ("2".into(), "1".into()));
    assert_eq!((told("reset-requests"), told("reset-tokens")), ("17s".into(), "17s".into()));
    let unlimited = admit(&gate, &[bucket("b", RateLimits::default())]).await.unwrap();
    assert_eq!(*unlimited.shown(), Shown::default());
    assert_eq!(unlimited.shown().values(30, NOW), [const { None }; 8]);
}

#[test]
fn a_request_is_in_the_buckets_of_its_key_its_model_and_the_policies_of_its_subjects() {
    let caller = ApiKey { rate_limits: RPM, ..caller() };
    let model = Model { rate_limits: RPM, ..direct("m", "chat") };
    let asked = Asked { caller: &caller, requested: Some(&model), target: None };
    let subject = |id: &str, subject| policy(id, PolicyScope::Subject(subject));
    let policies = vec![
        subject("1", Subject::Model("m".to_owned())),
        subject("2", Subject::ApiKey("k".to_owned())),
        subject("3", Subject::Team("t".to_owned())),
        subject("4", Subject::TeamMember("t".to_owned())),
        subject("5", Subject::Member("u".to_owned())),
        subject("6", Subject::Member("t".to_owned())),
    ];
    assert_eq!(
        names(policies, asked),
        [
            "k",
            "model:chat",
            "policy:model:m:1",
            "policy:api_key:k:2",
            "policy:team:t:3",
            "policy:team_member:t:4:u",
            "policy:member:u:5",
        ]
    );
}

#[test]
fn conditions_are_tried_and_what_lacks_a_dimension_is_not_counted_by_it() {
    let caller = caller();
    let model = direct("m", "gpt-4o");
    let asked = Asked { caller: &caller, requested: Some(&model), target: None };
    let matches = |pattern: &str, ignore_case| Condition::Matches {
        dimension: Dimension::ModelName,
        pattern: pattern.to_owned(),
        ignore_case,
    };
    let not = |condition| Condition::Not(Box::new(condition));
    let policies = vec![
        conditional("1", vec![], vec![]),
        conditional("2", vec![matches("^gpt-", false)], vec![Dimension::Team, Dimension::Model]),
        conditional("3", vec![matches("^GPT-", false)], vec![]),
        conditional("4", vec![matches("^GPT-", true), is(Dimension::Provider, "openai")], vec![]),
        conditional("5", vec![not(is(Dimension::Team, "t"))], vec![]),
        conditional("6", vec![Condition::Any(vec![is(Dimension::ApiKey, "x")])], vec![]),
    ];
    let all = ["policy:v2:1", "policy:v2:2:team=t:model=m", "policy:v2:4"];
    assert_eq!(names(policies, asked), all);
    let nobody = ApiKey { id: "k".to_owned(), ..ApiKey::default() };
    let asked = Asked { caller: &nobody, ..asked };
    assert!(names(vec![conditional("1", vec![], vec![Dimension::Member])], asked).is_empty());
}

#[test]
fn a_request_for_a_group_is_counted_once_by_each_bucket_and_matched_by_group_or_model() {
    let (caller, parent, target) = (caller(), group("g", "fast"), direct("m", "chat"));
    let target = Model { rate_limits: RPM, ..target };
    let policies = || {
        vec![
            policy("0", PolicyScope::Subject(Subject::Model("g".to_owned()))),
            conditional("1", vec![], vec![]),
            conditional("2", vec![is(Dimension::Model, "g")], vec![]),
            conditional("3", vec![is(Dimension::ModelName, "chat")], vec![Dimension::Model]),
            conditional("4", vec![Condition::Not(Box::new(is(Dimension::Model, "m")))], vec![]),
        ]
    };
    let first = Asked { caller: &caller, requested: Some(&parent), target: None };
    assert_eq!(names(policies(), first), ["policy:model:g:0", "policy:v2:1"]);
    let then = Asked { target: Some(&target), ..first };
    assert_eq!(names(policies(), then), ["model:chat", "policy:v2:2", "policy:v2:3:model=m"]);
}

#[test]
fn what_cannot_be_tried_is_not_taken_in_but_comes_back_without_limits() {
    let mut table = Policies::default();
    let pattern = "(".to_owned();
    let bad = Condition::Matches { dimension: Dimension::Team, pattern, ignore_case: false };
    for condition in [bad, Condition::Unknown, Condition::Not(Box::new(Condition::Unknown))] {
        let returned = table.put(conditional("1", vec![condition], vec![])).unwrap_err();
        assert_eq!(returned.limits, None);
    }
}
