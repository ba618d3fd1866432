//! Every configuration key, once: its name, its type, its default, and whether this build acts on it.
//!
//! The table drives reading of files and variables, the detection of unknown keys, and the refusal of values that this
//! build cannot act on. Names and defaults are those of the published data plane, then our own.

use Effect::{ByDesign, InEffect, Refused};
use Kind::{Bool, Choice, Integer, Number, Numbers, Objects, Secret, Text, Texts, TextsInFile};

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from 0.
    Integer,
    /// A finite number.
    Number,
    /// Text, kept as written.
    Text,
    /// Text that is never shown.
    Secret,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; separated by commas in a variable.
    Texts,
    /// A list of texts that has no form as a variable.
    TextsInFile,
    /// A list of numbers; separated by commas in a variable.
    Numbers,
    /// A list of objects with these text fields; JSON in a variable.
    Objects(&'static [&'static str]),
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The gateway acts on it.
    InEffect,
    /// Accepted for compatibility; there is nothing here that it could change, for this reason.
    ByDesign(&'static str),
    /// Any value but the default asks for something that this build does not do: the start is refused, with this reason
    /// and remedy.
    Refused(&'static str),
}

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// Path with dots, as in `proxy.real_ip.header`.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Value where nothing is written, in the form of a variable; `None` = absent.
    pub default: Option<&'static str>,
    /// What becomes of it.
    pub effect: Effect,
}

impl Key {
    /// The key called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Whether keys begin with `path` and a dot.
    pub fn is_group(path: &str) -> bool {
        KEYS.iter().any(|key| below(key.name, path))
    }

    /// The known name most like `name`, if one is like it at all. Groups count as names.
    pub fn nearest(name: &str) -> Option<&'static str> {
        let groups = |key: &'static Self| {
            key.name.match_indices('.').filter_map(|(dot, _)| key.name.get(..dot))
        };
        most_like(name, KEYS.iter().flat_map(|key| groups(key).chain([key.name])))
    }

    /// The key that the variable of the path `name` was perhaps meant for. A group has no variable.
    pub fn nearest_variable(name: &str) -> Option<String> {
        let nearest = most_like(name, KEYS.iter().map(|key| key.name));
        // Of a group any key shows what is missing.
        let below = || KEYS.iter().find(|key| below(key.name, name)).map(|key| key.name);
        nearest.or_else(below).map(Self::variable)
    }

    /// The variable that sets this key.
    pub fn variable(name: &str) -> String {
        format!("AISIX_{}", name.to_ascii_uppercase().replace('.', "__"))
    }
}

fn most_like(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    names
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 2)
        .map(|(_, known)| known)
}

fn below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, effect: Effect) -> Key {
    Key { name, kind, default, effect }
}

const NO_METRICS_PUSH: &str = "metrics are only pulled, as in the published data plane";
const NO_ADMIN: &str =
    "there is no admin interface: managed mode has none, and without it a listener is refused";
const NO_SERIES: &str = "this build has no such series";

const BACKENDS: Kind = Choice(&["memory", "redis"]);
const REDIS_MODES: Kind = Choice(&["single", "cluster", "sentinel"]);
const E2E_EDGES: &str = "0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2,5,10,30,60,120,300,420,600";
const TTFT_EDGES: &str = "0.05,0.1,0.25,0.5,1,2,5,10,30,60,120,300";
const GUARDRAIL_EDGES: &str = "0.001,0.0025,0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10,30";

