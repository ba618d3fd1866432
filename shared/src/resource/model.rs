//! A model: a name that callers ask for, and what stands behind it.

use bincode::{Decode, Encode};

use super::limits::RateLimits;
use super::routing::Routing;
use crate::cidr::Cidr;

/// A configured model.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Model {
    /// Resource id.
    pub id: String,
    /// The name callers use; may hold one `*` on a direct model.
    pub display_name: String,
    /// What stands behind the name.
    pub kind: ModelKind,
    /// Limit of an unary call, in milliseconds: `None` = the deployment's, `Some(0)` = none.
    pub timeout_ms: Option<u64>,
    /// Longest silence within a stream, in milliseconds: `None` or `Some(0)` = the deployment's.
    pub stream_timeout_ms: Option<u64>,
    /// Callers' addresses that may use the model; empty = all.
    pub allowed_cidrs: Vec<Cidr>,
    /// How often an attempt is repeated; `None` = as the group, then the deployment says.
    pub retries: Option<u32>,
    /// What is let through to it.
    pub rate_limits: RateLimits,
}

/// What stands behind a model's name.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ModelKind {
    /// One upstream model.
    Direct(Box<DirectModel>),
    /// A group of direct models.
    Routing(Box<Routing>),
    /// A panel with a judge.
    Ensemble,
    /// A choice by the meaning of the request.
    Semantic,
}

impl Default for ModelKind {
    fn default() -> Self {
        Self::Direct(Box::default())
    }
}

/// One upstream model behind one provider key.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct DirectModel {
    /// Vendor of the upstream: decides dispatch, shown in metrics and logs.
    pub provider: String,
    /// Name of the model at the upstream; a `*` stands for what the caller's name had in its place.
    pub model_name: String,
    /// Resource id of the provider key.
    pub provider_key_id: String,
    /// What its tokens cost; `None` = nothing.
    pub cost: Option<Cost>,
    /// When it is left alone after a failure.
    pub cooldown: Cooldown,
    /// How its health is looked at when no request does; `None` = not.
    pub background_check: Option<BackgroundCheck>,
    /// Whether marks for the provider's prompt cache are added to requests without any; `None` = no.
    pub prompt_caching: Option<PromptCaching>,
}

/// When a direct model is left alone after a failure of its upstream.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Cooldown {
    /// Whether it is at all.
    pub enabled: bool,
    /// For how many seconds, unless the upstream says so itself.
    pub default_seconds: u64,
    /// Whether the upstream's `Retry-After` counts.
    pub honor_retry_after: bool,
    /// At most so many seconds, where `Retry-After` counts.
    pub max_seconds: u64,
    /// Whether running out of time is such a failure.
    pub on_timeout: bool,
    /// Whether a broken connection or answer is.
    pub on_transport: bool,
    /// The statuses that are.
    pub statuses: Vec<u16>,
}

impl Default for Cooldown {
    fn default() -> Self {
        Self {
            enabled: true,
            default_seconds: 30,
            honor_retry_after: true,
            max_seconds: 300,
            on_timeout: true,
            on_transport: true,
            statuses: vec![401, 408, 429, 500, 502, 503, 504],
        }
    }
}

/// How the health of a direct model is looked at when no request does.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct BackgroundCheck {
    /// Seconds between looks.
    pub interval_seconds: u64,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// What is asked.
    pub prompt: String,
    /// After so many seconds a look says nothing any more.
    pub stale_after_seconds: u64,
    /// Seconds after which a look has failed.
    pub timeout_seconds: u64,
    /// Statuses that say nothing of its health.
    pub ignore_statuses: Vec<u16>,
}

/// How long the provider's prompt cache keeps what is marked by the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PromptCaching {
    /// Five minutes.
    FiveMinutes,
    /// An hour.
    OneHour,
}

/// What tokens cost, in dollars per thousand.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Cost {
    /// Of the prompt, cached or not.
    pub input_per_1k: f64,
    /// Of the answer.
    pub output_per_1k: f64,
}

impl Cost {
    /// What so many tokens cost, in dollars.
    pub fn of(self, prompt_tokens: u32, completion_tokens: u32) -> f64 {
        let (prompt, completion) = (f64::from(prompt_tokens), f64::from(completion_tokens));
        (prompt * self.input_per_1k + completion * self.output_per_1k) / 1000.0
    }
}
