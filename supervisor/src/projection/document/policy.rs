//! `rate_limit_policies`: either limits of one subject, or limits of all requests that fulfil conditions. Of one that this
//! build does not understand, what it would count is refused.

use regex::RegexBuilder;
use serde_json::{Map, Value};
use shared::resource::{
    Condition, Days, Dimension, PolicyScope, RateLimitPolicy, RateLimits, Resource, Schedule,
    Subject,
};

use super::shape::Rule::{Bool, Choice, Count32, Either, Like, List, Object};
use super::shape::{
    ANY_TEXT, COUNT, Field, POSITIVE, Rule, TEXT, TEXTS, field, has_any, is_enabled, needed, text,
};
use super::{Refusal, schema_failed};

const MANY: usize = usize::MAX;
/// A compiled expression may take so many bytes; a policy with a larger one is not understood.
const REGEX_BYTES_MAX: usize = 256 * 1024;

type Words = &'static [&'static str];
const ACTIONS: Words = &["reject"];
const GROUPS: Words = &["team", "member", "api_key", "model", "provider"];
const SCOPES: Words = &["api_key", "model", "team", "member", "team_member"];
const WINDOWS: Words = &["second", "minute", "hour", "day"];
const DIMENSIONS: Words = &["team", "member", "api_key", "model", "model_name", "provider"];
const OPERATORS: Words = &["==", "~=", "~~", "~*", "in", "has", ">", ">=", "<", "<=", "ipmatch"];
const LOGICS: Words = &["and", "or"];

