//! What guards traffic and cannot be enforced by this build: the requests it guards are refused, and no others.
//!
//! A request is looked up by its own properties, so that its cost does not grow with the number of guards; only policies
//! with conditions are tried one by one. What cannot be told for sure counts as guarded.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use regex::{Regex, RegexBuilder};
use shared::resource::{
    ApiKey, Condition, Dimension, Guardrail, GuardrailAttachment, Kind, Model, ModelKind,
    PolicyScope, RateLimitPolicy, Subject,
};

use crate::guardrail::Rule;

/// A compiled expression may take so many bytes; a larger one counts as not understood.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// All guards in force.
#[derive(Debug, Default)]
pub struct Guards {
    guardrails: HashMap<String, Rc<Rule>>,
    attachments: BySubject<GuardrailAttachment>,
    policies: BySubject<RateLimitPolicy>,
    conditional: BTreeMap<String, Conditional>,
}

/// Rows by whom they are about, then by id.
#[derive(Debug)]
struct BySubject<T> {
    subjects: HashMap<String, Subject>,
    rows: HashMap<Subject, BTreeMap<String, T>>,
}

#[derive(Debug)]
struct Conditional {
    name: String,
    conditions: Vec<Condition>,
    group_by: Vec<Dimension>,
    /// By pattern and whether capitals count as small letters.
    expressions: HashMap<(String, bool), Regex>,
}

/// A request, as far as guards look at it.
#[derive(Clone, Copy, Debug)]
pub struct Guarded<'a> {
    /// What is asked for.
    pub model: &'a Model,
    /// Who asks.
    pub caller: &'a ApiKey,
}

impl Guards {
    /// What guards the request, in words; `None` if nothing does.
    pub fn find(&self, request: Guarded<'_>) -> Option<String> {
        self.guardrail(request).or_else(|| self.policy(request))
    }

    fn guardrail(&self, request: Guarded<'_>) -> Option<String> {
        let attachments = self.attachments.of(request);
        let guardrail = attachments
            .filter_map(|row| self.guardrails.get(&row.guardrail_id))
            .find(|guardrail| guardrail.is_unenforceable())?;
        Some(format!("guardrail '{}' ({})", guardrail.name, guardrail.kind))
    }

    /// What guards a request through a passthrough route, in words: its texts are not known, so that no guardrail can look
    /// at them. What is about one model is not about it.
    pub fn on_route(&self, caller: &ApiKey, route_id: &str) -> Option<String> {
        let model = Model { display_name: "passthrough".to_owned(), ..Model::default() };
        let request = Guarded { model: &model, caller };
        let subjects = request.subjects().into_iter().chain([Subject::Route(route_id.to_owned())]);
        let rule = self.rules_of(subjects).into_iter().find(|rule| !rule.is_monitor);
        let guardrail = rule.map(|rule| format!("guardrail '{}' ({})", rule.name, rule.kind));
        guardrail.or_else(|| self.policy(request))
    }

    /// The guardrails in front of the request, in the order in which they look, each once however it is attached; with those
    /// of other models that may answer it.
    pub fn rules(&self, request: Guarded<'_>, models: &[String]) -> Vec<Rc<Rule>> {
        if self.attachments.rows.is_empty() {
            return Vec::new();
        }
        let models = models.iter().cloned().map(Subject::Model);
        let subjects = request.subjects().into_iter().chain(models);
        self.rules_of(subjects)
    }

    /// The guardrails in front of any of these subjects, in the order in which they look, each once.
    pub fn rules_of(&self, subjects: impl Iterator<Item = Subject>) -> Vec<Rc<Rule>> {
        let rows = subjects.filter_map(|subject| self.attachments.rows.get(&subject));
        let rows = rows.flat_map(BTreeMap::values);
        let mut rules: Vec<_> =
            rows.filter_map(|row| self.guardrails.get(&row.guardrail_id)).cloned().collect();
        rules.sort_by(|one, other| one.order(other));
        rules.dedup_by(|one, other| one.id == other.id);
        rules
    }

