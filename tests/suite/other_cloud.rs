//! Certificates of another tool, another manager, and an etcd that speaks TLS itself: nothing here is our own Cloud.

use harness::authority::Authority;
use harness::cloud::ENVIRONMENT;
use harness::etcd::EtcdTls;
use harness::manager::{Manager, Report};
use harness::{Builder, Etcd, Projection, projection, upstream, wait};

const DATA_PLANE: &str = "0b8e7c52-6f0d-4b7e-9a55-6d2f3f1f7a10";

#[tokio::test]
async fn the_gateway_works_with_a_manager_and_an_etcd_of_somebody_else() {
    let upstream = upstream().await;
    let authority = Authority::default();
    let server = authority.server();
    let etcd = Etcd::start_with_tls(EtcdTls {
        certificate: &server.certificate,
        key: &server.key,
        issuers: authority.certificate(),
    })
    .await;
    etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &Projection::of(&upstream)).await;
    let manager = Manager::start(&authority).await;
    let bundle = authority.bundle(ENVIRONMENT, DATA_PLANE);
    let gateway = Builder::managed_at(&manager.url(), &bundle)
        .env("AISIX_MANAGED__CP_ETCD_ENDPOINT", &etcd.tls_address().to_string())
        .start()
        .await;
    let answer = gateway.caller().ask("small-1", "how are you").await;
    assert_eq!(answer.status, 200);
    let request_id = answer.header("x-aisix-request-id").to_owned();

    let heartbeat = report(&manager, "POST /dp/heartbeat").await;
    assert_eq!(heartbeat.body["dp_id"], DATA_PLANE);
    for field in ["instance_id", "hostname", "version"] {
        assert!(heartbeat.body[field].is_string(), "{field}: {}", heartbeat.body);
    }
    for field in ["uptime_seconds", "applied_revision"] {
        assert!(heartbeat.body[field].is_i64(), "{field}: {}", heartbeat.body);
    }
    for field in ["supported_guardrail_kinds", "exporter_health"] {
        assert!(heartbeat.body[field].is_array(), "{field}: {}", heartbeat.body);
    }
    let usage = report(&manager, "POST /dp/telemetry").await;
    let event = &usage.body["events"][0];
    assert_eq!(event["request_id"], request_id);
    assert_eq!((&event["prompt_tokens"], &event["completion_tokens"]), (&3.into(), &5.into()));
    for report in [heartbeat, usage] {
        let header = |name: &str| report.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("content-type"), Some("application/json"));
        assert!(
            header("user-agent").is_some_and(|agent| agent.starts_with("aisix-dp/")),
            "{report:?}"
        );
        assert_eq!(header("authorization"), None);
    }

    let later = format!("/aisix/{ENVIRONMENT}/api_keys/k-2");
    etcd.put(&later, &projection::api_key("sk-two", &["*"])).await;
    wait::until("the new key is usable", async || {
        let status = gateway.caller_with("sk-two").ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_manager_of_another_authority_is_told_nothing() {
    let manager = Manager::start(&Authority::default()).await;
    let stranger = Authority::default();
    let bundle = stranger.bundle(ENVIRONMENT, DATA_PLANE);
    let gateway = Builder::managed_at(&manager.url(), &bundle).start_alive().await;
    wait::until("the log names the certificate", async || {
        let log = gateway.log();
        if log.to_lowercase().contains("certificate") && log.contains("heartbeat") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    assert!(manager.reports("POST /dp/heartbeat").is_empty());
}

/// The first report to that route.
async fn report(manager: &Manager, route: &str) -> Report {
    wait::until(&format!("{route} comes"), async || {
        manager.reports(route).into_iter().next().ok_or("none so far")
    })
    .await
}