/// A rate limit policy; [`extra`] has what its two forms exclude.
pub static POLICY: Rule = Object(&[
    needed("name", TEXT),
    field("action", Choice(ACTIONS)),
    field("conditions", List(0, MANY, &NODE)),
    field("group_by", List(0, MANY, &Choice(GROUPS))),
    field("limits", Object(LIMITS)),
    field("max_requests", POSITIVE),
    field("max_tokens", POSITIVE),
    field("schedules", List(0, MANY, &Object(SCHEDULE))),
    field("scope", Choice(SCOPES)),
    field("scope_ref", TEXT),
    field("window", Choice(WINDOWS)),
]);
static NODE: Rule = Either(
    &[Object(LEAF), Object(GROUP)],
    "a condition with `dimension`, `operator` and `value`, or a group with `logic` and `children`",
);
static LEAF: &[Field] = &[
    needed("dimension", Choice(DIMENSIONS)),
    needed("operator", Choice(OPERATORS)),
    needed("value", Either(&[ANY_TEXT, TEXTS], "a string or a list of strings")),
    field("negate", Bool),
];
static GROUP: &[Field] = &[
    needed("children", List(0, MANY, &NODE)),
    needed("logic", Choice(LOGICS)),
    field("negate", Bool),
];
static LIMITS: &[Field] = &[
    field("concurrency", Count32),
    field("rpd", COUNT),
    field("rph", COUNT),
    field("rpm", COUNT),
    field("rps", COUNT),
    field("tpd", COUNT),
    field("tpm", COUNT),
];
static SCHEDULE: &[Field] = &[
    field(
        "dates",
        List(1, MANY, &Like(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "a date such as 2026-01-31")),
    ),
    field(
        "days_of_week",
        List(1, MANY, &Choice(&["mon", "tue", "wed", "thu", "fri", "sat", "sun"])),
    ),
    needed("end_time", Like(r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$", "a time such as 23:59")),
    needed("start_time", Like(r"^([01][0-9]|2[0-3]):[0-5][0-9]$", "a time such as 23:59")),
    needed("timezone", TEXT),
];

/// What the table cannot say: the two forms, and what belongs together.
pub fn extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    let has = |name| members.contains_key(name);
    let subject = has("scope")
        && has("scope_ref")
        && has("window")
        && has_any(members, &["max_requests", "max_tokens"])
        && !has_any(members, &["conditions", "group_by", "limits", "action"]);
    let conditional = has("limits")
        && !has_any(members, &["scope", "scope_ref", "window", "max_requests", "max_tokens"]);
    if !subject && !conditional {
        return Err(schema_failed(
            "",
            "expected either `scope`, `scope_ref`, `window` and `max_requests` or `max_tokens`, or `limits` with \
             `conditions`, `group_by` and `action`",
        ));
    }
    if let Some(limits) = members.get("limits").and_then(Value::as_object)
        && !LIMITS.iter().any(|field| limits.contains_key(field.name()))
    {
        return Err(schema_failed("/limits", "expected at least one limit"));
    }
    for (index, schedule) in list(members, "schedules").iter().enumerate() {
        if schedule.get("dates").is_some() == schedule.get("days_of_week").is_some() {
            let expected = "expected either `days_of_week` or `dates`";
            return Err(schema_failed(&format!("/schedules/{index}"), expected));
        }
    }
    for (index, node) in list(members, "conditions").iter().enumerate() {
        values(node, &format!("/conditions/{index}"))?;
    }
    Ok(())
}

/// A list of values goes with `in`, one value with everything that compares.
fn values(node: &Value, pointer: &str) -> Result<(), Refusal> {
    let children = node.get("children").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (index, child) in children.iter().enumerate() {
        values(child, &format!("{pointer}/children/{index}"))?;
    }
    let expected = match text(node, "operator") {
        Some("in") if !node.get("value").is_some_and(Value::is_array) => "a list of strings",
        Some("==" | "~=" | "~~" | "~*" | ">" | ">=" | "<" | "<=")
            if !node.get("value").is_some_and(Value::is_string) =>
        {
            "a string"
        }
        _ => return Ok(()),
    };
    Err(schema_failed(&format!("{pointer}/value"), &format!("expected {expected}")))
}

fn list<'a>(members: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    members.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The policy, if it limits anything.
pub fn policy(id: &str, value: &Value) -> Option<Resource> {
    let members = value.as_object()?;
    let (scope, limits) = match text(value, "scope") {
        Some(scope) => {
            let scope = PolicyScope::Subject(subject(scope, text(value, "scope_ref")?)?);
            (scope, windowed(value))
        }
        None => (conditional(members), value.get("limits").map(all_limits).unwrap_or_default()),
    };
    if limits.is_empty() {
        return None;
    }
    let is_understood = match &scope {
        PolicyScope::Subject(_) => true,
        PolicyScope::Conditions { conditions, .. } => !conditions.iter().any(has_unknown),
    };
    Some(Resource::RateLimitPolicy(RateLimitPolicy {
        id: id.to_owned(),
        name: text(value, "name")?.to_owned(),
        scope,
        limits: is_understood.then_some(limits),
        schedules: list(members, "schedules").iter().filter_map(schedule).collect(),
    }))
}

/// The limits of a policy of one subject. As published, windows of a second or an hour count no tokens.
fn windowed(policy: &Value) -> RateLimits {
    let requests = policy.get("max_requests").and_then(Value::as_u64);
    let tokens = policy.get("max_tokens").and_then(Value::as_u64);
    let none = RateLimits::default();
    match text(policy, "window") {
        Some("second") => RateLimits { rps: requests, ..none },
        Some("minute") => RateLimits { rpm: requests, tpm: tokens, ..none },
        Some("hour") => RateLimits { rph: requests, ..none },
        Some("day") => RateLimits { rpd: requests, tpd: tokens, ..none },
        _ => none,
    }
}

fn all_limits(limits: &Value) -> RateLimits {
    let number = |name| limits.get(name).and_then(Value::as_u64);
    RateLimits {
        rps: number("rps"),
        rpm: number("rpm"),
        rph: number("rph"),
        rpd: number("rpd"),
        tpm: number("tpm"),
        tpd: number("tpd"),
        concurrency: number("concurrency").and_then(|number| u32::try_from(number).ok()),
    }
}

fn has_unknown(condition: &Condition) -> bool {
    match condition {
        Condition::All(children) | Condition::Any(children) => children.iter().any(has_unknown),
        Condition::Not(child) => has_unknown(child),
        Condition::IsOneOf(..) => false,
        // As workers do: look-around, for example, is nothing that takes linear time.
        Condition::Matches { pattern, ignore_case, .. } => RegexBuilder::new(pattern)
            .case_insensitive(*ignore_case)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()
            .is_err(),
        Condition::Unknown => true,
    }
}

fn schedule(value: &Value) -> Option<Schedule> {
    const WEEK: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let texts = |name: &str| {
        let items = value.get(name)?.as_array()?.iter();
        Some(items.filter_map(Value::as_str).collect::<Vec<_>>())
    };
    let days = match texts("days_of_week") {
        Some(days) => Days::Week(WEEK.map(|day| days.contains(&day))),
        None => Days::Dates(texts("dates")?.into_iter().map(str::to_owned).collect()),
    };
    let minute = |name| {
        let (hours, minutes) = text(value, name)?.split_once(':')?;
        Some(hours.parse::<u16>().ok()?.checked_mul(60)?.saturating_add(minutes.parse().ok()?))
    };
    Some(Schedule {
        days,
        start_minute: minute("start_time")?,
        end_minute: minute("end_time")?,
        timezone: text(value, "timezone")?.to_owned(),
    })
}

/// A policy with a word that this build does not know: what it counts, or may count, is guarded.
pub fn newer(id: &str, value: &Value) -> Option<Resource> {
    let members = value.as_object()?;
    if !is_enabled(value) || !has_new_word(value) {
        return None;
    }
    let subject = text(value, "scope")
        .zip(text(value, "scope_ref"))
        .and_then(|(scope, of)| subject(scope, of));
    let scope = match subject {
        Some(subject) => PolicyScope::Subject(subject),
        None if members.contains_key("scope") => PolicyScope::Subject(Subject::Everything),
        None => conditional(members),
    };
    let name = text(value, "name").unwrap_or(id).to_owned();
    Some(Resource::RateLimitPolicy(RateLimitPolicy {
        id: id.to_owned(),
        name,
        scope,
        limits: None,
        schedules: Vec::new(),
    }))
}

fn has_new_word(policy: &Value) -> bool {
    let Some(members) = policy.as_object() else { return false };
    let is_new = |name, words| is_new(policy.get(name), words);
    let limits = members.get("limits").and_then(Value::as_object);
    is_new("action", ACTIONS)
        || is_new("scope", SCOPES)
        || is_new("window", WINDOWS)
        || limits.is_some_and(|limits| {
            !limits.is_empty() && !LIMITS.iter().any(|field| limits.contains_key(field.name()))
        })
        || list(members, "group_by").iter().any(|group| self::is_new(Some(group), GROUPS))
        || list(members, "conditions").iter().any(has_new_word_in_node)
}

fn has_new_word_in_node(node: &Value) -> bool {
    let children = node.get("children").and_then(Value::as_array);
    is_new(node.get("dimension"), DIMENSIONS)
        || is_new(node.get("operator"), OPERATORS)
        || is_new(node.get("logic"), LOGICS)
        || children.is_some_and(|children| children.iter().any(has_new_word_in_node))
}

fn is_new(value: Option<&Value>, words: Words) -> bool {
    value.and_then(Value::as_str).is_some_and(|word| !words.contains(&word))
}

fn subject(scope: &str, of: &str) -> Option<Subject> {
    let of = of.to_owned();
    Some(match scope {
        "api_key" => Subject::ApiKey(of),
        "model" => Subject::Model(of),
        "team" => Subject::Team(of),
        "member" => Subject::Member(of),
        "team_member" => Subject::TeamMember(of),
        _ => return None,
    })
}

fn conditional(members: &Map<String, Value>) -> PolicyScope {
    PolicyScope::Conditions {
        conditions: list(members, "conditions").iter().map(condition).collect(),
        group_by: list(members, "group_by").iter().filter_map(dimension).collect(),
    }
}

fn condition(node: &Value) -> Condition {
    let plain = match text(node, "logic") {
        Some(logic) => {
            let children = node.get("children").and_then(Value::as_array);
            let children = children.into_iter().flatten().map(condition).collect();
            match logic {
                "or" => Condition::Any(children),
                "and" => Condition::All(children),
                _ => Condition::Unknown,
            }
        }
        None => leaf(node).unwrap_or(Condition::Unknown),
    };
    match node.get("negate").and_then(Value::as_bool) {
        Some(true) => Condition::Not(Box::new(plain)),
        _ => plain,
    }
}

fn leaf(node: &Value) -> Option<Condition> {
    let dimension = dimension(node.get("dimension")?)?;
    let value = text(node, "value").map(str::to_owned);
    Some(match text(node, "operator")? {
        "==" => Condition::IsOneOf(dimension, vec![value?]),
        "~=" => Condition::Not(Box::new(Condition::IsOneOf(dimension, vec![value?]))),
        "in" => {
            let values = node.get("value")?.as_array()?.iter();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            Condition::IsOneOf(dimension, values)
        }
        operator @ ("~~" | "~*") => {
            Condition::Matches { dimension, pattern: value?, ignore_case: operator == "~*" }
        }
        // Comparisons of ids by size, and of addresses, are not tried.
        _ => return None,
    })
}

fn dimension(name: &Value) -> Option<Dimension> {
    Some(match name.as_str()? {
        "team" => Dimension::Team,
        "member" => Dimension::Member,
        "api_key" => Dimension::ApiKey,
        "model" => Dimension::Model,
        "model_name" => Dimension::ModelName,
        "provider" => Dimension::Provider,
        _ => return None,
    })
}
