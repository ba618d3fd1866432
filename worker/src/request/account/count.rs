//! What a request leaves in numbers: its metrics, and what every worker is to know of the target that it went to.

use std::rc::Rc;

use shared::deployment::Deployment;
use shared::resource::{ApiKey, ModelKind};

use super::{Account, CALLER_GONE, Tokens, places, usage};
use crate::metrics::{Places, RequestFacts};
use crate::request::RequestError;
use crate::request::resolve::Target;
use crate::routing;

/// What the model and its upstream are called in metrics and logs.
#[derive(Clone, Copy)]
pub(super) struct Labels<'a> {
    pub(super) provider: &'a str,
    pub(super) model: &'a str,
    pub(super) upstream_model: &'a str,
    /// The same as it is configured: of a wildcard nothing that a caller has made up.
    pub(super) upstream_label: &'a str,
    pub(super) key_id: &'a str,
    pub(super) key_name: &'a str,
}

impl Account {
    /// Leaves the model alone for a while, if the failure is one of those.
    pub(super) fn cool_down(&self, error: &RequestError) {
        let (Some(target), Some(_)) = (&self.target, &self.attempt) else { return };
        let ModelKind::Direct(direct) = &target.model.kind else { return };
        let Some((seconds, failure)) = routing::cool_down(error, &direct.cooldown) else { return };
        let deployment = Deployment::new(self.proxy.counters, &target.model.id);
        let now_ms = routing::now_ms();
        if deployment.cool_down(now_ms.saturating_add(seconds * 1000), failure, now_ms) {
            let labels = self.labels();
            self.proxy.metrics.cooled_down(
                labels.provider,
                self.dispatched_name(),
                labels.upstream_label,
                labels.key_id,
            );
            tracing::warn!(
                model = self.dispatched_name(),
                seconds,
                reason = failure.text(),
                "a model is left alone for a while"
            );
        }
    }

    /// Counts what became of a target that was fallen back to.
    pub(super) fn count_fallback(&self, status: u16) {
        if self.fallbacks > 0 && status != CALLER_GONE {
            let model = self.labels().model;
            let success = (200..400).contains(&status);
            self.proxy.metrics.fallback(model, self.dispatched_name(), success);
        }
    }

    /// Tells the other workers how fast a target of a group has answered.
    pub(super) fn note_latency(&self, status: u16) {
        let (Some(attempt), Some(model)) = (&self.attempt, &self.dispatched) else { return };
        if !self.is_routed() || !(200..400).contains(&status) {
            return;
        }
        let end = if self.is_stream { attempt.first_event } else { None };
        let took = end.unwrap_or_else(|| self.now()).saturating_duration_since(attempt.started);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Deployment::new(self.proxy.counters, &model.id)
            .answered_in(micros, routing::now_ms() / 1000);
    }

    /// Whether a group was asked for.
    pub(super) fn is_routed(&self) -> bool {
        self.model.as_ref().is_some_and(|model| matches!(model.kind, ModelKind::Routing(_)))
    }

    /// The name of the model that the latest attempt was meant for.
    pub(super) fn dispatched_name(&self) -> &str {
        self.dispatched.as_ref().map_or("", |model| model.display_name.as_str())
    }

    /// Counts the attempt in progress, and the usage event that it leaves.
    pub(super) fn count_attempt(&self, facts: &RequestFacts<'_>, places: &Places) {
        let metrics = &self.proxy.metrics;
        if let Some(attempt) = &self.attempt {
            // A caller that leaves says nothing of the upstream.
            let success = match facts.status {
                CALLER_GONE => attempt.is_accepted,
                status => (200..400).contains(&status),
            };
            metrics.attempt(facts, places, success);
        }
        if self.requested_model.is_some() {
            metrics.usage_emitted(facts, places);
        }
    }

    pub(super) fn count(&self, status: u16, tokens: Tokens) {
        let metrics = &self.proxy.metrics;
        places::with(self, status, |client_type, known| {
            let facts = self.facts(status, tokens, client_type);
            let places = known.map_or_else(|| metrics.places(&facts), Rc::clone);
            self.count_attempt(&facts, &places);
            if status == CALLER_GONE {
                let RequestFacts { endpoint, model, .. } = facts;
                let RequestFacts { provider_key_id, provider_key_name, .. } = facts;
                metrics.client_cancelled(endpoint, model, provider_key_id, provider_key_name);
            }
            metrics.request(&facts, &places);
            places
        });
    }

    pub(super) fn facts<'a>(
        &'a self,
        status: u16,
        tokens: Tokens,
        client_type: &'a str,
    ) -> RequestFacts<'a> {
        let spend = usage::cost(self, tokens) * 1e6;
        let tokens = tokens.usage;
        let labels = self.labels();
        let caller = self.caller.as_deref();
        let of_caller = |field: fn(&ApiKey) -> Option<&String>| {
            caller.and_then(field).map_or("", String::as_str)
        };
        let first_event = self.attempt.as_ref().and_then(|attempt| attempt.first_event);
        RequestFacts {
            endpoint: self.endpoint.template,
            inbound_protocol: self.protocol(),
            provider: labels.provider,
            model: labels.model,
            dispatched: self.dispatched_name(),
            upstream_model: labels.upstream_label,
            provider_key_id: labels.key_id,
            provider_key_name: labels.key_name,
            api_key_id: caller.map_or("", |key| key.id.as_str()),
            team_id: of_caller(|key| key.team_id.as_ref()),
            user_id: of_caller(|key| key.user_id.as_ref()),
            user_name: of_caller(|key| key.user_name.as_ref()),
            stream: self.is_stream,
            status,
            duration: self.took(),
            ttft: first_event.map(|first| first.saturating_duration_since(self.started)),
            prompt_tokens: tokens.prompt.into(),
            completion_tokens: tokens.completion.into(),
            client_type,
            reached_llm: self.attempt.is_some() && self.route.is_none(),
            is_fallback: self.fallbacks > 0,
            // A number that no counter holds counts as the largest.
            spend_micro_usd: spend.round() as u64,
        }
    }

    pub(super) fn labels(&self) -> Labels<'_> {
        let unresolved = if self.requested_model.is_some() { "unresolved" } else { "" };
        let target = self.target.as_deref();
        Labels {
            provider: target.map_or("", |target| target.provider.as_str()),
            model: self.model.as_ref().map_or(unresolved, |model| model.display_name.as_str()),
            upstream_model: target.map_or("", |target| target.upstream_model.as_str()),
            upstream_label: target.map_or("", Target::upstream_label),
            key_id: target.map_or("", |target| target.provider_key.id.as_str()),
            key_name: target.map_or("", |target| target.provider_key.display_name.as_str()),
        }
    }
}
