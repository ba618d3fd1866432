//! Rate limit policies, and which of them concern a request. Those of a subject are looked up; those with conditions are
//! tried one by one.

use std::collections::{BTreeMap, HashMap};

use ::shared::resource::{
    Condition, Dimension, ModelKind, PolicyScope, RateLimitPolicy, RateLimits, Schedule, Subject,
};
use regex::{Regex, RegexBuilder};

use super::bucket::{Asked, Bucket, Layer, Stage};
use super::schedule::Suspensions;

/// A compiled expression may take so many bytes.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// All policies that this build enforces.
#[derive(Debug, Default)]
pub struct Policies {
    of_subjects: HashMap<Subject, BTreeMap<String, Policy>>,
    subjects: HashMap<String, Subject>,
    conditional: BTreeMap<String, Conditional>,
}

#[derive(Debug)]
struct Policy {
    name: String,
    limits: RateLimits,
    suspensions: Suspensions,
}

#[derive(Debug)]
struct Conditional {
    policy: Policy,
    conditions: Vec<Condition>,
    group_by: Vec<Dimension>,
    /// By pattern and whether capitals count as small letters.
    expressions: HashMap<(String, bool), Regex>,
    /// Whether it asks for the model that answers.
    is_about_models: bool,
}

impl Policies {
    /// A policy is there from now on.
    ///
    /// # Errors
    /// It is not one that this build can enforce, and comes back with no limits.
    pub fn put(&mut self, policy: RateLimitPolicy) -> Result<(), Box<RateLimitPolicy>> {
        self.delete(&policy.id);
        let Some(limits) = policy.limits else { return Err(Box::new(policy)) };
        let new = |name: &str, schedules: &[Schedule]| Policy {
            name: name.to_owned(),
            limits,
            suspensions: Suspensions::new(schedules),
        };
        match &policy.scope {
            PolicyScope::Subject(subject) => {
                let row = new(&policy.name, &policy.schedules);
                self.of_subjects.entry(subject.clone()).or_default().insert(policy.id.clone(), row);
                self.subjects.insert(policy.id, subject.clone());
            }
            PolicyScope::Conditions { conditions, group_by } => {
                let mut expressions = HashMap::new();
                if !conditions.iter().all(|one| is_understood(one, &mut expressions)) {
                    return Err(Box::new(RateLimitPolicy { limits: None, ..policy }));
                }
                let row = Conditional {
                    policy: new(&policy.name, &policy.schedules),
                    is_about_models: group_by.iter().copied().any(is_of_model)
                        || conditions.iter().any(is_about_models),
                    conditions: conditions.clone(),
                    group_by: group_by.clone(),
                    expressions,
                };
                self.conditional.insert(policy.id, row);
            }
        }
        Ok(())
    }

    /// There is no such policy any more.
    pub fn delete(&mut self, id: &str) {
        self.conditional.remove(id);
        let Some(subject) = self.subjects.remove(id) else { return };
        if let Some(rows) = self.of_subjects.get_mut(&subject) {
            rows.remove(id);
            if rows.is_empty() {
                self.of_subjects.remove(&subject);
            }
        }
    }

    /// Adds the buckets of the policies that concern a request and are not suspended now.
    pub(super) fn buckets(&self, asked: Asked<'_>, now: i64, buckets: &mut Vec<Bucket>) {
        let of_subject = |(subject, name): (Subject, String)| {
            let rows = self.of_subjects.get(&subject).into_iter().flatten();
            let mine = rows.filter(|(_, policy)| !policy.suspensions.hold(now));
            mine.map(move |(id, policy)| {
                let name = match &subject {
                    // Each member on its own.
                    Subject::TeamMember(_) => {
                        let user = asked.caller.user_id.as_deref().unwrap_or_default();
                        format!("policy:{name}:{id}:{user}")
                    }
                    _ => format!("policy:{name}:{id}"),
                };
                policy.bucket(id, name)
            })
            .collect::<Vec<_>>()
        };
        if !self.of_subjects.is_empty() {
            buckets.extend(asked.subjects().into_iter().flat_map(of_subject));
        }
        let stage = asked.stage();
        let conditional = self.conditional.iter().filter(|(_, row)| match stage {
            Stage::Whole => true,
            Stage::Requested => !row.is_about_models,
            Stage::Target => row.is_about_models,
        });
        buckets.extend(conditional.filter_map(|(id, row)| row.bucket(id, asked, now)));
    }
}

impl Policy {
    fn bucket(&self, id: &str, name: String) -> Bucket {
        let layer = Layer::Policy { id: id.to_owned(), name: self.name.clone() };
        Bucket { name, limits: self.limits, layer }
    }
}

