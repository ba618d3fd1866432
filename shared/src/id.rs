//! Names for the things both sides talk about.

use std::fmt;

use bincode::{Decode, Encode};

/// One worker process of this supervisor's life; never used again after the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Revision of the configuration store, as etcd counts it. 0 before the first load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a worker process is for. One binary, a role per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Role {
    /// Serves the proxy listener: parses callers and providers.
    Proxy,
    /// Serves the metrics and status listener.
    Status,
    /// Resolves names and makes connections, for the other roles and for the supervisor.
    Egress,
    /// Holds the listener's TLS key and signs handshakes with it.
    Signer,
    /// Keeps answers for callers that ask the same again.
    Cache,
    /// Sends traces to whom they are configured to go.
    Export,
}

impl Role {
    /// Every role of this build.
    pub const ALL: [Self; 6] =
        [Self::Proxy, Self::Status, Self::Egress, Self::Signer, Self::Cache, Self::Export];
    /// The roles that serve proxy workers, over a channel with each of them.
    pub const HELPERS: [Self; 4] = [Self::Egress, Self::Signer, Self::Cache, Self::Export];

    /// The word for it on the command line, in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Status => "status",
            Self::Egress => "egress",
            Self::Signer => "signer",
            Self::Cache => "cache",
            Self::Export => "export",
        }
    }

    /// Whether it serves proxy workers.
    pub fn is_helper(self) -> bool {
        Self::HELPERS.contains(&self)
    }

    /// Whether it serves a listening socket.
    pub const fn listens(self) -> bool {
        matches!(self, Self::Proxy | Self::Status)
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The system user of the role after a package install.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Proxy => "aisix-worker",
            Self::Status => "aisix-status",
            Self::Egress => "aisix-egress",
            Self::Signer => "aisix-keys",
            Self::Cache => "aisix-cache",
            Self::Export => "aisix-export",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