    fn policy(&self, request: Guarded<'_>) -> Option<String> {
        let by_subject = self.policies.of(request).next().map(|policy| &policy.name);
        let mut conditional = self.conditional.values();
        let name = by_subject
            .or_else(|| Some(&conditional.find(|policy| policy.may_count(request))?.name))?;
        Some(format!("rate limit policy '{name}'"))
    }

    /// A guardrail is there from now on.
    pub fn put_guardrail(&mut self, guardrail: Guardrail) {
        self.guardrails.insert(guardrail.id.clone(), Rc::new(Rule::new(&guardrail)));
    }

    /// An attachment is there from now on.
    pub fn put_attachment(&mut self, attachment: GuardrailAttachment) {
        let (id, subject) = (attachment.id.clone(), attachment.subject.clone());
        self.attachments.put(id, subject, attachment);
    }

    /// A policy is there from now on.
    pub fn put_policy(&mut self, policy: RateLimitPolicy) {
        self.delete(Kind::RateLimitPolicy, &policy.id);
        match policy.scope.clone() {
            PolicyScope::Subject(subject) => {
                self.policies.put(policy.id.clone(), subject, policy);
            }
            PolicyScope::Conditions { conditions, group_by } => {
                let mut expressions = HashMap::new();
                conditions.iter().for_each(|condition| compile(condition, &mut expressions));
                let conditional =
                    Conditional { name: policy.name, conditions, group_by, expressions };
                self.conditional.insert(policy.id, conditional);
            }
        }
    }

    /// There is no such guard any more.
    pub fn delete(&mut self, kind: Kind, id: &str) {
        match kind {
            Kind::Guardrail => drop(self.guardrails.remove(id)),
            Kind::GuardrailAttachment => self.attachments.remove(id),
            Kind::RateLimitPolicy => {
                self.policies.remove(id);
                self.conditional.remove(id);
            }
            // No guards.
            Kind::ProviderKey
            | Kind::Model
            | Kind::ApiKey
            | Kind::CachePolicy
            | Kind::PassthroughRoute
            | Kind::OidcProvider
            | Kind::ClaimMapping
            | Kind::Exporter => {}
        }
    }
}

impl<T> Default for BySubject<T> {
    fn default() -> Self {
        Self { subjects: HashMap::new(), rows: HashMap::new() }
    }
}

impl<T> BySubject<T> {
    fn put(&mut self, id: String, subject: Subject, row: T) {
        self.remove(&id);
        self.rows.entry(subject.clone()).or_default().insert(id.clone(), row);
        self.subjects.insert(id, subject);
    }

    fn remove(&mut self, id: &str) {
        let Some(subject) = self.subjects.remove(id) else { return };
        if let Some(rows) = self.rows.get_mut(&subject) {
            rows.remove(id);
            if rows.is_empty() {
                self.rows.remove(&subject);
            }
        }
    }

    fn of(&self, request: Guarded<'_>) -> impl Iterator<Item = &T> {
        // Without any there is nothing to look up.
        let subjects = if self.rows.is_empty() { Vec::new() } else { request.subjects() };
        subjects
            .into_iter()
            .filter_map(|subject| self.rows.get(&subject))
            .flat_map(|rows| rows.values())
    }
}

impl<'a> Guarded<'a> {
    fn subjects(self) -> Vec<Subject> {
        let Self { model, caller } = self;
        let mut subjects = vec![
            Subject::Everything,
            Subject::Model(model.id.clone()),
            Subject::ApiKey(caller.id.clone()),
        ];
        subjects.extend(caller.team_id.clone().map(Subject::Team));
        subjects.extend(caller.user_id.clone().map(Subject::Member));
        let member = caller.team_id.clone().filter(|_| caller.user_id.is_some());
        subjects.extend(member.map(Subject::TeamMember));
        subjects
    }

