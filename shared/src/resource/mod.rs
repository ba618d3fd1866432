//! The resources a worker serves, typed: what the supervisor has validated, never a raw document.
//!
//! Only what is honoured is carried, and what guards traffic without being enforceable (`guard.rs`), so that what it guards
//! is refused. What a document says beyond it is the supervisor's to report.

mod api_key;
mod cache_policy;
mod exporter;
mod guard;
mod key_source;
mod limits;
mod model;
mod passthrough;
mod provider_key;
mod routing;

use bincode::{Decode, Encode};

pub use api_key::{ApiKey, JwtBinding, KeyHash};
pub use cache_policy::{CachePolicy, CacheSubject};
pub use exporter::Exporter;
pub use guard::{
    Check, ClaimCondition, ClaimMapping, Condition, Days, Dimension, Guardrail,
    GuardrailAttachment, KeywordPattern, OidcProvider, PiiAction, PiiCheck, PiiPattern,
    PolicyScope, REGEX_BYTES_MAX, RateLimitPolicy, Schedule, Subject,
};
pub use key_source::{KeySource, WebUrl};
pub use limits::RateLimits;
pub use model::{BackgroundCheck, Cooldown, Cost, DirectModel, Model, ModelKind, PromptCaching};
pub use passthrough::{PassthroughRoute, RouteAuth};
pub use provider_key::{
    Adapter, Endpoint, EndpointError, ProviderKey, RequestOverrides, ResponseOverrides,
    TelemetryTags, UpstreamTls,
};
pub use routing::{HashOn, Routing, RoutingTarget, Strategy};

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
    /// `cache_policies`
    CachePolicy,
    /// `passthrough_routes`
    PassthroughRoute,
    /// `claim_mappings`
    ClaimMapping,
    /// `observability_exporters`
    Exporter,
}

impl Kind {
    /// Whether the kind guards traffic: a document of it that is newer than this build must still guard.
    pub fn is_guard(self) -> bool {
        match self {
            Self::ProviderKey
            | Self::Model
            | Self::ApiKey
            | Self::CachePolicy
            | Self::PassthroughRoute
            | Self::ClaimMapping
            | Self::Exporter => false,
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
    /// Looks at what it is attached to.
    Guardrail(Guardrail),
    /// What is attached to a guardrail.
    GuardrailAttachment(GuardrailAttachment),
    /// Counts requests, and lets so many through.
    RateLimitPolicy(RateLimitPolicy),
    /// Judges bearers in the shape of its tokens.
    OidcProvider(OidcProvider),
    /// When answers may be repeated.
    CachePolicy(CachePolicy),
    /// A route past the gateway's own endpoints.
    PassthroughRoute(PassthroughRoute),
    /// Whose key a token stands for.
    ClaimMapping(ClaimMapping),
    /// Where traces are sent to.
    Exporter(Exporter),
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
            Self::CachePolicy(_) => Kind::CachePolicy,
            Self::PassthroughRoute(_) => Kind::PassthroughRoute,
            Self::ClaimMapping(_) => Kind::ClaimMapping,
            Self::Exporter(_) => Kind::Exporter,
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
            Self::CachePolicy(policy) => &policy.id,
            Self::PassthroughRoute(route) => &route.id,
            Self::ClaimMapping(mapping) => &mapping.id,
            Self::Exporter(exporter) => &exporter.id,
        }
    }
}
