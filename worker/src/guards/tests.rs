//! Which requests a guard refuses, and which it leaves alone.

use shared::resource::DirectModel;

use super::*;

fn model(id: &str, name: &str, provider: &str) -> Model {
    Model {
        id: id.to_owned(),
        display_name: name.to_owned(),
        kind: ModelKind::Direct(Box::new(DirectModel {
            provider: provider.to_owned(),
            model_name: name.to_owned(),
            provider_key_id: "pk".to_owned(),
            ..DirectModel::default()
        })),
        ..Model::default()
    }
}

fn caller(id: &str, team: Option<&str>, user: Option<&str>) -> ApiKey {
    ApiKey {
        id: id.to_owned(),
        team_id: team.map(str::to_owned),
        user_id: user.map(str::to_owned),
        ..ApiKey::default()
    }
}

fn attach(guards: &mut Guards, subject: Subject) {
    let (id, guardrail_id) = ("a-1".to_owned(), "g-1".to_owned());
    guards.put_attachment(GuardrailAttachment { id, guardrail_id, subject, priority: 0 });
}

fn guardrail() -> Guardrail {
    Guardrail {
        id: "g-1".to_owned(),
        name: "words".to_owned(),
        kind: "keyword".to_owned(),
        on_input: true,
        on_output: true,
        is_monitor: false,
        created_at_unix_ms: None,
        check: shared::resource::Check::NotEnforceable,
    }
}

fn policy(scope: PolicyScope) -> RateLimitPolicy {
    RateLimitPolicy {
        id: "p".to_owned(),
        name: "limit".to_owned(),
        scope,
        limits: None,
        schedules: Vec::new(),
    }
}

fn conditions(conditions: Vec<Condition>, group_by: Vec<Dimension>) -> Guards {
    let mut guards = Guards::default();
    let scope = PolicyScope::Conditions { conditions, group_by };
    guards.put_policy(policy(scope));
    guards
}

fn is(dimension: Dimension, value: &str) -> Condition {
    Condition::IsOneOf(dimension, vec![value.to_owned()])
}

#[test]
fn an_attachment_guards_its_subject_and_nobody_else_while_its_guardrail_is_there() {
    let chat = model("m-1", "chat", "openai");
    let member = caller("k-1", Some("t-1"), Some("u-1"));
    let request = Guarded { model: &chat, caller: &member };
    for (subject, guarded) in [
        (Subject::Everything, true),
        (Subject::Model("m-1".to_owned()), true),
        (Subject::Model("m-2".to_owned()), false),
        (Subject::ApiKey("k-1".to_owned()), true),
        (Subject::ApiKey("m-1".to_owned()), false),
        (Subject::Team("t-1".to_owned()), true),
        (Subject::Member("u-1".to_owned()), true),
        (Subject::Member("t-1".to_owned()), false),
        (Subject::TeamMember("t-1".to_owned()), true),
    ] {
        let mut guards = Guards::default();
        attach(&mut guards, subject.clone());
        assert_eq!(guards.find(request), None, "{subject:?} without the guardrail");
        guards.put_guardrail(guardrail());
        let found = guards.find(request);
        assert_eq!(found.is_some(), guarded, "{subject:?}");
        assert!(found.is_none_or(|found| found == "guardrail 'words' (keyword)"));
        guards.delete(Kind::Guardrail, "g-1");
        assert_eq!(guards.find(request), None, "{subject:?} after the guardrail");
    }
}

#[test]
fn an_attachment_that_moves_leaves_its_old_subject() {
    let (one, two) = (model("m-1", "one", "openai"), model("m-2", "two", "openai"));
    let caller = caller("k-1", None, None);
    let mut guards = Guards::default();
    guards.put_guardrail(guardrail());
    attach(&mut guards, Subject::Model("m-1".to_owned()));
    attach(&mut guards, Subject::Model("m-2".to_owned()));
    assert_eq!(guards.find(Guarded { model: &one, caller: &caller }), None);
    assert!(guards.find(Guarded { model: &two, caller: &caller }).is_some());
    guards.delete(Kind::GuardrailAttachment, "a-1");
    assert_eq!(guards.find(Guarded { model: &two, caller: &caller }), None);
}

#[test]
fn a_policy_for_members_of_a_team_leaves_keys_without_a_user_alone() {
    let chat = model("m-1", "chat", "openai");
    let mut guards = Guards::default();
    let scope = PolicyScope::Subject(Subject::TeamMember("t-1".to_owned()));
    guards.put_policy(policy(scope));
    let find = |caller: &ApiKey| guards.find(Guarded { model: &chat, caller });
    assert_eq!(find(&caller("k", Some("t-1"), None)), None);
    let found = find(&caller("k", Some("t-1"), Some("u"))).unwrap();
    assert_eq!(found, "rate limit policy 'limit'");
}

#[test]
fn conditions_are_tried_as_far_as_they_are_understood() {
    use Dimension::{Member, ModelName, Provider, Team};
    let regex = |pattern: &str, ignore_case| {
        let (dimension, pattern) = (ModelName, pattern.to_owned());
        Condition::Matches { dimension, pattern, ignore_case }
    };
    let not = |condition| Condition::Not(Box::new(condition));
    for (conditions_of, group_by, guarded) in [
        (vec![], vec![], true),
        (vec![], vec![Team], true),
        (vec![], vec![Member], false),
        (vec![is(Team, "t-1")], vec![], true),
        (vec![is(Team, "t-2")], vec![], false),
        (vec![is(Team, "t-1"), is(Provider, "groq")], vec![], false),
        (vec![Condition::Any(vec![is(Team, "t-2"), is(Provider, "openai")])], vec![], true),
        (vec![not(is(Team, "t-1"))], vec![], false),
        (vec![not(is(Member, "u-1"))], vec![], true),
        (vec![regex("^gpt-4", false)], vec![], true),
        (vec![regex("^GPT-4", false)], vec![], false),
        (vec![regex("^GPT-4", true)], vec![], true),
        // What cannot be read may be fulfilled, and so may its opposite.
        (vec![regex("(", false)], vec![], true),
        (vec![not(regex("(", false))], vec![], true),
        (vec![Condition::Unknown], vec![], true),
        (vec![Condition::Unknown, is(Team, "t-2")], vec![], false),
        (vec![Condition::Any(vec![])], vec![], false),
    ] {
        let guards = conditions(conditions_of.clone(), group_by.clone());
        let (chat, caller) = (model("m", "gpt-4o", "openai"), caller("k", Some("t-1"), None));
        let found = guards.find(Guarded { model: &chat, caller: &caller });
        assert_eq!(found.is_some(), guarded, "{conditions_of:?} by {group_by:?}");
    }
}

#[test]
fn a_wildcard_model_may_be_called_by_any_name_that_a_policy_counts() {
    let guards = conditions(vec![is(Dimension::ModelName, "gpt-4o")], Vec::new());
    let caller = caller("k-1", None, None);
    let find = |name| guards.find(Guarded { model: &model("m", name, "openai"), caller: &caller });
    assert!(find("gpt-*").is_some());
    assert_eq!(find("gpt-4"), None);
}