impl Conditional {
    fn bucket(&self, id: &str, asked: Asked<'_>, now: i64) -> Option<Bucket> {
        if !self.conditions.iter().all(|condition| self.is_fulfilled(condition, asked))
            || self.policy.suspensions.hold(now)
        {
            return None;
        }
        let mut name = format!("policy:v2:{id}");
        for dimension in &self.group_by {
            // What is counted by a property that a request does not have does not concern it.
            let value = asked.values(*dimension).into_iter().next().filter(|it| !it.is_empty())?;
            name.push_str(&format!(":{}={value}", dimension_name(*dimension)));
        }
        Some(self.policy.bucket(id, name))
    }

    fn is_fulfilled(&self, condition: &Condition, asked: Asked<'_>) -> bool {
        match condition {
            Condition::All(children) => children.iter().all(|one| self.is_fulfilled(one, asked)),
            Condition::Any(children) => children.iter().any(|one| self.is_fulfilled(one, asked)),
            Condition::Not(child) => !self.is_fulfilled(child, asked),
            Condition::IsOneOf(dimension, values) => {
                asked.values(*dimension).into_iter().any(|it| values.iter().any(|one| one == it))
            }
            Condition::Matches { dimension, pattern, ignore_case } => {
                let expression = self.expressions.get(&(pattern.clone(), *ignore_case));
                let values = asked.values(*dimension);
                expression.is_some_and(|expression| {
                    values.into_iter().any(|value| expression.is_match(value))
                })
            }
            // None of those is taken in.
            Condition::Unknown => false,
        }
    }
}

impl<'a> Asked<'a> {
    /// Whom policies may be about, with the beginning of their bucket's name.
    fn subjects(&self) -> Vec<(Subject, String)> {
        let mut subjects = Vec::new();
        let mut add = |scope: &str, of: &str, subject: fn(String) -> Subject| {
            subjects.push((subject(of.to_owned()), format!("{scope}:{of}")));
        };
        if let Some(model) = self.dispatched() {
            add("model", &model.id, Subject::Model);
        }
        // Asked before a model was chosen.
        if self.stage() == Stage::Target {
            return subjects;
        }
        let caller = self.caller;
        add("api_key", &caller.id, Subject::ApiKey);
        if let Some(team) = &caller.team_id {
            add("team", team, Subject::Team);
            if caller.user_id.is_some() {
                add("team_member", team, Subject::TeamMember);
            }
        }
        if let Some(user) = &caller.user_id {
            add("member", user, Subject::Member);
        }
        subjects
    }

    /// What the request has of a dimension: of a model its own, then that of the group that was asked for.
    fn values(&self, dimension: Dimension) -> Vec<&'a str> {
        let one = |value: Option<&'a String>| value.map(String::as_str).into_iter().collect();
        match dimension {
            Dimension::Team => one(self.caller.team_id.as_ref()),
            Dimension::Member => one(self.caller.user_id.as_ref()),
            Dimension::ApiKey => vec![&self.caller.id],
            Dimension::Model => self.models().map(|model| model.id.as_str()).collect(),
            Dimension::ModelName => {
                self.models().map(|model| model.display_name.as_str()).collect()
            }
            Dimension::Provider => match self.dispatched().map(|model| &model.kind) {
                Some(ModelKind::Direct(direct)) => vec![&direct.provider],
                _ => Vec::new(),
            },
        }
    }
}

fn dimension_name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Team => "team",
        Dimension::Member => "member",
        Dimension::ApiKey => "api_key",
        Dimension::Model => "model",
        Dimension::ModelName => "model_name",
        Dimension::Provider => "provider",
    }
}

fn is_of_model(dimension: Dimension) -> bool {
    matches!(dimension, Dimension::Model | Dimension::ModelName | Dimension::Provider)
}

fn is_about_models(condition: &Condition) -> bool {
    match condition {
        Condition::All(children) | Condition::Any(children) => children.iter().any(is_about_models),
        Condition::Not(child) => is_about_models(child),
        Condition::IsOneOf(dimension, _) | Condition::Matches { dimension, .. } => {
            is_of_model(*dimension)
        }
        Condition::Unknown => false,
    }
}

/// Whether the condition can be tried; its expressions are compiled.
fn is_understood(condition: &Condition, expressions: &mut HashMap<(String, bool), Regex>) -> bool {
    match condition {
        Condition::All(children) | Condition::Any(children) => {
            children.iter().all(|child| is_understood(child, expressions))
        }
        Condition::Not(child) => is_understood(child, expressions),
        Condition::Matches { pattern, ignore_case, .. } => {
            let compiled = RegexBuilder::new(pattern)
                .case_insensitive(*ignore_case)
                .size_limit(REGEX_BYTES_MAX)
                .dfa_size_limit(REGEX_BYTES_MAX)
                .build();
            let Ok(compiled) = compiled else { return false };
            expressions.insert((pattern.clone(), *ignore_case), compiled);
            true
        }
        Condition::IsOneOf(..) => true,
        Condition::Unknown => false,
    }
}
