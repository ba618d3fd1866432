//! The buckets of a request, by their published names: its key's, its model's, those of the policies that concern it.

use ::shared::counters::{KeyBegin, Period};
use ::shared::resource::{ApiKey, Model, ModelKind, RateLimits};

use super::Policies;

/// What a request is counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name, the same on every node.
    pub name: String,
    /// How much it takes.
    pub limits: RateLimits,
    /// Whose limits these are.
    pub layer: Layer,
}

/// Whose limits a bucket has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The caller key's own.
    ApiKey,
    /// The model's own.
    Model,
    /// A policy's.
    Policy {
        /// Its id.
        id: String,
        /// Its name, for people.
        name: String,
    },
}

impl Layer {
    /// Its name in metrics, and the id of the policy if it is one.
    pub fn labels(&self) -> (&'static str, &str) {
        match self {
            Self::ApiKey => ("api_key", ""),
            Self::Model => ("model", ""),
            Self::Policy { id, .. } => ("policy", id),
        }
    }
}

/// A request, as far as limits look at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub caller: &'a ApiKey,
    /// The model that was asked for; `None` where there are no models.
    pub requested: Option<&'a Model>,
    /// The model that a group has chosen for it; `None` while nothing is chosen.
    pub target: Option<&'a Model>,
}

/// What is to be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Everything: the requested model is the one that answers.
    Whole,
    /// What does not depend on the model that a group will choose.
    Requested,
    /// What depends on it.
    Target,
}

impl<'a> Asked<'a> {
    pub(super) fn stage(&self) -> Stage {
        match (self.requested, self.target) {
            (Some(requested), Some(target)) if requested.id != target.id => Stage::Target,
            (Some(requested), None) if !matches!(requested.kind, ModelKind::Direct(_)) => {
                Stage::Requested
            }
            _ => Stage::Whole,
        }
    }

    /// The model that answers, as far as it is known.
    pub(super) fn dispatched(&self) -> Option<&'a Model> {
        self.target.or(self.requested)
    }

    /// The models that it is about: the one that answers, and the group that was asked for.
    pub(super) fn models(&self) -> impl Iterator<Item = &'a Model> + use<'a> {
        let group = self.requested.filter(|_| self.stage() == Stage::Target);
        self.dispatched().into_iter().chain(group)
    }
}

/// The buckets of a request at a moment, in seconds since 1970 UTC, in the order in which they are asked. Of a request for a
/// group they are asked for twice: before a model is chosen, and for each model that is chosen; none is named both times.
pub fn buckets(policies: &Policies, asked: Asked<'_>, now: i64) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    let limits = asked.caller.rate_limits;
    if asked.stage() != Stage::Target && !limits.is_empty() {
        buckets.push(Bucket { name: asked.caller.id.clone(), limits, layer: Layer::ApiKey });
    }
    if let Some(model) = asked.dispatched().filter(|model| !model.rate_limits.is_empty()) {
        let name = format!("model:{}", model.display_name);
        buckets.push(Bucket { name, limits: model.rate_limits, layer: Layer::Model });
    }
    policies.buckets(asked, now, &mut buckets);
    buckets
}

/// One of the limits of a bucket that count in a window of time.
pub(super) struct Windowed {
    pub(super) name: &'static str,
    pub(super) period: Period,
    pub(super) limit: fn(&RateLimits) -> Option<u64>,
}

pub(super) static TOKENS: [Windowed; 2] = [
    Windowed { name: "tpm", period: Period::Minute, limit: |limits| limits.tpm },
    Windowed { name: "tpd", period: Period::Day, limit: |limits| limits.tpd },
];

pub(super) static REQUESTS: [Windowed; 4] = [
    Windowed { name: "rps", period: Period::Second, limit: |limits| limits.rps },
    Windowed { name: "rpm", period: Period::Minute, limit: |limits| limits.rpm },
    Windowed { name: "rph", period: Period::Hour, limit: |limits| limits.rph },
    Windowed { name: "rpd", period: Period::Day, limit: |limits| limits.rpd },
];

impl Windowed {
    /// Seconds until the window ends, at least 1.
    pub(super) fn remaining_seconds(&self, now: u64) -> u64 {
        remaining_seconds(self.period, now)
    }
}

pub(super) fn remaining_seconds(period: Period, now: u64) -> u64 {
    period.seconds() - now % period.seconds()
}

/// Where is counted what there is of a bucket.
pub(super) fn keys_of(bucket: &str) -> KeyBegin {
    const RATE_LIMIT: KeyBegin = KeyBegin::EMPTY.and("rate limit");
    RATE_LIMIT.and(bucket)
}
