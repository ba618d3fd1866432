//! The resources a worker serves, typed: what the supervisor has validated, never a raw document.
//!
//! Only what is enforced is carried, and what guards traffic without being enforceable (`guard.rs`), so that what it guards
//! is refused. What a document says beyond it is the supervisor's to report.

mod api_key;
mod guard;
mod model;
mod provider_key;

use bincode::{Decode, Encode};

pub use api_key::{ApiKey, KeyHash};
pub use guard::{
    Condition, Dimension, Guardrail, GuardrailAttachment, OidcProvider, PolicyScope,
    RateLimitPolicy, Subject,
};
pub use model::{Cost, DirectModel, Model, ModelKind};
pub use provider_key::{Adapter, Endpoint, EndpointError, ProviderKey, TelemetryTags, UpstreamTls};

/// The kinds of resource that a worker knows. The name is the segment of the key in the projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Kind {
    /// `provider_keys`
    ProviderKey,
    /// `models`
    Model,
    /// `api_keys`
    ApiKey,
    /// `guardrails`
    Guardrail,
    /// `guardrail_attachments`
    GuardrailAttachment,
    /// `rate_limit_policies`
    RateLimitPolicy,
    /// `oidc_providers`
    OidcProvider,
}

impl Kind {
    /// Whether the kind guards traffic in a way that this build cannot enforce.
    pub fn is_guard(self) -> bool {
        match self {
            Self::ProviderKey | Self::Model | Self::ApiKey => false,
            Self::Guardrail
            | Self::GuardrailAttachment
            | Self::RateLimitPolicy
            | Self::OidcProvider => true,
        }
    }
}

/// One validated resource, with its id.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Resource {
    /// How to reach a provider, and the secret it asks for.
    ProviderKey(ProviderKey),
    /// A name that callers may ask for.
    Model(Model),
    /// A caller.
    ApiKey(ApiKey),
    /// Refuses what is attached to it.
    Guardrail(Guardrail),
    /// What is attached to a guardrail.
    GuardrailAttachment(GuardrailAttachment),
    /// Refuses what it would count.
    RateLimitPolicy(RateLimitPolicy),
    /// Refuses bearers in the shape of its tokens.
    OidcProvider(OidcProvider),
}

impl Resource {
    /// The kind of the resource.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ProviderKey(_) => Kind::ProviderKey,
            Self::Model(_) => Kind::Model,
            Self::ApiKey(_) => Kind::ApiKey,
            Self::Guardrail(_) => Kind::Guardrail,
            Self::GuardrailAttachment(_) => Kind::GuardrailAttachment,
            Self::RateLimitPolicy(_) => Kind::RateLimitPolicy,
            Self::OidcProvider(_) => Kind::OidcProvider,
        }
    }

    /// The id of the resource, unique within its kind.
    pub fn id(&self) -> &str {
        match self {
            Self::ProviderKey(provider_key) => &provider_key.id,
            Self::Model(model) => &model.id,
            Self::ApiKey(api_key) => &api_key.id,
            Self::Guardrail(guardrail) => &guardrail.id,
            Self::GuardrailAttachment(attachment) => &attachment.id,
            Self::RateLimitPolicy(policy) => &policy.id,
            Self::OidcProvider(provider) => &provider.id,
        }
    }
}
