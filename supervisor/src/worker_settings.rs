//! What each role is told of the settings.

use std::time::Duration;

use shared::export::CONFIGURED;
use shared::id::Role;
use shared::resource::Exporter;
use shared::worker_settings::{
    CacheSettings, EgressSettings, ExportSettings, ProxySettings, RoleSettings, SignerSettings,
    StatusSettings, UpstreamSettings, WorkerSettings,
};
use tracing::warn;

use crate::settings::{MetricsListener, Settings, Source, Upstream};

/// Every role that there is to run, with how many workers and what they are told.
pub fn of_roles(
    settings: &Settings,
    env_id: &str,
    log_filter: &str,
) -> Vec<(Role, usize, WorkerSettings)> {
    let proxies = settings.proxy.workers.get();
    let proxy = proxy(settings, env_id, log_filter);
    let export = export(settings, &proxy, log_filter);
    let mut roles = vec![(Role::Proxy, proxies, proxy)];
    if let Some(metrics) = &settings.observability.metrics {
        roles.push((Role::Status, 1, status(settings, metrics, log_filter)));
    }
    roles.push((Role::Egress, 1, egress(settings, log_filter)));
    if settings.proxy.tls.is_some() {
        roles.push((Role::Signer, 1, signer(settings, log_filter)));
    }
    // Only while a policy asks for it: see `fleet/on_demand.rs`.
    roles.push((Role::Cache, 0, cache(settings, log_filter)));
    // Likewise, or because the configuration file asks for it.
    let exporters = usize::from(settings.observability.otlp.is_some());
    roles.extend(export.map(|export| (Role::Export, exporters, export)));
    roles
}

/// Settings of the proxy role. `env_id` labels metrics.
pub fn proxy(settings: &Settings, env_id: &str, log_filter: &str) -> WorkerSettings {
    let proxy = &settings.proxy;
    let role = ProxySettings {
        request_body_bytes_max: proxy.request_body_bytes_max.unwrap_or(0),
        trusted_proxies: proxy.real_ip.trusted_proxies.clone(),
        real_ip_recursive: proxy.real_ip.recursive,
        real_ip_header: proxy.real_ip.header.to_string(),
        request_id_headers: proxy.request_id_headers.iter().map(ToString::to_string).collect(),
        upstream: upstream(&settings.upstream),
        downstream_idle_ms: millis(settings.downstream.idle_timeout),
        sse_keepalive_ms: millis(settings.downstream.sse_keepalive),
        env_id: env_id.to_owned(),
        access_log: settings.observability.access_log,
        url_rewrites: proxy.url_rewrites.clone(),
        client_rules: settings.observability.client_rules.clone(),
        retries: settings.upstream.retries,
        budget_unknown: match &settings.source {
            Source::Managed(managed) => Some(managed.budgets.unknown()),
            Source::Etcd(_) | Source::File(_) => None,
        },
        tls: proxy.tls.is_some(),
        limits_redis: settings.redis.limits.clone(),
        concurrency_ttl_ms: millis(Some(settings.redis.concurrency_ttl)),
        cache_redis: settings.redis.cache.clone(),
        trace_ratio: settings.observability.otlp.as_ref().map(|otlp| otlp.sample_ratio),
    };
    common(settings, RoleSettings::Proxy(Box::new(role)), log_filter)
}

/// Settings of the status role.
pub fn status(settings: &Settings, listener: &MetricsListener, log_filter: &str) -> WorkerSettings {
    let role = StatusSettings { metrics_path: listener.path.clone() };
    common(settings, RoleSettings::Status(role), log_filter)
}

/// Settings of the egress role.
pub fn egress(settings: &Settings, log_filter: &str) -> WorkerSettings {
    let connect_timeout_ms = millis(settings.upstream.connect_timeout);
    common(settings, RoleSettings::Egress(EgressSettings { connect_timeout_ms }), log_filter)
}

/// Settings of the signer role.
pub fn signer(settings: &Settings, log_filter: &str) -> WorkerSettings {
    common(settings, RoleSettings::Signer(SignerSettings::default()), log_filter)
}

/// Settings of the cache role.
pub fn cache(settings: &Settings, log_filter: &str) -> WorkerSettings {
    common(settings, RoleSettings::Cache(CacheSettings::default()), log_filter)
}

/// Settings of the export role: collectors are reached as providers are, but are shown no certificate.
fn export(settings: &Settings, proxy: &WorkerSettings, log_filter: &str) -> Option<WorkerSettings> {
    let RoleSettings::Proxy(proxy) = &proxy.role else { return None };
    let configured = settings.observability.otlp.as_ref().map(|otlp| Exporter {
        id: String::new(),
        name: CONFIGURED.to_owned(),
        endpoint: otlp.endpoint.clone(),
        headers: otlp.headers.clone(),
        sample_rate: otlp.sample_ratio,
    });
    let role = ExportSettings {
        service_name: settings.observability.service_name.clone(),
        configured,
        upstream: UpstreamSettings { client_identity_pem: None, ..proxy.upstream.clone() },
    };
    Some(common(settings, RoleSettings::Export(Box::new(role)), log_filter))
}

fn common(settings: &Settings, role: RoleSettings, log_filter: &str) -> WorkerSettings {
    WorkerSettings {
        role,
        log_filter: log_filter.to_owned(),
        e2e_buckets: settings.observability.e2e_buckets.clone(),
        ttft_buckets: settings.observability.ttft_buckets.clone(),
        guardrail_buckets: settings.observability.guardrail_buckets.clone(),
    }
}

fn upstream(upstream: &Upstream) -> UpstreamSettings {
    let identity = upstream.tls.identity.as_ref();
    UpstreamSettings {
        timeout_ms: millis(upstream.timeout),
        stream_timeout_ms: millis(upstream.stream_timeout),
        connect_timeout_ms: millis(upstream.connect_timeout),
        keepalive_ms: millis(upstream.keepalive),
        keepalive_interval_ms: millis(upstream.keepalive_interval),
        keepalive_retries: upstream.keepalive_retries,
        pool_idle_ms: millis(upstream.pool_idle_timeout),
        pool_idle_max: upstream.pool_idle_max,
        ca_pem: upstream.tls.roots_pem.clone(),
        client_identity_pem: identity.map(|i| (i.chain_pem.clone(), i.key_pem.clone())),
        verify: upstream.tls.verify,
        platform_roots: platform_roots(),
    }
}

/// The issuers that the platform trusts (or `SSL_CERT_FILE` and `SSL_CERT_DIR` say), read here since workers open no file.
fn platform_roots() -> Vec<Vec<u8>> {
    let platform = rustls_native_certs::load_native_certs();
    for error in &platform.errors {
        warn!(%error, "a part of the platform's certificate store cannot be read");
    }
    platform.certs.into_iter().map(|certificate| certificate.to_vec()).collect()
}

/// 0 where there is no limit.
fn millis(limit: Option<Duration>) -> u64 {
    limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
}
