//! The resources a worker serves, typed: what the supervisor has validated, never a raw document.
//!
//! Only what is enforced is carried. What a document says beyond it is the supervisor's to report.

mod api_key;
mod model;
mod provider_key;

use bincode::{Decode, Encode};

pub use api_key::{ApiKey, KeyHash};
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
}

impl Resource {
    /// The kind of the resource.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ProviderKey(_) => Kind::ProviderKey,
            Self::Model(_) => Kind::Model,
            Self::ApiKey(_) => Kind::ApiKey,
        }
    }

    /// The id of the resource, unique within its kind.
    pub fn id(&self) -> &str {
        match self {
            Self::ProviderKey(provider_key) => &provider_key.id,
            Self::Model(model) => &model.id,
            Self::ApiKey(api_key) => &api_key.id,
        }
    }
}
