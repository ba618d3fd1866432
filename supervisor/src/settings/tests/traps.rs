//! What must not go unnoticed: keys that nothing acts on, variables that others set, files that are no files.

use super::*;

#[test]
fn what_has_nothing_to_act_on_is_listed_by_key_with_the_reason() {
    let variables = [
        ("AISIX_DP_BUDGET_STALE_MAX_SECONDS", "60"),
        ("AISIX_PROXY__THREAD_PER_CORE", "true"),
        ("AISIX_OBSERVABILITY__METRICS__OTLP__ENABLED", "true"),
        ("AISIX_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = load_file("c.yaml", STANDALONE, &variables).unwrap();
    let listed: Vec<_> = loaded.without_effect.iter().map(|(key, _)| *key).collect();
    assert_eq!(listed, ["proxy.thread_per_core", "observability.metrics.otlp.enabled"]);
    assert_eq!(loaded.ignored_variables, ["AISIX_SERVICE_HOST"]);
}

#[test]
fn an_address_that_cannot_be_used_is_named_by_its_place_without_its_secret() {
    let nodes = "cache: {redis: {mode: cluster, nodes: ['redis://:swordfish@h:x']}}";
    let told = load(&format!("{STANDALONE}{nodes}\n"), &[]).unwrap_err();
    assert!(told.contains("cache.redis.nodes (") && told.contains("line 3"), "{told}");
    assert!(!told.contains("swordfish"), "{told}");
}

#[test]
fn an_admin_listener_is_refused_where_it_would_have_been_one() {
    let managed = [
        URL,
        ("AISIX_ADMIN__ENABLED", "true"),
        ("AISIX_ADMIN__ADDR", "not an address"),
        ("AISIX_ADMIN__TLS__CERT_FILE", "/c"),
    ];
    assert!(load(MANAGED, &managed).is_ok());
    for asked in [managed[1], ("AISIX_ADMIN__ADDR", "127.0.0.1:3001"), managed[3]] {
        let told = load(STANDALONE, &[asked]).unwrap_err();
        assert!(told.contains(asked.0) && told.contains("no admin interface"), "{told}");
        let off = load(STANDALONE, &[asked, ("AISIX_ADMIN__ENABLED", "false")]);
        assert!(off.is_ok() || asked.0 == "AISIX_ADMIN__ENABLED", "{off:?}");
    }
    let harmless = [("AISIX_ADMIN__ADDR", "127.0.0.1:0"), ("AISIX_ADMIN__ADMIN_KEYS", "12345")];
    assert!(load(STANDALONE, &harmless).is_ok());
}

#[test]
fn the_cloud_is_reached_through_a_proxy_only_where_one_is_configured() {
    let environment = [
        URL,
        ("HTTPS_PROXY", "http://elsewhere:1"),
        ("https_proxy", "http://elsewhere:1"),
        ("ALL_PROXY", "http://elsewhere:1"),
    ];
    assert_eq!(managed(&environment).unwrap().proxy, None);
    const PROXY: &str = "AISIX_MANAGED__PROXY_URL";
    let proxy = managed(&[URL, (PROXY, "http://u:swordfish@proxy.test:3128")]).unwrap().proxy;
    let proxy = proxy.unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.test", 3128));
    assert!(!format!("{proxy:?}").contains("swordfish"));
    let told = managed(&[URL, (PROXY, "https://u:swordfish@proxy.test")]).unwrap_err();
    assert!(told.contains(PROXY) && !told.contains("swordfish"), "{told}");
    assert_eq!(managed(&[URL, (PROXY, "")]).unwrap().proxy, None);
}

#[test]
fn two_variables_for_one_key_must_agree() {
    let lower = ("aisix_proxy__addr", "127.0.0.1:5");
    assert!(load(STANDALONE, &[lower, ("AISIX_PROXY__ADDR", "127.0.0.1:5")]).is_ok());
    let told = load(STANDALONE, &[lower, ("AISIX_PROXY__ADDR", "127.0.0.1:6")]).unwrap_err();
    assert!(told.contains("AISIX_PROXY__ADDR and aisix_proxy__addr"), "{told}");
    let alias = ("AISIX_DP_BUDGET_STALE_MAX_SECONDS", "60");
    let own = ("AISIX_MANAGED__BUDGET_STALE_MAX_SECS", "61");
    assert!(load(STANDALONE, &[alias, own]).unwrap_err().contains("managed.budget_stale_max_secs"));
}

#[test]
fn the_published_forms_of_variables_are_all_understood() {
    let variables = [
        ("AISIX_CONFIG", "/elsewhere.yaml"),
        ("AISIX_CONFIG_PATH", "/elsewhere.yaml"),
        ("AISIX_PORT", "tcp://10.0.0.1:3000"),
        ("AISIX_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("AISIX_SERVICE_HOST", "10.0.0.1"),
        ("AISIX_SERVICE_PORT_HTTP", "3000"),
        ("AISIX_PROXY__REAL_IP__TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1"),
        ("AISIX_PROXY__REAL_IP__RECURSIVE", "TRUE"),
        ("AISIX_PROXY__WORKERS", " 3 "),
        ("AISIX_PROXY__URL_REWRITES", r#"[{"match": "^/a", "rewrite": "/b"}]"#),
        ("AISIX_OBSERVABILITY__METRICS__CLIENT_TYPE_RULES", " "),
        ("AISIX_OBSERVABILITY__SERVICE_NAME", "0123"),
    ];
    let loaded = load_file("c.yaml", STANDALONE, &variables).unwrap();
    assert_eq!(loaded.variables.len(), 6);
    let settings = loaded.settings;
    assert_eq!(settings.proxy.real_ip.trusted_proxies.len(), 2);
    assert!(settings.proxy.real_ip.recursive);
    assert_eq!(settings.proxy.workers.get(), 3);
    assert_eq!(settings.proxy.url_rewrites.len(), 1);
    assert!(settings.observability.client_rules.is_empty());
    assert_eq!(settings.observability.service_name, "0123");
}

#[test]
fn a_value_that_is_not_text_names_its_variable() {
    use std::os::unix::ffi::OsStringExt;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("c.yaml");
    fs::write(&path, STANDALONE).unwrap();
    let value = OsString::from_vec(b"\xff".to_vec());
    let told = Settings::load(&path, [("AISIX_PROXY__ADDR".into(), value)]).unwrap_err();
    assert!(told.to_string().contains("proxy.addr (AISIX_PROXY__ADDR)"), "{told}");
    let name = OsString::from_vec(b"AISIX_\xff".to_vec());
    let told = Settings::load(&path, [(name, "x".into())]).unwrap_err();
    assert!(told.to_string().contains("AISIX_") && told.to_string().contains("UTF-8"), "{told}");
}

#[test]
fn hostile_files_are_refused_on_one_line_and_at_once() {
    let bomb = (1..40).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
        let of = format!("*a{}", level - 1);
        let items = vec![of; 9].join(",");
        format!("{text}a{level}: &a{level} [{items}]\n")
    });
    let deep = format!("proxy: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let twice = "proxy: {addr: '127.0.0.1:1'}\nproxy: {addr: '127.0.0.1:2'}\n";
    let long_key = format!("{}: 1\n", "k".repeat(900));
    let broken_key = "\"a\\nb\": 1\n";
    for text in [&bomb, &deep, twice, &long_key, broken_key] {
        let told = load(text, &[]).unwrap_err();
        let shown: String = told.chars().take(200).collect();
        assert!(!told.contains('\n') && told.len() < 8_000, "{shown}");
    }
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("c.yaml");
    fs::create_dir(&directory).unwrap();
    let told = Settings::load(&directory, []).unwrap_err().to_string();
    assert!(told.contains("c.yaml") && told.contains("directory"), "{told}");
}

#[test]
fn a_user_of_the_etcd_and_where_its_password_is_belong_together() {
    for half in [("AISIX_ETCD__USER", "u"), ("AISIX_ETCD__PASSWORD_ENV", "P")] {
        let told = load(STANDALONE, &[half, ("P", "secret")]).unwrap_err();
        assert!(told.contains("etcd.user") && told.contains("etcd.password_env"), "{told}");
    }
}

#[test]
fn no_time_limit_is_beyond_what_a_clock_can_say() {
    let longest = u64::MAX.to_string();
    let variables = [
        ("AISIX_SHUTDOWN__MAX_DRAIN_SECS", longest.as_str()),
        ("AISIX_SHUTDOWN__MIN_DRAIN_SECS", longest.as_str()),
    ];
    let shutdown = load(STANDALONE, &variables).unwrap().shutdown;
    let now = std::time::Instant::now();
    assert!(now.checked_add(shutdown.drain_max.unwrap()).is_some());
    assert!(now.checked_add(shutdown.drain_min).is_some());
}
