//! A group of direct models: which of them a request goes to, and what happens when one fails.

use bincode::{Decode, Encode};

/// A group of direct models behind one name.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Routing {
    /// The models, in the order of their declaration; never empty.
    pub targets: Vec<RoutingTarget>,
    /// How they are ordered for a request, within a tier of priority.
    pub strategy: Strategy,
    /// Where the key of consistent hashing comes from: the first source with a value counts. Empty = the header
    /// `x-aisix-routing-key`, then the caller key.
    pub hash_on: Vec<HashOn>,
    /// Statuses of an upstream below 500 that count as its failure.
    pub fallback_on_statuses: Vec<u16>,
    /// How many further targets are tried after the first; `None` = all.
    pub max_fallbacks: Option<u32>,
    /// How often an attempt is repeated at a target that does not say so itself; `None` = as the deployment says.
    pub retries: Option<u32>,
    /// Whether 429 of an upstream counts as its failure.
    pub retry_on_429: bool,
    /// Whether targets are tried although all of them are known to be unavailable.
    pub try_anyway: bool,
}

/// One model of a group.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct RoutingTarget {
    /// Display name of a direct model, which need not exist.
    pub model: String,
    /// A lower tier is tried only when all of the higher ones have failed or are unavailable.
    pub priority: i32,
    /// Its share, where the strategy has shares.
    pub weight: u32,
    /// What a request must ask for to go there; `default` takes what nothing else does.
    pub tags: Vec<String>,
}

/// How the targets of a group are ordered for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Strategy {
    /// As declared.
    #[default]
    Failover,
    /// Smooth weighted round robin.
    RoundRobin,
    /// A ring of hashes, so that a key stays with its target.
    ConsistentHash,
    /// The cheapest first.
    LeastCost,
    /// The fastest first.
    LeastLatency,
    /// The one with the fewest requests for its weight first.
    LeastBusy,
}

/// Where the key of consistent hashing comes from.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum HashOn {
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// The id of the caller key.
    ApiKey,
    /// The address of the caller.
    ClientIp,
}
