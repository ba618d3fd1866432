//! Starting as the managed guide says, and what is told when that is not possible.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use harness::cloud::{Bundle, ENVIRONMENT};
use harness::{Builder, Cloud, Gateway, Projection, World, upstream, wait};

#[tokio::test]
async fn the_five_checks_of_the_guide_hold_with_a_bundle_as_files() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let start = Instant::now();
    let gateway = Builder::managed(&cloud).start().await;
    println!("ready within {:?}", start.elapsed());
    five_checks(&cloud, &gateway).await;
    assert_eq!(upstream.ledger().len(), 1);
}

#[tokio::test]
async fn the_five_checks_hold_with_inline_pem_and_the_packaged_configuration_file() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let packaged = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/config.managed.yaml");
    let gateway = Builder::unprovisioned(&cloud)
        .with_file(packaged)
        .env("AISIX_MANAGED__CP_CERT_PEM", &Bundle::text(&bundle.certificate))
        .env("AISIX_MANAGED__CP_KEY_PEM", &Bundle::text(&bundle.key))
        .env("AISIX_MANAGED__CP_CA_PEM", &Bundle::text(&bundle.issuers))
        .start()
        .await;
    five_checks(&cloud, &gateway).await;
}

/// No certificate error, the heartbeat of the environment, resources, a live request, its usage.
async fn five_checks(cloud: &Cloud, gateway: &Gateway) {
    let heartbeat = cloud
        .heartbeat("that a revision is applied", |beat| beat["applied_revision"].as_i64() > Some(0))
        .await;
    assert_eq!(heartbeat["env_id"], ENVIRONMENT);
    assert_eq!(heartbeat["config_hash"].as_str().map(str::len), Some(64));
    let answer = gateway.caller().ask("small-1", "how are you").await;
    assert_eq!(answer.status, 200);
    let request_id = answer.header("x-aisix-request-id").to_owned();
    let events = cloud.usage_of(1).await;
    assert_eq!(events[0]["request_id"], request_id);
    assert_eq!(events[0]["prompt_tokens"], 3);
    let log = gateway.log().to_lowercase();
    for trouble in ["certificate error", "unknownissuer", "badcertificate", "panicked"] {
        assert!(!log.contains(trouble), "{trouble}");
    }
}

#[tokio::test]
async fn the_configuration_file_can_be_named_by_either_variable() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    for variable in ["AISIX_CONFIG", "AISIX_CONFIG_PATH"] {
        let builder = Builder::managed(&cloud).arguments(&[]);
        let path = builder.configuration_path();
        let gateway = builder.env(variable, &path.to_string_lossy()).start().await;
        assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200, "{variable}");
    }
}

#[tokio::test]
async fn a_variable_overrides_the_configuration_file() {
    let world = World::start_with(|builder| {
        let address = builder.proxy().to_string();
        builder
            .set("/proxy/addr", "192.0.2.1:1".into())
            .env("AISIX_PROXY__ADDR", &address)
            .env("AISIX_PROXY__WORKERS", "1")
    })
    .await;
    assert_eq!(world.gateway.proxies().len(), 1);
}

#[tokio::test]
async fn one_proxy_worker_runs_for_each_that_is_configured_and_one_egress_and_one_status_worker() {
    let world = World::start_with(|builder| builder.set("/proxy/workers", 3.into())).await;
    wait::until("three proxy workers, an egress and a status worker run", async || {
        let mut roles: Vec<_> =
            world.gateway.workers().into_iter().map(|worker| worker.role).collect();
        roles.sort_unstable();
        let expected = ["egress", "proxy", "proxy", "proxy", "status"];
        if roles == expected { Ok(()) } else { Err(roles.join(" ")) }
    })
    .await;
}

#[tokio::test]
async fn the_bundle_and_the_identity_are_kept_in_the_state_directory_and_serve_the_next_start() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let mut first = Builder::managed_with(&cloud, &bundle).start().await;
    let state = first.state();
    for (name, source) in [
        ("ca.crt", &bundle.issuers),
        ("client.crt", &bundle.certificate),
        ("client.key", &bundle.key),
    ] {
        let kept = fs::read(state.join("mtls").join(name)).unwrap();
        assert_eq!(kept, fs::read(source).unwrap(), "{name}");
    }
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("mtls/client.key"), 0o600);
    assert_eq!(mode("mtls/client.crt"), 0o644);
    assert_eq!(fs::read_to_string(state.join("mtls/env_id")).unwrap(), ENVIRONMENT);
    assert!(!fs::read_to_string(state.join("dp_id")).unwrap().is_empty());
    first.terminate();
    assert_eq!(first.end().await.code(), Some(0));

    let path = |name: &str| serde_json::json!(state.join(name));
    let second = Builder::unprovisioned(&cloud)
        .set("/managed/mtls_dir", path("mtls"))
        .set("/managed/dp_id_file", path("dp_id"))
        .set("/managed/snapshot_cache_path", path("config_cache.json"))
        .start()
        .await;
    assert_eq!(second.caller().ask("small-1", "hello").await.status, 200);
}