    fn dimension(self, dimension: Dimension) -> Value<'a> {
        let known = |value: Option<&'a str>| value.map_or(Value::Missing, Value::Is);
        match (dimension, &self.model.kind) {
            (Dimension::Team, _) => known(self.caller.team_id.as_deref()),
            (Dimension::Member, _) => known(self.caller.user_id.as_deref()),
            (Dimension::ApiKey, _) => Value::Is(&self.caller.id),
            (Dimension::Model, ModelKind::Direct(_)) => Value::Is(&self.model.id),
            // A wildcard is called by many names.
            (Dimension::ModelName, ModelKind::Direct(_))
                if self.model.display_name.contains('*') =>
            {
                Value::Unknown
            }
            (Dimension::ModelName, ModelKind::Direct(_)) => Value::Is(&self.model.display_name),
            (Dimension::Provider, ModelKind::Direct(direct)) => Value::Is(&direct.provider),
            // Also that of the member which is chosen later.
            (Dimension::Model | Dimension::ModelName | Dimension::Provider, _) => Value::Unknown,
        }
    }
}

/// A property of a request.
enum Value<'a> {
    Is(&'a str),
    Missing,
    Unknown,
}

impl Conditional {
    fn may_count(&self, request: Guarded<'_>) -> bool {
        let missing =
            |dimension: &Dimension| matches!(request.dimension(*dimension), Value::Missing);
        !self.group_by.iter().any(missing)
            && all(self.conditions.iter().map(|one| self.fulfilled(one, request))) != Some(false)
    }

    /// Whether the condition is fulfilled, if that can be told.
    fn fulfilled(&self, condition: &Condition, request: Guarded<'_>) -> Option<bool> {
        match condition {
            Condition::All(children) => {
                all(children.iter().map(|child| self.fulfilled(child, request)))
            }
            Condition::Any(children) => {
                let unfulfilled =
                    children.iter().map(|child| self.fulfilled(child, request).map(|is| !is));
                all(unfulfilled).map(|none| !none)
            }
            Condition::Not(child) => self.fulfilled(child, request).map(|is| !is),
            Condition::IsOneOf(dimension, values) => match request.dimension(*dimension) {
                Value::Is(value) => Some(values.iter().any(|one| one == value)),
                Value::Missing => Some(false),
                Value::Unknown => None,
            },
            Condition::Matches { dimension, pattern, ignore_case } => {
                match request.dimension(*dimension) {
                    Value::Is(value) => {
                        let expression = self.expressions.get(&(pattern.clone(), *ignore_case));
                        expression.map(|expression| expression.is_match(value))
                    }
                    Value::Missing => Some(false),
                    Value::Unknown => None,
                }
            }
            Condition::Unknown => None,
        }
    }
}

/// Whether all hold: not if one does not, unknown if one is.
fn all(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for part in parts {
        match part {
            Some(true) => {}
            Some(false) => return Some(false),
            None => all = None,
        }
    }
    all
}

fn compile(condition: &Condition, expressions: &mut HashMap<(String, bool), Regex>) {
    match condition {
        Condition::All(children) | Condition::Any(children) => {
            children.iter().for_each(|child| compile(child, expressions));
        }
        Condition::Not(child) => compile(child, expressions),
        Condition::Matches { pattern, ignore_case, .. } => {
            let compiled = RegexBuilder::new(pattern)
                .case_insensitive(*ignore_case)
                .size_limit(REGEX_BYTES_MAX)
                .dfa_size_limit(REGEX_BYTES_MAX)
                .build();
            if let Ok(compiled) = compiled {
                expressions.insert((pattern.clone(), *ignore_case), compiled);
            }
        }
        Condition::IsOneOf(..) | Condition::Unknown => {}
    }
}

#[cfg(test)]
mod tests;
