//! What each key is for, in a sentence: for the reference and the manual page. A test sees that no key is without.

/// Keys and what they are for. A name that ends with a dot stands for the group of that name below any other: `redis.` for
/// `cache.redis.` and `ratelimit.redis.`.
pub(super) const ABOUT: &[(&str, &str)] = &[
    (
        "etcd.endpoints",
        "URLs of the etcd to follow. In managed mode the Cloud's own takes their place.",
    ),
    ("etcd.prefix", "Prefix of the keys in etcd."),
    ("etcd.env_id", "Environment below the prefix, where the etcd holds several."),
    ("etcd.user", "User name for the etcd."),
    ("etcd.password_env", "Name of the variable that holds the password for the etcd."),
    ("etcd.dial_timeout_ms", "How long a connection to the etcd may take, in milliseconds."),
    ("etcd.request_timeout_ms", "How long the etcd may take for an answer, in milliseconds."),
    ("etcd.tls.ca_cert_file", "Certificates that the etcd's must lead to, a PEM file."),
    ("etcd.tls.client_cert_file", "Client certificate for the etcd, a PEM file."),
    ("etcd.tls.client_key_file", "Its private key, a PEM file."),
    ("etcd.tls.domain_name", "Name that the etcd's certificate must have, if not the host's."),
    ("resources_file", "File of resources, in the place of Cloud and etcd."),
    ("proxy.addr", "Address and port where callers connect. Needed."),
    ("proxy.request_body_limit_bytes", "Longest body of a request, in bytes; 0 is no limit."),
    (
        "proxy.tls.cert_file",
        "Certificate chain of the listener of callers, a PEM file. Callers speak TLS then.",
    ),
    ("proxy.tls.key_file", "Its private key, a PEM file. Only the signer holds it."),
    ("proxy.tls.min_version", "Oldest TLS version that callers may speak."),
    (
        "proxy.real_ip.trusted_proxies",
        "Addresses and networks whose header names the caller's address.",
    ),
    (
        "proxy.real_ip.recursive",
        "Look for the last address that is not a trusted proxy, instead of the last one.",
    ),
    ("proxy.real_ip.header", "Header that names the caller's address."),
    (
        "proxy.request_id.accept_headers",
        "Headers whose value becomes the id of a request, the first one first; none: an id is always made.",
    ),
    ("proxy.thread_per_core", "Without effect: every worker is a process with one thread."),
    ("proxy.workers", "Number of proxy workers; as many as there are cores, if unset."),
    (
        "proxy.url_rewrites",
        "Rules that rewrite paths before routing: a pattern (match) and what comes in its place (rewrite).",
    ),
    ("admin.", "Of the published data plane; there is no admin listener."),
    ("observability.service_name", "Name of the service in the log and in traces."),
    (
        "observability.log_level",
        "Filter of the log: a level, or levels by target. `aisix log` changes it until the next reload.",
    ),
    ("observability.access_log", "One line in the log for each request."),
    (
        "observability.status_page",
        "The page at the root of the metrics listener; false leaves the published routes only.",
    ),
    (
        "observability.metrics.prometheus.enabled",
        "The listener of metrics and status; false: there is none.",
    ),
    ("observability.metrics.prometheus.path", "Path of the metrics."),
    ("observability.metrics.prometheus.addr", "Address and port of metrics and status."),
    ("observability.metrics.otlp.", "Without effect: metrics are only pulled."),
    (
        "observability.metrics.client_type_rules",
        "Names of client programs by their user agent: a pattern and the name (client), the first match first.",
    ),
    (
        "observability.metrics.buckets.request_e2e_latency",
        "Edges of the histogram of whole requests, in seconds.",
    ),
    (
        "observability.metrics.buckets.request_ttft",
        "Edges of the histogram of first tokens, in seconds.",
    ),
    (
        "observability.metrics.buckets.guardrail_latency",
        "Edges of the histogram of guardrails, in seconds.",
    ),
    ("observability.metrics.buckets.a2a_ttfb", "Without effect: there is no such series."),
    (
        "observability.tracing.otlp.enabled",
        "Send a span for every request and attempt to a collector.",
    ),
    (
        "observability.tracing.otlp.endpoint",
        "URL of the collector's OTLP over HTTP, such as http://otel-collector:4318.",
    ),
    (
        "observability.tracing.otlp.headers",
        "Headers that go along with every batch: name=value, with commas between several. Never shown.",
    ),
    (
        "observability.tracing.otlp.sample_ratio",
        "Share of requests, from 0 to 1, whose spans are sent where the caller's trace does not say it.",
    ),
    ("managed.enabled", "The Cloud manages this gateway."),
    (
        "managed.cp_base_url",
        "URL of the Cloud manager, https://HOST:PORT. Needed in managed mode. Not the URL of the console.",
    ),
    (
        "managed.cp_etcd_endpoint",
        "HOST:PORT of the Cloud's etcd, only if it is not the manager's own.",
    ),
    ("managed.cp_ca_cert_file", "Further trusted certificates, a PEM file."),
    ("managed.cp_cert_pem", "Client certificate of the bundle, as text."),
    ("managed.cp_key_pem", "Its private key, as text."),
    ("managed.cp_ca_pem", "Certificates that the Cloud's must lead to, as text."),
    ("managed.cp_cert_file", "Client certificate of the bundle, a PEM file."),
    ("managed.cp_key_file", "Its private key, a PEM file."),
    ("managed.cp_ca_file", "Certificates that the Cloud's must lead to, a PEM file."),
    (
        "managed.mtls_dir",
        "Folder where the bundle in force is kept. Its parent is the state directory.",
    ),
    ("managed.dp_id_file", "File that holds the id of this data plane."),
    (
        "managed.snapshot_cache_path",
        "File of the last configuration, for starts without the Cloud; empty: none is kept.",
    ),
    ("managed.heartbeat_interval_secs", "Time between heartbeats, 5 to 300 seconds."),
    ("managed.proxy_url", "HTTP proxy for the connections to the Cloud."),
    (
        "managed.spool_max_bytes",
        "What waiting usage events may take on disk; older ones become totals then.",
    ),
    ("managed.cert_renewal", "Whether the Cloud is asked for a new certificate ahead of time."),
    (
        "managed.budget_unknown",
        "What applies to caller keys that the Cloud has never decided about, while it cannot be asked.",
    ),
    (
        "managed.budget_stale_max_secs",
        "Age, in seconds, up to which a budget decision counts while the Cloud cannot be asked.",
    ),
    ("cache.backend", "Of the published data plane; each cache policy chooses."),
    ("ratelimit.backend", "Count limits on this node, or with others in a Redis."),
    (
        "ratelimit.concurrency_ttl_secs",
        "How long a request in progress counts in Redis if its node never says that it is over, in seconds.",
    ),
    ("redis.mode", "A single Redis or a cluster."),
    ("redis.url", "URL of the Redis, in the mode single."),
    ("redis.nodes", "Nodes of the cluster, HOST:PORT each."),
    ("redis.sentinels", "Of the published data plane; sentinels are refused."),
    ("redis.master_name", "Of the published data plane; sentinels are refused."),
    ("redis.username", "User name for the Redis."),
    ("redis.password", "Password for the Redis."),
    ("redis.database", "Number of the database, in the mode single."),
    ("redis.tls.ca_file", "Certificates that the Redis' must lead to, a PEM file."),
    ("redis.tls.client_cert_file", "Client certificate for the Redis, a PEM file."),
    ("redis.tls.client_key_file", "Its private key, a PEM file."),
    ("redis.tls.verify", "Whether the Redis' certificate is checked."),
    (
        "upstream.timeout_ms",
        "How long a provider may take for an answer, in milliseconds; 0 is no limit.",
    ),
    (
        "upstream.stream_timeout_ms",
        "How long a stream may be silent, in milliseconds; 0 is the time-out of answers.",
    ),
    (
        "upstream.connect_timeout_ms",
        "How long a connection to a provider may take, in milliseconds.",
    ),
    (
        "upstream.tcp_keepalive_secs",
        "Idle time after which a connection is probed, in seconds; 0 is never.",
    ),
    ("upstream.tcp_keepalive_interval_secs", "Time between two probes, in seconds."),
    (
        "upstream.tcp_keepalive_retries",
        "Probes without an answer after which a connection is given up.",
    ),
    (
        "upstream.pool_idle_timeout_secs",
        "How long an idle connection to a provider is kept, in seconds.",
    ),
    (
        "upstream.pool_max_idle_per_host",
        "How many idle connections are kept for each provider; no limit, if unset.",
    ),
    ("upstream.retries", "How often a failed attempt is repeated."),
    ("upstream.tls.ca_file", "Further trusted certificates for providers, a PEM file."),
    ("upstream.tls.client_cert_file", "Client certificate for providers, a PEM file."),
    ("upstream.tls.client_key_file", "Its private key, a PEM file."),
    ("upstream.tls.verify", "Whether providers' certificates are checked."),
    (
        "downstream.idle_timeout_secs",
        "How long an idle connection of a caller is kept, in seconds; 0 is no limit.",
    ),
    (
        "downstream.sse_keepalive_interval_secs",
        "Silence in a stream after which the caller is sent a comment, in seconds; 0 is never.",
    ),
    (
        "shutdown.min_drain_secs",
        "Time from the signal to end until nothing more is accepted, in seconds: for load balancers to notice.",
    ),
    (
        "shutdown.max_drain_secs",
        "How long requests in flight are waited for after that, in seconds; 0 is no limit.",
    ),
    ("bedrock_endpoint_url", "Endpoint for Bedrock where a provider key names none."),
    (
        "supervisor.sandbox",
        "Whether workers must be confined (required), are as far as the host allows (best-effort), or not (off).",
    ),
    (
        "supervisor.worker_uid_base",
        "First user number for roles whose user the system does not know.",
    ),
    ("supervisor.worker_path", "The worker program."),
    ("supervisor.control_socket", "Where `aisix status` and its like reach the gateway."),
    (
        "supervisor.replace_drain_secs",
        "How long a replaced worker may finish what it has begun, in seconds; 0 is no limit.",
    ),
];

/// What a key is for; `None` if nobody says it.
pub(super) fn about(name: &str) -> Option<&'static str> {
    let is_it = |known: &str| match known.strip_suffix('.') {
        Some(group) => name.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')),
        None => {
            known == name
                || (known.starts_with("redis.")
                    && name.strip_suffix(known).is_some_and(|rest| rest.ends_with('.')))
        }
    };
    ABOUT.iter().find(|(known, _)| is_it(known)).map(|(_, about)| *about)
}

#[test]
fn every_key_is_explained_and_nothing_else_is() {
    use super::super::key::KEYS;
    for key in KEYS {
        assert!(about(key.name).is_some(), "what is {} for?", key.name);
    }
    for (known, text) in ABOUT {
        let meant = KEYS.iter().any(|key| about(key.name) == Some(*text));
        assert!(meant, "{known} is no key");
        assert!(text.ends_with('.'), "{known}: {text}");
    }
}
