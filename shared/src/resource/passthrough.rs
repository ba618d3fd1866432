//! Routes past the gateway's own endpoints.

use bincode::{Decode, Encode};

use super::provider_key::Endpoint;
use crate::cidr::Cidr;

/// A passthrough route that is switched on.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PassthroughRoute {
    /// Resource id.
    pub id: String,
    /// Its name: what keys are allowed to use, and what usage is labelled with.
    pub name: String,
    /// Path below which it is.
    pub path_prefix: Option<String>,
    /// Hosts for which it is, in lower case and without ports; `*.` stands for any labels before.
    pub hosts: Vec<String>,
    /// Where it leads; `None` = to the host that the caller named.
    pub target: Option<Endpoint>,
    /// How callers are known.
    pub auth: RouteAuth,
    /// Resource id of the provider key whose secret is sent in place of the caller's; `None` = the caller's own goes on.
    pub provider_key_id: Option<String>,
    /// A header with the end user's name, for usage; not passed on.
    pub identity_header: Option<String>,
    /// Callers' addresses that may use it; empty = all.
    pub source_cidrs: Vec<Cidr>,
    /// Limit of the exchange, in milliseconds; `None` = the deployment's.
    pub timeout_ms: Option<u64>,
}

/// How callers of a passthrough route are known.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RouteAuth {
    /// As everywhere.
    GatewayKey,
    /// By a key in this header, which is not passed on.
    Header(String),
    /// Not at all: the request runs as the caller key of this id.
    Anonymous(String),
}