#[tokio::test]
async fn a_taken_port_ends_the_start_at_once_with_the_address() {
    let cloud = Cloud::stopped(&Projection::default());
    let builder = Builder::managed(&cloud);
    let taken = TcpListener::bind(builder.proxy()).unwrap();
    let mut gateway = builder.spawn();
    assert_eq!(gateway.end().await.code(), Some(1));
    let log = gateway.log();
    assert!(log.to_lowercase().contains("address already in use"), "{log}");
    assert!(log.contains(&taken.local_addr().unwrap().to_string()), "{log}");
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_directory_is_refused() {
    let world = World::start().await;
    let state = world.gateway.state();
    let mut second = Builder::managed(&world.cloud)
        .set("/managed/mtls_dir", serde_json::json!(state.join("mtls")))
        .set("/managed/dp_id_file", serde_json::json!(state.join("dp_id")))
        .set("/managed/snapshot_cache_path", serde_json::json!(state.join("config_cache.json")))
        .spawn();
    assert_eq!(second.end().await.code(), Some(1));
    let log = second.log();
    assert!(log.contains(&world.gateway.pid().to_string()), "the other's pid is told: {log}");
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_told_and_stops_no_traffic() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let builder = Builder::managed(&cloud);
    let file = builder.state().join("a-file");
    fs::write(&file, "").unwrap();
    let gateway =
        builder.set("/managed/mtls_dir", serde_json::json!(file.join("mtls"))).start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    let log = gateway.log();
    assert!(log.contains("WARN") && log.contains(&*file.to_string_lossy()), "{log}");
}

#[tokio::test]
async fn a_missing_bundle_is_told_with_the_variables_that_would_give_it() {
    let cloud = Cloud::stopped(&Projection::default());
    let mut gateway = Builder::unprovisioned(&cloud).spawn();
    assert_eq!(gateway.end().await.code(), Some(1));
    let log = gateway.log();
    for name in ["AISIX_MANAGED__CP_CERT_FILE", "AISIX_MANAGED__CP_KEY_PEM"] {
        assert!(log.contains(name), "{name}: {log}");
    }
}

#[tokio::test]
async fn a_key_that_does_not_belong_to_the_certificate_is_refused_before_it_is_kept() {
    let cloud = Cloud::stopped(&Projection::default());
    let mut bundle = cloud.issue(ENVIRONMENT);
    bundle.key = cloud.issue("99999999-2222-3333-4444-555555555555").key;
    let mut gateway = Builder::managed_with(&cloud, &bundle).spawn();
    assert_eq!(gateway.end().await.code(), Some(1));
    let log = gateway.log();
    assert!(log.contains("key") && log.contains("certificate"), "{log}");
    assert!(!gateway.state().join("mtls/client.key").exists());
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused_without_a_word_of_it() {
    let cloud = Cloud::stopped(&Projection::default());
    let bundle = cloud.issue(ENVIRONMENT);
    let key = Bundle::text(&bundle.key);
    let body = key.lines().nth(1).unwrap();
    let as_numbers = format!("{:?}", body.get(..12).unwrap().as_bytes());
    for broken in [key.replace('\n', " "), key.replace('\n', ""), key.replace("-----END", "--END")]
    {
        fs::write(&bundle.key, broken).unwrap();
        let mut gateway = Builder::managed_with(&cloud, &bundle).spawn();
        assert_eq!(gateway.end().await.code(), Some(1));
        let log = gateway.log();
        assert!(log.contains("private key"), "{log}");
        let quoted = body.get(..12).is_some_and(|start| log.contains(start));
        assert!(!quoted && !log.contains(as_numbers.trim_matches(['[', ']'])), "the key is quoted");
    }
}

#[tokio::test]
async fn inline_pem_with_line_breaks_written_as_two_characters_is_understood() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let escaped = |path: &std::path::Path| Bundle::text(path).replace('\n', "\\n");
    let gateway = Builder::unprovisioned(&cloud)
        .env("AISIX_MANAGED__CP_CERT_PEM", &escaped(&bundle.certificate))
        .env("AISIX_MANAGED__CP_KEY_PEM", &escaped(&bundle.key))
        .env("AISIX_MANAGED__CP_CA_PEM", &escaped(&bundle.issuers))
        .start()
        .await;
    assert_eq!(gateway.caller().ask("small-1", "one two three").await.status, 200);
}

#[tokio::test]
async fn a_wrong_configuration_ends_the_start_with_its_status_and_its_reason() {
    let cloud = Cloud::stopped(&Projection::default());
    let unknown_key = Builder::managed(&cloud).set("/proxy/adress", "x".into());
    let unknown_flag = Builder::managed(&cloud).arguments(&["--colour"]);
    let no_file = Builder::managed(&cloud).arguments(&["--config", "/nowhere/config.yaml"]);
    for (builder, status, reason) in [
        (unknown_key, 1, "adress"),
        (unknown_flag, 2, "--colour"),
        (no_file, 1, "/nowhere/config.yaml"),
    ] {
        let mut gateway = builder.spawn();
        assert_eq!(gateway.end().await.code(), Some(status), "{reason}: {}", gateway.log());
        assert!(gateway.log().contains(reason), "{reason}: {}", gateway.log());
    }
}
