//! Requests that the gateway itself refuses: status, envelope and headers.

use bytes::Bytes;
use harness::caller::chat;
use harness::{Answer, Caller, Projection, World, client, projection};
use http::{Method, Request};
use serde_json::{Value, json};

/// Checks the envelope, and the headers that every answer has.
async fn refused(answer: Answer, status: u16, kind: &str) -> Value {
    assert!(answer.header("server").starts_with("AISIX/"), "{:?}", answer.headers);
    assert!(!answer.header("x-aisix-request-id").is_empty(), "{:?}", answer.headers);
    assert_eq!(answer.status, status);
    let body = answer.json().await.unwrap();
    assert_eq!(body["error"]["type"], kind, "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
    body
}

fn plain(method: Method, path: &str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request
}

#[tokio::test]
async fn without_a_good_key_a_caller_gets_401() {
    let world = World::start().await;
    let address = world.gateway.proxy();
    let ask = |headers: &'static [(&'static str, &'static str)]| async move {
        let mut request = client::post("/v1/chat/completions", &chat("small-1", "hello"));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        client::send(address, request).await.unwrap()
    };
    let none = refused(ask(&[]).await, 401, "invalid_api_key").await;
    assert_eq!(none["error"]["message"], "missing or malformed Authorization header");
    let unknown =
        refused(ask(&[("authorization", "Bearer sk-wrong")]).await, 401, "invalid_api_key").await;
    assert_eq!(unknown["error"]["message"], "invalid API key");
    for headers in [
        &[("authorization", "Basic c2stZGVtbw==")][..],
        &[("authorization", "bearer sk-demo")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic x"), ("x-api-key", "sk-demo")],
    ] {
        refused(ask(headers).await, 401, "invalid_api_key").await;
    }
    assert!(world.upstream.ledger().is_empty());
}

#[tokio::test]
async fn a_disabled_or_expired_key_gets_401_with_its_code() {
    let world = World::start().await;
    let mut disabled = projection::api_key("sk-off", &["*"]);
    disabled["disabled"] = json!(true);
    let mut expired = projection::api_key("sk-old", &["*"]);
    expired["expires_at"] = json!("2020-01-01T00:00:00Z");
    let projection = Projection::of(&world.upstream)
        .with("api_keys", "k-off", disabled)
        .with("api_keys", "k-old", expired);
    world.cloud.project(&projection);
    for (key, code) in [("sk-off", "api_key_disabled"), ("sk-old", "api_key_expired")] {
        let caller = world.gateway.caller_with(key);
        harness::wait::until(&format!("{key} is refused as {code}"), async || {
            let answer = caller.ask("small-1", "hello").await;
            let body = refused(answer, 401, "invalid_api_key").await;
            if body["error"]["code"] == code { Ok(()) } else { Err(body) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_model_that_is_unknown_gets_404_and_one_that_is_not_allowed_403() {
    let world = World::start().await;
    let few = projection::api_key("sk-few", &["small-1"]);
    world.cloud.project(&Projection::of(&world.upstream).with("api_keys", "k-few", few));
    let caller = world.gateway.caller_with("sk-few");
    harness::wait::until("the caller is known", async || {
        let status = caller.models().await.unwrap().status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    refused(caller.ask("nowhere", "hello").await, 404, "model_not_found").await;
    refused(caller.ask("big", "hello").await, 403, "permission_denied").await;
    assert!(world.upstream.ledger().is_empty());
}

#[tokio::test]
async fn a_body_that_is_no_chat_request_gets_400() {
    let world = World::start().await;
    let Caller { address, .. } = world.caller();
    for body in [
        json!({}),
        json!([]),
        json!({"model": "small-1"}),
        json!({"model": "small-1", "messages": []}),
    ] {
        let answer = world.caller().try_chat(&body).await.unwrap();
        refused(answer, 400, "invalid_request_error").await;
    }
    let mut request = world.caller().request("/v1/chat/completions", &json!(null));
    *request.body_mut() = Bytes::from_static(b"{\"model\": \"small-1\", ");
    refused(client::send(address, request).await.unwrap(), 400, "invalid_request_error").await;
}

#[tokio::test]
async fn a_body_above_the_limit_gets_413() {
    let world =
        World::start_with(|builder| builder.set("/proxy/request_body_limit_bytes", 2000.into()))
            .await;
    assert_eq!(world.caller().ask("small-1", &"x".repeat(1000)).await.status, 200);
    let answer = world.caller().ask("small-1", &"x".repeat(3000)).await;
    refused(answer, 413, "invalid_request_error").await;
}

#[tokio::test]
async fn unknown_paths_get_404_and_wrong_methods_405_with_empty_bodies_and_the_usual_headers() {
    let world = World::start().await;
    let address = world.gateway.proxy();
    for (request, status) in [
        (plain(Method::GET, "/nowhere"), 404),
        (plain(Method::GET, "/v1/chat/completions"), 405),
        (plain(Method::POST, "/v1/models"), 405),
        (plain(Method::DELETE, "/livez"), 405),
    ] {
        let answer = client::send(address, request).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(status == 405, !answer.header("allow").is_empty());
        assert!(answer.header("server").starts_with("AISIX/"));
        assert!(!answer.header("x-aisix-request-id").is_empty());
        assert!(answer.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_health_routes_say_what_they_look_at() {
    let world = World::start().await;
    let fetch = async |path| {
        let answer = client::fetch(world.gateway.proxy(), path).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        answer.text().await.unwrap()
    };
    assert_eq!(fetch("/livez").await.trim(), "ok");
    assert_eq!(fetch("/readyz").await.trim(), "ok");
    let head = client::send(world.gateway.proxy(), plain(Method::HEAD, "/livez")).await.unwrap();
    assert_eq!(head.status, 200);
    assert!(head.bytes().await.unwrap().is_empty());
    let verbose = fetch("/readyz?verbose").await;
    assert!(
        verbose.contains("[+]config ok") && verbose.contains("readyz check passed"),
        "{verbose}"
    );
}
