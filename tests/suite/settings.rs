//! Settings of the configuration file that reach the workers.

use std::fs;
use std::sync::{Arc, Mutex};

use harness::authority::Authority;
use harness::{Connection, World, client, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_file_of_trusted_issuers_may_be_larger_than_a_message_to_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::default();
    let pem = fs::read_to_string(authority.certificate()).unwrap();
    let path = folder.path().join("issuers.pem");
    fs::write(&path, pem.repeat(256 * 1024 / pem.len() + 1)).unwrap();
    let ca_file = path.to_str().unwrap().into();
    let world = World::start_with(|builder| builder.set("/upstream/tls/ca_file", ca_file)).await;
    assert_eq!(world.caller().ask("small-1", "one two three").await.status, 200);
}

#[tokio::test]
async fn a_request_is_routed_by_its_rewritten_path() {
    let rules = r#"[{"match": "^/legacy/(.*)$", "rewrite": "/v1/$1"}, {"match": "^/v1/", "rewrite": "/nowhere/"}]"#;
    let world = World::start_with(|builder| builder.env("AISIX_PROXY__URL_REWRITES", rules)).await;
    let caller = world.caller();
    let mut request =
        caller.request("/legacy/chat/completions?a=b", &harness::caller::chat("small-1", "hello"));
    let answer = client::send(world.gateway.proxy(), request).await.unwrap();
    assert_eq!(answer.status, 200);
    request = caller.request("/v1/chat/completions", &harness::caller::chat("small-1", "hello"));
    let answer = client::send(world.gateway.proxy(), request).await.unwrap();
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn tokens_are_counted_by_the_program_that_calls() {
    let rules = r#"[{"pattern": "^py-batcher/", "client": "batcher"}]"#;
    let world = World::start_with(|builder| {
        builder.env("AISIX_OBSERVABILITY__METRICS__CLIENT_TYPE_RULES", rules)
    })
    .await;
    for user_agent in [Some("Py-Batcher/1"), Some("curl/8.5.0"), None] {
        let body = harness::caller::chat("small-1", "one two three");
        let mut request = world.caller().request("/v1/chat/completions", &body);
        if let Some(user_agent) = user_agent {
            request.headers_mut().insert(http::header::USER_AGENT, user_agent.parse().unwrap());
        }
        assert_eq!(client::send(world.gateway.proxy(), request).await.unwrap().status, 200);
    }
    wait::until("tokens of all three are counted", async || {
        let metrics = world.gateway.metrics().await;
        let of = |client: &str| {
            let labels = [("client_type", client), ("model", "small-1"), ("token_type", "input")];
            metrics.sum("aisix_llm_tokens_by_client_total", &labels)
        };
        let counted = ["batcher", "curl", "unknown"].map(of);
        if counted == [3.0; 3] { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_as_often_as_configured_and_each_leaves_a_usage_event() {
    for (retries, attempts) in [("0", 1), ("2", 3)] {
        let world =
            World::start_with(|builder| builder.env("AISIX_UPSTREAM__RETRIES", retries)).await;
        assert_eq!(world.caller().ask("status-503", "hello").await.status, 502);
        let events = world.cloud.usage_of(attempts).await;
        let kinds: Vec<_> = events.iter().map(|event| event["attempt_kind"].clone()).collect();
        assert_eq!(kinds, ["initial", "retry", "retry"][..attempts]);
        assert_eq!(world.upstream.ledger().len(), attempts);
        let indices: Vec<_> = events.iter().map(|event| event["attempt_index"].as_u64()).collect();
        assert_eq!(indices, (0..attempts as u64).map(Some).collect::<Vec<_>>());
    }
}

/// A forward proxy on loopback; what it was asked is in the list.
pub(crate) async fn forward_proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut caller, _) = listener.accept().await.unwrap();
            let list = Arc::clone(&list);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(caller.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let to = head.split(' ').nth(1).unwrap().to_owned();
                list.lock().unwrap().push(head);
                let mut target = TcpStream::connect(to).await.unwrap();
                caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut caller, &mut target).await;
            });
        }
    });
    (port, asked)
}

#[tokio::test]
async fn manager_and_etcd_are_reached_through_the_configured_proxy_and_nothing_else_is() {
    let (port, asked) = forward_proxy().await;
    let url = format!("http://gateway:swordfish@127.0.0.1:{port}");
    let world = World::start_with(|builder| builder.env("AISIX_MANAGED__PROXY_URL", &url)).await;
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    world.cloud.usage_of(1).await;
    world.cloud.heartbeat("anything", |_| true).await;
    let cloud = world.cloud.url().replace("https://", "");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.len() >= 2, "{asked:?}");
    for head in &asked {
        assert!(head.starts_with(&format!("CONNECT {cloud} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic "), "{head}");
    }
    assert!(!world.gateway.log().contains("swordfish"), "{}", world.gateway.log());
}

#[tokio::test]
async fn proxy_variables_of_the_environment_do_not_reach_the_connection_to_the_cloud() {
    let (port, asked) = forward_proxy().await;
    let url = format!("http://127.0.0.1:{port}");
    let world = World::start_with(|builder| {
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
            .into_iter()
            .fold(builder, |builder, name| builder.env(name, &url))
    })
    .await;
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    world.cloud.usage_of(1).await;
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_that_was_accepted_before_the_end_gets_its_answer_from_a_new_upstream_connection()
 {
    let mut world = World::start().await;
    // Accepted, but silent, when the signal comes.
    let mut fresh = Connection::open(world.gateway.proxy()).await.unwrap();
    wait::until("a worker holds the connection", async || {
        let held = world.gateway.proxies().iter().any(|worker| worker.holds(&fresh));
        if held { Ok(()) } else { Err("nobody does") }
    })
    .await;
    world.gateway.terminate();
    let caller = world.caller();
    let body = harness::caller::chat("small-1", "one two three");
    let answer = caller.chat_over(&mut fresh, &body).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(world.gateway.end().await.code(), Some(0));
}