/// All keys, in the order in which they are documented.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    key("etcd.endpoints", Texts, None, InEffect),
    key("etcd.prefix", Text, Some("/aisix"), InEffect),
    key("etcd.env_id", Text, None, InEffect),
    key("etcd.user", Text, None, InEffect),
    key("etcd.password_env", Text, None, InEffect),
    key("etcd.dial_timeout_ms", Integer, Some("5000"), InEffect),
    key("etcd.request_timeout_ms", Integer, Some("5000"), InEffect),
    key("etcd.tls.ca_cert_file", Text, None, InEffect),
    key("etcd.tls.client_cert_file", Text, None, InEffect),
    key("etcd.tls.client_key_file", Text, None, InEffect),
    key("etcd.tls.domain_name", Text, None, InEffect),
    key("resources_file", Text, None, InEffect),

    key("proxy.addr", Text, None, InEffect),
    key("proxy.request_body_limit_bytes", Integer, Some("0"), InEffect),
    key("proxy.tls.cert_file", Text, None, InEffect),
    key("proxy.tls.key_file", Text, None, InEffect),
    key("proxy.tls.min_version", Choice(&["1.2", "1.3"]), Some("1.3"), InEffect),
    key("proxy.real_ip.trusted_proxies", Texts, Some(""), InEffect),
    key("proxy.real_ip.recursive", Bool, Some("false"), InEffect),
    key("proxy.real_ip.header", Text, Some("x-forwarded-for"), InEffect),
    key("proxy.request_id.accept_headers", Texts, Some("x-aisix-request-id"), InEffect),
    key("proxy.thread_per_core", Bool, None, ByDesign("every worker process has one thread")),
    key("proxy.workers", Integer, None, InEffect),
    key("proxy.url_rewrites", Objects(&["name", "match", "rewrite"]), Some(""), InEffect),

    key("admin.enabled", Bool, Some("true"), ByDesign(NO_ADMIN)),
    key("admin.addr", Text, Some("127.0.0.1:0"), ByDesign(NO_ADMIN)),
    key("admin.admin_keys", Texts, Some(""), ByDesign(NO_ADMIN)),
    key("admin.tls.cert_file", Text, None, ByDesign(NO_ADMIN)),
    key("admin.tls.key_file", Text, None, ByDesign(NO_ADMIN)),

    key("observability.service_name", Text, Some("aisix"), InEffect),
    key("observability.log_level", Text, Some("info"), InEffect),
    key("observability.access_log", Bool, Some("true"), InEffect),
    key("observability.status_page", Bool, Some("false"), Refused("this build has no status page; use the routes below /status")),
    key("observability.metrics.prometheus.enabled", Bool, Some("true"), InEffect),
    key("observability.metrics.prometheus.path", Text, Some("/metrics"), InEffect),
    key("observability.metrics.prometheus.addr", Text, Some("0.0.0.0:9090"), InEffect),
    key("observability.metrics.otlp.enabled", Bool, Some("false"), ByDesign(NO_METRICS_PUSH)),
    key("observability.metrics.otlp.endpoint", Text, None, ByDesign(NO_METRICS_PUSH)),
    key("observability.metrics.client_type_rules", Objects(&["pattern", "client"]), Some(""), InEffect),
    key("observability.metrics.buckets.request_e2e_latency", Numbers, Some(E2E_EDGES), InEffect),
    key("observability.metrics.buckets.request_ttft", Numbers, Some(TTFT_EDGES), InEffect),
    key("observability.metrics.buckets.guardrail_latency", Numbers, Some(GUARDRAIL_EDGES), InEffect),
    key("observability.metrics.buckets.a2a_ttfb", Numbers, Some(TTFT_EDGES), ByDesign(NO_SERIES)),
    key("observability.tracing.otlp.enabled", Bool, Some("false"), InEffect),
    key("observability.tracing.otlp.endpoint", Text, None, InEffect),
    key("observability.tracing.otlp.headers", Secret, None, InEffect),
    key("observability.tracing.otlp.sample_ratio", Number, Some("1.0"), InEffect),

    key("managed.enabled", Bool, Some("false"), InEffect),
    key("managed.cp_base_url", Text, None, InEffect),
    key("managed.cp_etcd_endpoint", Text, None, InEffect),
    key("managed.cp_ca_cert_file", Text, None, InEffect),
    key("managed.cp_cert_pem", Text, None, InEffect),
    key("managed.cp_key_pem", Secret, None, InEffect),
    key("managed.cp_ca_pem", Text, None, InEffect),
    key("managed.cp_cert_file", Text, None, InEffect),
    key("managed.cp_key_file", Text, None, InEffect),
    key("managed.cp_ca_file", Text, None, InEffect),
    key("managed.mtls_dir", Text, Some("/var/lib/aisix/mtls"), InEffect),
    key("managed.dp_id_file", Text, Some("/var/lib/aisix/dp_id"), InEffect),
    key("managed.snapshot_cache_path", Text, Some("/var/lib/aisix/config_cache.json"), InEffect),
    key("managed.heartbeat_interval_secs", Integer, Some("15"), InEffect),
    key("managed.proxy_url", Secret, None, InEffect),
    key("managed.spool_max_bytes", Integer, Some("1073741824"), InEffect),
    key("managed.cert_renewal", Choice(&["auto", "off"]), Some("auto"), InEffect),
    key("managed.budget_unknown", Choice(&["deny", "allow"]), Some("deny"), InEffect),
    key("managed.budget_stale_max_secs", Integer, Some("600"), InEffect),

    key("cache.backend", BACKENDS, Some("memory"), InEffect),
    key("cache.redis.mode", REDIS_MODES, Some("single"), InEffect),
    key("cache.redis.url", Secret, None, InEffect),
    key("cache.redis.nodes", TextsInFile, Some(""), InEffect),
    key("cache.redis.sentinels", TextsInFile, Some(""), InEffect),
    key("cache.redis.master_name", Text, None, InEffect),
    key("cache.redis.username", Text, None, InEffect),
    key("cache.redis.password", Secret, None, InEffect),
    key("cache.redis.database", Integer, None, InEffect),
    key("cache.redis.tls.ca_file", Text, None, InEffect),
    key("cache.redis.tls.client_cert_file", Text, None, InEffect),
    key("cache.redis.tls.client_key_file", Text, None, InEffect),
    key("cache.redis.tls.verify", Bool, Some("true"), InEffect),
    key("ratelimit.backend", BACKENDS, Some("memory"), InEffect),
    key("ratelimit.concurrency_ttl_secs", Integer, Some("300"), InEffect),
    key("ratelimit.redis.mode", REDIS_MODES, Some("single"), InEffect),
    key("ratelimit.redis.url", Secret, None, InEffect),
    key("ratelimit.redis.nodes", TextsInFile, Some(""), InEffect),
    key("ratelimit.redis.sentinels", TextsInFile, Some(""), InEffect),
    key("ratelimit.redis.master_name", Text, None, InEffect),
    key("ratelimit.redis.username", Text, None, InEffect),
    key("ratelimit.redis.password", Secret, None, InEffect),
    key("ratelimit.redis.database", Integer, None, InEffect),
    key("ratelimit.redis.tls.ca_file", Text, None, InEffect),
    key("ratelimit.redis.tls.client_cert_file", Text, None, InEffect),
    key("ratelimit.redis.tls.client_key_file", Text, None, InEffect),
    key("ratelimit.redis.tls.verify", Bool, Some("true"), InEffect),

    key("upstream.timeout_ms", Integer, Some("6000000"), InEffect),
    key("upstream.stream_timeout_ms", Integer, Some("0"), InEffect),
    key("upstream.connect_timeout_ms", Integer, Some("5000"), InEffect),
    key("upstream.tcp_keepalive_secs", Integer, Some("60"), InEffect),
    key("upstream.tcp_keepalive_interval_secs", Integer, Some("30"), InEffect),
    key("upstream.tcp_keepalive_retries", Integer, Some("5"), InEffect),
    key("upstream.pool_idle_timeout_secs", Integer, Some("30"), InEffect),
    key("upstream.pool_max_idle_per_host", Integer, None, InEffect),
    key("upstream.retries", Integer, Some("2"), InEffect),
    key("upstream.tls.ca_file", Text, None, InEffect),
    key("upstream.tls.client_cert_file", Text, None, InEffect),
    key("upstream.tls.client_key_file", Text, None, InEffect),
    key("upstream.tls.verify", Bool, Some("true"), InEffect),

    key("downstream.idle_timeout_secs", Integer, Some("0"), InEffect),
    key("downstream.sse_keepalive_interval_secs", Integer, Some("15"), InEffect),
    key("shutdown.min_drain_secs", Integer, Some("30"), InEffect),
    key("shutdown.max_drain_secs", Integer, Some("0"), InEffect),
    key("bedrock_endpoint_url", Text, None, InEffect),

    key("supervisor.sandbox", Choice(&["required", "best-effort", "off"]), Some("best-effort"), InEffect),
    key("supervisor.worker_uid_base", Integer, Some("61000"), InEffect),
    key("supervisor.worker_path", Text, None, InEffect),
    key("supervisor.control_socket", Text, None, InEffect),
    key("supervisor.replace_drain_secs", Integer, Some("600"), InEffect),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_name_is_twice_in_the_table_or_both_a_key_and_a_group() {
        let names: HashSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        assert!(KEYS.iter().all(|key| !Key::is_group(key.name)));
    }

    #[test]
    fn the_nearest_name_is_told_only_when_it_is_near() {
        for (written, meant) in [
            ("proxy.adr", Some("proxy.addr")),
            ("proxy_addr", Some("proxy.addr")),
            ("managed.cp_base_uri", Some("managed.cp_base_url")),
            ("mannaged", Some("managed")),
            ("proxy.adress", Some("proxy.addr")),
            ("shutdown.max_drain", Some("shutdown.max_drain_secs")),
            ("managed.budget_stale_max_seconds", Some("managed.budget_stale_max_secs")),
            ("nothing.like.it", None),
        ] {
            assert_eq!(Key::nearest(written), meant, "{written}");
        }
    }

    #[test]
    fn a_variable_of_a_group_is_told_one_of_a_key() {
        for (written, meant) in [
            ("proxy", "AISIX_PROXY__ADDR"),
            ("managed.cp_base", "AISIX_MANAGED__CP_BASE_URL"),
            ("observability.metrics.buckets", "AISIX_OBSERVABILITY__METRICS__BUCKETS__A2A_TTFB"),
        ] {
            assert_eq!(Key::nearest_variable(written).as_deref(), Some(meant), "{written}");
        }
    }

    #[test]
    fn the_variable_of_a_key_is_its_path_in_capitals() {
        assert_eq!(Key::variable("proxy.real_ip.header"), "AISIX_PROXY__REAL_IP__HEADER");
    }
}
