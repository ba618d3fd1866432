//! When answers may be repeated.

use bincode::{Decode, Encode};

/// A cache policy that is switched on.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct CachePolicy {
    /// Resource id.
    pub id: String,
    /// Its name, for metrics.
    pub name: String,
    /// Which requests it is about.
    pub applies_to: CacheSubject,
    /// Whether answers are kept in Redis rather than on this node.
    pub in_redis: bool,
    /// Only answers that were kept under this number are repeated.
    pub generation: u32,
    /// Whether an answer is repeated to all callers of the environment, rather than only to the key that got it.
    pub is_shared: bool,
    /// For how many seconds.
    pub ttl_seconds: u32,
}

/// Which requests a cache policy is about.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CacheSubject {
    /// All.
    Everything,
    /// Those for the model of this name.
    Model(String),
    /// Those with the caller key of this id.
    ApiKey(String),
    /// None that this build knows of.
    Nothing,
}
