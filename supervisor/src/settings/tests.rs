use std::fs;
use std::net::SocketAddr;

use proptest::prelude::*;
use tempfile::TempDir;

use super::key::{KEYS, Key};
use super::*;
use crate::bundle::source::BundleSource;

mod traps;

/// The smallest standalone configuration.
const STANDALONE: &str =
    "etcd: {endpoints: ['http://127.0.0.1:2379']}\nproxy: {addr: '127.0.0.1:3000'}\n";
const MANAGED: &str = "proxy: {addr: '0.0.0.0:3000'}\nmanaged: {enabled: true}\n";
const URL: (&str, &str) = ("AISIX_MANAGED__CP_BASE_URL", "https://cloud.test:7944");

/// Loads a file of this name and text with these variables.
fn load_file(name: &str, text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Settings::load(&path, variables).map_err(|error| error.to_string())
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
    load_file("config.yaml", text, variables).map(|loaded| loaded.settings)
}

fn managed(variables: &[(&str, &str)]) -> Result<Managed, String> {
    match load(MANAGED, variables)?.source {
        Source::Managed(managed) => Ok(*managed),
        source => panic!("{source:?}"),
    }
}

fn etcd(text: &str, variables: &[(&str, &str)]) -> Result<Etcd, String> {
    match load(text, variables)?.source {
        Source::Etcd(etcd) => Ok(*etcd),
        source => panic!("{source:?}"),
    }
}

#[test]
fn the_packaged_configuration_is_managed_and_needs_only_the_url() {
    let text = include_str!("../../../packaging/config.managed.yaml");
    let loaded = load_file("config.managed.yaml", text, &[URL]).unwrap();
    let Source::Managed(managed) = &loaded.settings.source else { panic!("not managed") };
    assert_eq!(managed.manager.to_string(), "https://cloud.test:7944");
    assert_eq!(managed.bundle, BundleSource::Persisted);
    assert_eq!(managed.state_dir(), Path::new("/var/lib/aisix"));
    assert_eq!(loaded.settings.proxy.address, SocketAddr::from(([0, 0, 0, 0], 3000)));
    let without_effect: Vec<_> = loaded.without_effect.iter().map(|(key, _)| *key).collect();
    assert_eq!(without_effect, ["admin.addr", "admin.admin_keys"]);
    let told = load_file("config.managed.yaml", text, &[]).unwrap_err();
    assert!(told.contains("managed.cp_base_url is missing"), "{told}");
    assert!(told.contains("AISIX_MANAGED__CP_BASE_URL"), "{told}");
}

#[test]
fn defaults_are_those_published() {
    let settings = load(STANDALONE, &[]).unwrap();
    assert_eq!(settings.upstream.timeout, Some(Duration::from_secs(6000)));
    assert_eq!(settings.upstream.stream_timeout, None);
    assert_eq!(settings.upstream.pool_idle_timeout, Some(Duration::from_secs(30)));
    assert_eq!(settings.downstream.idle_timeout, None);
    assert_eq!(settings.downstream.sse_keepalive, Some(Duration::from_secs(15)));
    assert_eq!(settings.shutdown.drain_min, Duration::from_secs(30));
    assert_eq!(settings.shutdown.drain_max, None);
    assert_eq!(settings.proxy.real_ip.header, "x-forwarded-for");
    assert_eq!(settings.proxy.request_id_headers, ["x-aisix-request-id"]);
    assert_eq!(settings.proxy.request_body_bytes_max, None);
    assert_eq!(settings.observability.e2e_buckets.len(), 17);
    let metrics = settings.observability.metrics.unwrap();
    assert_eq!((metrics.address.port(), metrics.path.as_str()), (9090, "/metrics"));
    assert_eq!(settings.workers.sandbox, Sandbox::BestEffort);
}

#[test]
fn a_variable_counts_more_than_the_file_and_the_file_more_than_the_default() {
    let text = format!("{STANDALONE}shutdown: {{min_drain_secs: 5, max_drain_secs: 9}}\n");
    let shutdown = load(&text, &[("AISIX_SHUTDOWN__MIN_DRAIN_SECS", "1")]).unwrap().shutdown;
    assert_eq!(shutdown.drain_min, Duration::from_secs(1));
    assert_eq!(shutdown.drain_max, Some(Duration::from_secs(9)));
}

