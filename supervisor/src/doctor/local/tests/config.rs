//! Faults of the configuration.

use super::*;

/// Injects each fault into a gateway that is well.
type Case = (&'static str, fn(&mut Site), &'static str);

#[test]
fn each_fault_of_the_configuration_is_found_alone_with_its_place() {
    let cases: &[Case] = &[
        ("config-not-parsable", |site| site.line("x: [1"), "config.yaml"),
        (
            "config-key-unknown",
            |site| site.replace("workers: 1", "wokers: 1"),
            "did you mean proxy.workers",
        ),
        (
            "config-variable-unknown",
            |site| site.set("AISIX_PROXY__WORKER", "1"),
            "AISIX_PROXY__WORKERS",
        ),
        ("config-value-kind", |site| site.replace("workers: 1", "workers: many"), "proxy.workers"),
        (
            "config-value-unsupported",
            |site| {
                site.line("managed: {enabled: false}");
                site.line("etcd: {endpoints: ['http://127.0.0.1:2379']}");
                site.set("AISIX_ADMIN__ENABLED", "true");
            },
            "admin.enabled",
        ),
        ("config-value-refused", |site| site.replace("127.0.0.1:0", "localhost"), "proxy.addr"),
        (
            "config-manager-missing",
            |site| site.replace("cp_base_url: 'https://c.test',", ""),
            "cp_base_url",
        ),
        (
            "config-manager-not-https",
            |site| site.replace("https://c.test", "http://c.test"),
            "http is refused",
        ),
        (
            "config-manager-not-https",
            |site| site.replace("https://c.test", "ftp://c.test"),
            "https://",
        ),
        (
            "config-manager-not-a-url",
            |site| site.replace("https://c.test", "https://"),
            "cp_base_url",
        ),
        (
            "config-key-missing",
            |site| site.replace("enabled: true", "enabled: false"),
            "etcd.endpoints",
        ),
        (
            "config-keys-contradict",
            |site| site.set("AISIX_RESOURCES_FILE", "/x"),
            "resources_file and managed.enabled",
        ),
        (
            "config-file-missing",
            |site| site.set("AISIX_UPSTREAM__TLS__CA_FILE", "/nowhere/ca"),
            "/nowhere/ca",
        ),
        (
            "config-file-unreadable",
            |site| site.set("AISIX_UPSTREAM__TLS__CA_FILE", "/"),
            "directory",
        ),
        (
            "config-password-variable-missing",
            |site| {
                site.replace("enabled: true", "enabled: false");
                site.line("etcd: {endpoints: ['h:1'], user: u, password_env: NOT_THERE}");
            },
            "NOT_THERE",
        ),
        (
            "bundle-role-missing",
            |site| site.unset("AISIX_MANAGED__CP_KEY_FILE"),
            "AISIX_MANAGED__CP_KEY_FILE",
        ),
        (
            "bundle-forms-mixed",
            |site| {
                site.unset("AISIX_MANAGED__CP_KEY_FILE");
                site.set("AISIX_MANAGED__CP_KEY_PEM", "x");
            },
            "partly inline",
        ),
        (
            "bundle-role-twice",
            |site| site.set("AISIX_MANAGED__CP_KEY_PEM", "x"),
            "AISIX_MANAGED__CP_KEY_PEM and AISIX_MANAGED__CP_KEY_FILE",
        ),
        (
            "config-resources-unreadable",
            |site| of_file(site, "/nowhere/resources.yaml"),
            "/nowhere",
        ),
        (
            "config-resources-refused",
            |site| {
                site.put("resources.yaml", "_format_version: '9'\n", 0o600);
                let path = site.path("resources.yaml").display().to_string();
                of_file(site, &path);
            },
            "resources.yaml",
        ),
        (
            "config-listener-certificate",
            |site| {
                site.set("AISIX_PROXY__TLS__CERT_FILE", "/nowhere/tls.crt");
                site.set("AISIX_PROXY__TLS__KEY_FILE", "/nowhere/tls.key");
            },
            "/nowhere/tls.crt",
        ),
        (
            "config-sandbox-off",
            |site| site.set("AISIX_SUPERVISOR__SANDBOX", "off"),
            "supervisor.sandbox",
        ),
    ];
    for (code, inject, told) in cases {
        let mut site = Site::new();
        inject(&mut site);
        let evidence = site.has(code);
        assert!(evidence.contains(told), "{code}: {evidence}");
    }
}

/// Resources come from this file.
fn of_file(site: &mut Site, path: &str) {
    site.replace("enabled: true", "enabled: false");
    site.set("AISIX_RESOURCES_FILE", path);
    site.variables.retain(|(name, _)| !name.to_string_lossy().contains("__CP_"));
}

#[test]
fn a_configuration_that_is_not_there_is_told_with_the_variable_that_names_it() {
    let mut site = Site::new();
    let nowhere = Path::new("/nowhere/config.yaml");
    site.set("AISIX_CONFIG", "/nowhere/config.yaml");
    let evidence = only(&site.look_at(nowhere, None), "config-missing");
    assert!(evidence.contains("(AISIX_CONFIG names it)"), "{evidence}");
    let folder = site.path("folder.yaml");
    fs::create_dir(&folder).unwrap();
    only(&site.look_at(&folder, None), "config-unreadable");
    only(&site.look_at(&site.path("client.crt"), None), "config-format-unknown");
}

#[test]
fn without_any_configuration_that_is_what_is_told() {
    let environment = Environment::default();
    let look = Look::new(None, None, environment.clone(), now(), Places::default());
    let local = examine(look);
    assert_eq!(local.findings[0].fault.code, "config-none");
    let running = Status::default();
    let local = examine(Look::new(None, Some(&running), environment, now(), Places::default()));
    assert!(local.findings.iter().all(|finding| finding.fault.code != "config-none"));
}

#[test]
fn what_variables_that_cannot_be_seen_may_hold_is_no_fault() {
    let mut site = Site::new();
    site.replace("cp_base_url: 'https://c.test',", "");
    let environment =
        Environment { variables: site.variables.clone(), uncertain: Some("denied".to_owned()) };
    let config = site.config();
    let look = Look::new(Some(&config), None, environment, now(), site.places.clone());
    let local = examine(look);
    assert_eq!(serious(&local), []);
    let codes: Vec<_> = local.findings.iter().map(|finding| finding.fault.code).collect();
    assert!(codes.contains(&"config-environment-hidden"), "{codes:?}");
}

#[test]
fn keys_without_effect_are_a_note() {
    let mut site = Site::new();
    site.set("AISIX_ADMIN__ADDR", "127.0.0.1:1");
    let local = site.look();
    let found = local.findings.iter().find(|it| it.fault.code == "config-without-effect");
    assert_eq!(found.unwrap().evidence, "admin.addr");
    assert_eq!(serious(&local), []);
}
