//! What a worker is told of the configuration file: only what its role acts on.

use bincode::{Decode, Encode};

use crate::budget::Verdict;
use crate::cidr::Cidr;
use crate::resource::Exporter;

/// Settings of the proxy role. Durations are in milliseconds; 0 means none.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ProxySettings {
    /// Largest request body, in bytes; 0 = unlimited.
    pub request_body_bytes_max: u64,
    /// Peers whose forwarding header is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Whether the forwarding header is walked back through every trusted proxy.
    pub real_ip_recursive: bool,
    /// The forwarding header.
    pub real_ip_header: String,
    /// Headers a caller may name its request in, in order; empty = always ours.
    pub request_id_headers: Vec<String>,
    /// Settings of upstream calls.
    pub upstream: UpstreamSettings,
    /// Idle time after which a caller's HTTP/1.1 connection is closed; 0 = never.
    pub downstream_idle_ms: u64,
    /// Silence after which a stream carries a comment; 0 = never.
    pub sse_keepalive_ms: u64,
    /// Environment id, as label of metrics.
    pub env_id: String,
    /// Whether a line is logged for each request.
    pub access_log: bool,
    /// Rules that give a request another path before it is routed; the first that matches counts.
    pub url_rewrites: Vec<UrlRewrite>,
    /// Rules that name client programs, before the built-in ones.
    pub client_rules: Vec<ClientRule>,
    /// How often an attempt that failed is repeated.
    pub retries: u32,
    /// What applies to a caller key of whose budget nothing is known; `None` = nobody keeps budgets.
    pub budget_unknown: Option<Verdict>,
    /// Whether callers speak TLS; their certificate comes before the leave to serve.
    pub tls: bool,
    /// Where limits are counted together with other nodes; `None` = on this node alone.
    pub limits_redis: Option<RedisSettings>,
    /// How long a request that is in progress keeps its place in Redis, should nobody give it back.
    pub concurrency_ttl_ms: u64,
    /// Where answers are kept that a policy wants to be kept in Redis.
    pub cache_redis: Option<RedisSettings>,
    /// Which part of the requests the exporter of the configuration file is told of; `None` = there is none.
    pub trace_ratio: Option<f64>,
}

/// A Redis, or a cluster of them.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct RedisSettings {
    /// Whether the nodes share keys among them.
    pub is_cluster: bool,
    /// Where it is; one, unless it is a cluster.
    pub nodes: Vec<RedisNode>,
    /// Whom to log in as.
    pub username: Option<String>,
    /// With what.
    pub password: Option<crate::secret::Secret<String>>,
    /// Number of the database.
    pub database: u32,
    /// TLS; `None` = in clear.
    pub tls: Option<RedisTls>,
}

/// The address of a Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct RedisNode {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl RedisNode {
    /// By which egress knows it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// TLS towards Redis.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct RedisTls {
    /// PEM certificates trusted beside the platform's.
    pub ca_pem: Option<String>,
    /// PEM certificate chain and key to present.
    pub client_identity_pem: Option<(String, crate::secret::Secret<String>)>,
    /// `false` accepts any certificate.
    pub verify: bool,
}

/// A rule that gives a request another path. The supervisor has seen that the pattern compiles.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UrlRewrite {
    /// Regular expression, looked for in the percent-encoded path.
    pub pattern: String,
    /// What takes the place of the match; `$1` and `${name}` are groups.
    pub template: String,
}

/// A rule that names a client program. The supervisor has seen that the pattern compiles.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClientRule {
    /// Regular expression, looked for in the user agent in any case.
    pub pattern: String,
    /// The program's name in metrics.
    pub client: String,
}

/// Settings of upstream calls. Durations are in milliseconds; 0 means none.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct UpstreamSettings {
    /// Limit of an unary call.
    pub timeout_ms: u64,
    /// Longest silence within a stream; 0 = as `timeout_ms`.
    pub stream_timeout_ms: u64,
    /// Limit of connecting, TLS included.
    pub connect_timeout_ms: u64,
    /// TCP keep-alive: idle time before the first probe.
    pub keepalive_ms: u64,
    /// TCP keep-alive: time between probes.
    pub keepalive_interval_ms: u64,
    /// TCP keep-alive: probes before the connection is given up.
    pub keepalive_retries: u32,
    /// Idle time after which a pooled connection is closed.
    pub pool_idle_ms: u64,
    /// Idle connections kept per upstream; `None` = no limit.
    pub pool_idle_max: Option<u64>,
    /// PEM certificates trusted beside the platform's.
    pub ca_pem: Option<String>,
    /// PEM certificate chain and key presented to upstreams.
    pub client_identity_pem: Option<(String, crate::secret::Secret<String>)>,
    /// `false` accepts any certificate of an upstream.
    pub verify: bool,
    /// The issuers that the platform trusts, each a certificate in DER. The worker opens no file.
    pub platform_roots: Vec<Vec<u8>>,
}

/// Settings of the status role.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct StatusSettings {
    /// Path of the metrics, with a leading slash.
    pub metrics_path: String,
}

/// Settings of the egress role.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct EgressSettings {
    /// Limit of connecting to a provider, in milliseconds; 0 means none.
    pub connect_timeout_ms: u64,
}

/// Settings of the signer role.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct SignerSettings {}

/// Settings of the cache role.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct CacheSettings {}

/// Settings of the export role.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ExportSettings {
    /// How this service is called in traces.
    pub service_name: String,
    /// The exporter of the configuration file.
    pub configured: Option<Exporter>,
    /// How collectors are reached; without a certificate to present.
    pub upstream: UpstreamSettings,
}

/// Settings of one worker, by role.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum RoleSettings {
    /// For the proxy role.
    Proxy(Box<ProxySettings>),
    /// For the status role.
    Status(StatusSettings),
    /// For the egress role.
    Egress(EgressSettings),
    /// For the signer role.
    Signer(SignerSettings),
    /// For the cache role.
    Cache(CacheSettings),
    /// For the export role.
    Export(Box<ExportSettings>),
}

/// What every worker is told before it serves.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct WorkerSettings {
    /// What this role acts on.
    pub role: RoleSettings,
    /// Filter directives of the log.
    pub log_filter: String,
    /// Upper edges, in seconds, of the histogram of whole requests.
    pub e2e_buckets: Vec<f64>,
    /// Upper edges, in seconds, of the histogram of first tokens.
    pub ttft_buckets: Vec<f64>,
    /// Upper edges, in seconds, of the histogram of guardrails.
    pub guardrail_buckets: Vec<f64>,
}