#[test]
fn yaml_toml_and_json_say_the_same() {
    let toml = "[etcd]\nendpoints = ['http://127.0.0.1:2379']\nenv_id = '0123'\n[proxy]\naddr = '127.0.0.1:3000'\nworkers = 3\n[observability]\naccess_log = false\n";
    let json = r#"{"etcd": {"endpoints": ["http://127.0.0.1:2379"], "env_id": "0123"},
        "proxy": {"addr": "127.0.0.1:3000", "workers": 3}, "observability": {"access_log": false}}"#;
    let yaml = format!("{STANDALONE}  \nobservability: {{access_log: false}}\n")
        .replace("2379']", "2379'], env_id: 0123")
        .replace("3000'", "3000', workers: 3");
    for (name, text) in [("c.toml", toml), ("c.json", json), ("c.yaml", &yaml), ("c.yml", &yaml)] {
        let settings =
            load_file(name, text, &[]).unwrap_or_else(|told| panic!("{name}: {told}")).settings;
        assert_eq!(settings.proxy.workers.get(), 3, "{name}");
        assert!(!settings.observability.access_log, "{name}");
        let Source::Etcd(etcd) = settings.source else { panic!("{name}") };
        assert_eq!(etcd.prefix, "/aisix/0123/", "{name}");
    }
}

#[test]
fn text_in_a_file_keeps_what_looks_like_something_else() {
    for written in ["0123", "1e5", "TRUE", "1.10", "0x1f", "'0123'", "no"] {
        let text = STANDALONE.replace("2379']", &format!("2379'], env_id: {written}"));
        let etcd = etcd(&text, &[]).unwrap();
        assert_eq!(etcd.env_id, written.trim_matches('\''));
    }
}

#[test]
fn null_and_empty_groups_are_as_if_not_written() {
    let text = format!("{STANDALONE}managed:\ncache: {{backend: null}}\nupstream: ~\n");
    let loaded = load_file("c.yaml", &text, &[]).unwrap();
    assert!(loaded.without_effect.is_empty());
    let told = load_file("c.yaml", "# nothing\n", &[]).unwrap_err();
    assert!(told.contains("etcd.endpoints is missing"), "{told}");
}

#[test]
fn every_unknown_key_is_told_at_once_with_its_place_and_the_nearest_known_one() {
    let text =
        format!("{STANDALONE}obervability:\n  log_level: info\nmanaged:\n  cp_base_uri: x\n");
    let variables = [("AISIX_UPSTREAM__TIMEOUT", "1"), ("AISIX_SHUTDOWN__X__Y", "1")];
    let told = load(&text, &variables).unwrap_err();
    assert!(!told.contains('\n'));
    for expected in [
        "config.yaml line 3); did you mean observability?",
        "unknown key managed.cp_base_uri (",
        "config.yaml line 6); did you mean managed.cp_base_url?",
        "unknown key upstream.timeout (AISIX_UPSTREAM__TIMEOUT); did you mean AISIX_UPSTREAM__TIMEOUT_MS?",
        "unknown key shutdown.x.y (AISIX_SHUTDOWN__X__Y)",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    for (name, text) in
        [("c.toml", "[proxy]\nadr = 'x'\n"), ("c.json", r#"{"proxy": {"adr": "x"}}"#)]
    {
        let told = load_file(name, text, &[]).unwrap_err();
        assert!(told.contains("unknown key proxy.adr") && told.contains(name), "{told}");
        assert!(told.contains("did you mean proxy.addr?"), "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_parsed_is_told_with_the_place_but_without_its_text() {
    let group = "managed:\n  cp_key_pem: swordfish\n";
    for (name, text, place) in [
        ("c.yaml", format!("{group}  cp_ca_pem: [swordfish\n"), "line"),
        ("c.yaml", format!("{group}proxy: swordfish\n"), "at proxy"),
        ("c.yaml", format!("{group}proxy:\n  addr: [swordfish]\n"), "at proxy.addr"),
        ("c.yaml", "admin:\n  admin_keys: swordfish\n".to_owned(), "at admin.admin_keys"),
        ("c.json", r#"{"admin": {"admin_keys": "swordfish"}}"#.to_owned(), "at admin.admin_keys"),
        ("c.toml", "admin.admin_keys = 'swordfish'".to_owned(), "at admin.admin_keys"),
        ("c.toml", "managed.cp_key_pem = 'swordfish\n".to_owned(), "line 1"),
        ("c.json", r#"{"managed": {"cp_key_pem": "swordfish" "x"}}"#.to_owned(), "line 1"),
    ] {
        let told = load_file(name, &text, &[]).unwrap_err();
        assert!(told.contains(place) && told.contains(name), "{text}: {told}");
        assert!(!told.contains("swordfish") && !told.contains('\n'), "{text}: {told}");
    }
    let told = load_file("config", "", &[]).unwrap_err();
    assert!(told.contains(".yaml, .yml, .toml or .json"), "{told}");
    let missing = Settings::load(Path::new("/nowhere/c.yaml"), []).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/c.yaml") && missing.contains("No such file"), "{missing}");
}

#[test]
fn the_manager_is_reached_by_https_only() {
    for (url, rest, etcd) in [
        ("https://cloud.test:7944", "https://cloud.test:7944", "https://cloud.test:7944"),
        ("https://cloud.test:7944/", "https://cloud.test:7944", "https://cloud.test:7944"),
        ("HTTPS://cloud.test", "https://cloud.test", "https://cloud.test"),
        ("cloud.test:7944", "https://cloud.test:7944", "https://cloud.test:7944"),
        ("https://cloud.test:7944/base", "https://cloud.test:7944/base", "https://cloud.test:7944"),
        ("[::1]:7944", "https://[::1]:7944", "https://[::1]:7944"),
    ] {
        let managed = managed(&[(URL.0, url)]).unwrap();
        assert_eq!(managed.manager.to_string(), rest, "{url}");
        assert_eq!(managed.etcd.to_string(), etcd, "{url}");
    }
    for url in ["http://cloud.test:7944", "ftp://cloud.test", "https://", "https://u@cloud.test"] {
        let told = managed(&[(URL.0, url)]).unwrap_err();
        assert!(told.contains("managed.cp_base_url") && !told.contains("u@"), "{told}");
    }
    let told = managed(&[(URL.0, "http://cloud.test")]).unwrap_err();
    assert!(told.contains("only https"), "{told}");
    assert!(managed(&[(URL.0, "")]).unwrap_err().contains("managed.cp_base_url is missing"));
}

#[test]
fn a_separate_etcd_endpoint_may_be_written_with_or_without_its_scheme() {
    const ETCD: &str = "AISIX_MANAGED__CP_ETCD_ENDPOINT";
    for endpoint in ["etcd.test:2379", "https://etcd.test:2379", "https://etcd.test:2379/"] {
        let managed = managed(&[URL, (ETCD, endpoint)]).unwrap();
        assert_eq!(managed.etcd.to_string(), "https://etcd.test:2379");
    }
    for wrong in ["http://etcd.test:2379", "etcd.test:2379/path", "etcd.test:x"] {
        assert!(managed(&[URL, (ETCD, wrong)]).unwrap_err().contains("managed.cp_etcd_endpoint"));
    }
    assert_eq!(managed(&[URL, (ETCD, "")]).unwrap().etcd.to_string(), "https://cloud.test:7944");
}

#[test]
fn the_bundle_is_chosen_from_the_variables() {
    let files = [
        URL,
        ("AISIX_MANAGED__CP_CERT_FILE", "/c"),
        ("AISIX_MANAGED__CP_KEY_FILE", "/k"),
        ("AISIX_MANAGED__CP_CA_FILE", "/a"),
    ];
    let managed_by_files = managed(&files).unwrap();
    assert!(matches!(managed_by_files.bundle, BundleSource::Files { .. }));
    let told = managed(&files[..3]).unwrap_err();
    assert!(told.contains("AISIX_MANAGED__CP_CA_FILE"), "{told}");
    let both = [&files[..], &[("AISIX_MANAGED__CP_KEY_PEM", "0123")]].concat();
    let told = managed(&both).unwrap_err();
    assert!(told.contains("AISIX_MANAGED__CP_KEY_PEM and AISIX_MANAGED__CP_KEY_FILE"), "{told}");
    assert!(!told.contains("0123"), "{told}");
    let empty = [&files[..], &[("AISIX_MANAGED__CP_KEY_PEM", "")]].concat();
    assert_eq!(managed(&empty).unwrap().bundle, managed_by_files.bundle);
}

#[test]
fn the_heartbeat_interval_is_clamped() {
    for (written, secs) in [("1", 5), ("15", 15), ("9999", 300)] {
        let managed = managed(&[URL, ("AISIX_MANAGED__HEARTBEAT_INTERVAL_SECS", written)]).unwrap();
        assert_eq!(managed.heartbeat_interval, Duration::from_secs(secs));
    }
}

#[test]
fn resources_come_from_one_place() {
    let file = ("AISIX_RESOURCES_FILE", "/r.yaml");
    assert!(load(STANDALONE, &[file]).unwrap_err().contains("resources_file and etcd.endpoints"));
    assert!(
        load(MANAGED, &[file, URL]).unwrap_err().contains("resources_file and managed.enabled")
    );
    let alone = load("proxy: {addr: '127.0.0.1:1'}", &[file]).unwrap();
    assert!(matches!(alone.source, Source::File(path) if path == Path::new("/r.yaml")));
    let none = load("proxy: {addr: '127.0.0.1:1'}\netcd: {endpoints: []}", &[]).unwrap_err();
    assert!(none.contains("etcd.endpoints is missing"), "{none}");
    assert!(managed(&[URL, ("AISIX_ETCD__ENDPOINTS", "")]).is_ok());
}

#[test]
fn a_standalone_etcd_has_endpoints_prefix_and_user() {
    let variables = [
        ("AISIX_ETCD__ENDPOINTS", "http://a:2379,b:2379"),
        ("AISIX_ETCD__PREFIX", "/aisix/"),
        ("AISIX_ETCD__ENV_ID", "e"),
        ("AISIX_ETCD__USER", "gateway"),
        ("AISIX_ETCD__PASSWORD_ENV", "AISIX_ETCD_PASSWORD"),
        ("AISIX_ETCD_PASSWORD", "1e5"),
    ];
    let read = etcd(STANDALONE, &variables).unwrap();
    let endpoints: Vec<_> = read.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["http://a:2379", "http://b:2379"]);
    assert_eq!(read.prefix, "/aisix/e/");
    let (user, password) = read.user.unwrap();
    assert_eq!((user.as_str(), password.expose().as_str()), ("gateway", "1e5"));
    let told = etcd(STANDALONE, &variables[..5]).unwrap_err();
    assert!(told.contains("etcd.password_env") && told.contains("AISIX_ETCD_PASSWORD"), "{told}");
    assert_eq!(etcd(STANDALONE, &[]).unwrap().prefix, "/aisix/");
}

#[test]
fn values_that_cannot_be_used_are_told_with_their_key() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (variable, value, told) in [
        ("AISIX_PROXY__ADDR", "localhost:3000", "IP:PORT"),
        ("AISIX_PROXY__WORKERS", "0", "at least 1"),
        ("AISIX_PROXY__WORKERS", "100000", "at most 1024"),
        ("AISIX_PROXY__ADDR", "0.0.0.0:9090", "each listener needs its own"),
        ("AISIX_PROXY__REAL_IP__TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.0/33", "10.0.0.0/33"),
        ("AISIX_PROXY__REAL_IP__HEADER", "a b", "not the name of a header"),
        ("AISIX_PROXY__REQUEST_ID__ACCEPT_HEADERS", "x-id,Cookie", "never a request id"),
        ("AISIX_PROXY__URL_REWRITES", r#"[{"match": "(", "rewrite": "/"}]"#, "entry 0"),
        ("AISIX_OBSERVABILITY__LOG_LEVEL", "info,=", "no log filter"),
        ("AISIX_OBSERVABILITY__METRICS__PROMETHEUS__ADDR", "9090", "IP:PORT"),
        ("AISIX_OBSERVABILITY__METRICS__BUCKETS__REQUEST_TTFT", "1,1", "ascend"),
        ("AISIX_OBSERVABILITY__METRICS__BUCKETS__REQUEST_TTFT", "0,1", "positive"),
        ("AISIX_OBSERVABILITY__METRICS__BUCKETS__A2A_TTFB", "", "1 to 64 edges"),
        ("AISIX_UPSTREAM__RETRIES", "11", "at most 10"),
        ("AISIX_OBSERVABILITY__TRACING__OTLP__SAMPLE_RATIO", "2", "between 0 and 1"),
        ("AISIX_CACHE__BACKEND", "disk", "memory, redis"),
        ("AISIX_CACHE__BACKEND", "redis", "needs cache.redis.url"),
        ("AISIX_RATELIMIT__BACKEND", "redis", "needs ratelimit.redis.url"),
        ("AISIX_RATELIMIT__REDIS__MODE", "cluster", "needs ratelimit.redis.nodes"),
        ("AISIX_RATELIMIT__REDIS__MODE", "sentinel", "use the mode single"),
        ("AISIX_RATELIMIT__REDIS__URL", "h:6379", "redis://"),
        ("AISIX_RATELIMIT__REDIS__PASSWORD", "p", "needs ratelimit.redis.url"),
        ("AISIX_UPSTREAM__TLS__CA_FILE", "/nowhere/ca.pem", "cannot read /nowhere/ca.pem"),
        ("AISIX_ETCD__ENDPOINTS", "https://etcd:2379", "needs etcd.tls"),
        ("AISIX_ETCD__TLS__CA_CERT_FILE", file, "needs all of"),
        ("AISIX_SUPERVISOR__SANDBOX", "on", "required, best-effort, off"),
        ("AISIX_SUPERVISOR__WORKER_UID_BASE", "4294967296", "too large"),
    ] {
        let error = load(STANDALONE, &[(variable, value)]).unwrap_err();
        assert!(error.contains(told) && !error.contains('\n'), "{variable}={value}: {error}");
    }
    let missing = load("etcd: {endpoints: ['http://a:1']}", &[]).unwrap_err();
    assert!(missing.contains("proxy.addr is missing"), "{missing}");
}

#[test]
fn lists_of_texts_and_of_objects_can_be_written_in_a_file() {
    let written = "proxy: {addr: '127.0.0.1:1', real_ip: {trusted_proxies: [10.0.0.0/8, '::1']}}\netcd: {endpoints: ['a:1']}\n";
    assert_eq!(load(written, &[]).unwrap().proxy.real_ip.trusted_proxies.len(), 2);
    let rule = |text: &str| {
        load(&STANDALONE.replace("3000'", &format!("3000', url_rewrites: [{text}]")), &[]).map(drop)
    };
    assert_eq!(rule("{name: null, match: '^/a', rewrite: /b}"), Ok(()));
    let told = rule("{match: '^/a', rewrit: /b}").unwrap_err();
    assert!(told.contains("proxy.url_rewrites") && told.contains("rewrit,"), "{told}");
}

proptest! {
    #[test]
    fn no_file_and_no_variable_makes_it_panic(text: String, index in 0..KEYS.len(), value: String) {
        for name in ["c.yaml", "c.toml", "c.json"] {
            let _ = load_file(name, &text, &[]);
        }
        let _ = load(STANDALONE, &[(&Key::variable(KEYS[index].name), &value)]);
    }

    #[test]
    fn what_a_text_key_is_given_is_what_it_holds(value in "[ -~]+") {
        let read = etcd(STANDALONE, &[("AISIX_ETCD__ENV_ID", &value)]).unwrap();
        prop_assert_eq!(&read.env_id, &value);
        let quoted = serde_json::to_string(&value).unwrap();
        for (name, text) in [
            ("c.json", format!(r#"{{"etcd": {{"endpoints": ["a:1"], "env_id": {quoted}}}, "proxy": {{"addr": "[::]:1"}}}}"#)),
            ("c.toml", format!("proxy.addr = '[::]:1'\n[etcd]\nendpoints = ['a:1']\nenv_id = {quoted}\n")),
            ("c.yaml", format!("proxy: {{addr: '[::]:1'}}\netcd:\n  endpoints: ['a:1']\n  env_id: {quoted}\n")),
        ] {
            let loaded = load_file(name, &text, &[]).unwrap_or_else(|told| panic!("{name} {told}"));
            let Source::Etcd(read) = loaded.settings.source else { panic!("{name}") };
            prop_assert_eq!(&read.env_id, &value);
        }
    }
}

#[test]
fn lists_can_be_empty_or_a_single_number_in_a_variable() {
    let variables = [
        ("AISIX_PROXY__REQUEST_ID__ACCEPT_HEADERS", ""),
        ("AISIX_OBSERVABILITY__METRICS__BUCKETS__REQUEST_TTFT", "1"),
        ("AISIX_ADMIN__ADMIN_KEYS", "12345"),
    ];
    let settings = load(STANDALONE, &variables).unwrap();
    assert!(settings.proxy.request_id_headers.is_empty());
    assert_eq!(settings.observability.ttft_buckets, [1.0]);
}

#[test]
fn metrics_can_be_switched_off_and_their_path_may_lack_its_slash() {
    const GROUP: &str = "AISIX_OBSERVABILITY__METRICS__PROMETHEUS__";
    let metrics = |leaf: &str, value: &str| {
        let variable = format!("{GROUP}{leaf}");
        load(STANDALONE, &[(&variable, value)]).unwrap().observability.metrics
    };
    assert_eq!(metrics("ENABLED", "false"), None);
    assert_eq!(metrics("PATH", "stats").unwrap().path, "/stats");
    assert_eq!(metrics("PATH", " ").unwrap().path, "/metrics");
}
