//! Passthrough routes: who may use them, what goes through, and what stays behind.

use bytes::Bytes;
use harness::provider::KEY;
use harness::{
    Answer, Builder, Cloud, Gateway, Projection, Upstream, client, projection, upstream, wait,
};
use http::{Method, Request};
use serde_json::{Value, json};

struct Through {
    upstream: Upstream,
    cloud: Cloud,
    gateway: Gateway,
}

const ALLOWED: &str = "sk-allowed";

impl Through {
    async fn start(routes: &[(&str, Value)]) -> Self {
        let upstream = upstream().await;
        let mut allowed = projection::api_key(ALLOWED, &[]);
        allowed["allowed_routes"] = json!(["r-*"]);
        let base = format!("http://{}", upstream.address());
        let mut projection = Projection::of(&upstream).with("api_keys", "k-2", allowed).with(
            "provider_keys",
            "pk-other",
            projection::provider_key("https://other.test/v1", "sk-other"),
        );
        for (id, route) in routes {
            let mut document = json!({"name": id, "target_url": format!("{base}/mirror"),
                "credential_mode": "inject", "provider_key_id": "pk-1"});
            document.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
            if document["credential_mode"] != "inject" {
                document.as_object_mut().unwrap().remove("provider_key_id");
            }
            projection = projection.with("passthrough_routes", id, document);
        }
        let cloud = Cloud::start(&projection).await;
        let gateway = Builder::managed(&cloud).start().await;
        Self { upstream, cloud, gateway }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::new(Bytes::copy_from_slice(body.as_bytes()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        client::send(self.gateway.proxy(), request).await.expect("an answer")
    }
}

const BEARER: (&str, &str) = ("authorization", "Bearer sk-allowed");

#[tokio::test]
async fn a_request_goes_through_as_it_is_with_another_credential() {
    let through = Through::start(&[
        ("r-1", json!({"path_prefix": "/passthrough/up", "identity_header": "x-user"})),
        ("r-2", json!({"path_prefix": "/passthrough/up/deep"})),
    ])
    .await;
    let headers = [
        BEARER,
        ("x-user", "me"),
        ("x-kept", "1"),
        ("cookie", "a=b"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
    ];
    let answer =
        through.ask(Method::PUT, "/passthrough/up/a%20b/c?q=%2F", &headers, "any body").await;
    assert_eq!(answer.status, 200);
    assert_eq!((answer.header("x-upstream"), answer.header("x-aisix-upstream")), ("kept", ""));
    assert!(answer.header("server").starts_with("AISIX/"));
    assert!(answer.headers.get("x-hop").is_none());
    let id = answer.header("x-aisix-request-id").to_owned();
    let seen = answer.json().await.unwrap();
    assert_eq!((&seen["method"], &seen["body"]), (&json!("PUT"), &json!("any body")));
    assert_eq!(seen["path"], "/mirror/a%20b/c?q=%2F");
    let headers = seen["headers"].as_object().unwrap();
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!((&headers["x-kept"], &headers["x-aisix-request-id"]), (&json!("1"), &json!(id)));
    for name in ["x-user", "cookie", "x-hop"] {
        assert!(!headers.contains_key(name), "{name}: {headers:?}");
    }
    let deep = through.ask(Method::GET, "/passthrough/up/deep/x", &[BEARER], "").await;
    assert_eq!(deep.json().await.unwrap()["path"], "/mirror/x");

    let usage = through.cloud.usage_of(2).await;
    let event = usage.iter().find(|event| event["passthrough_route_name"] == "r-1").unwrap();
    assert_eq!(
        (&event["inbound_protocol"], &event["client_identity"]),
        (&json!("passthrough"), &json!("me"))
    );
    assert_eq!((&event["status_code"], &event["api_key_id"]), (&json!(200), &json!("k-2")));
    assert!(event.get("usage_estimated").is_none(), "{event}");
    assert!(usage.iter().any(|event| event["passthrough_route_name"] == "r-2"), "{usage:?}");
}

#[tokio::test]
async fn answers_come_as_they_are_redirects_errors_and_empty_ones_included() {
    let through = Through::start(&[("r-1", json!({"path_prefix": "/p"}))]).await;
    let answer = through.ask(Method::GET, "/p/redirect", &[BEARER], "").await;
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), "http://127.0.0.1:1/elsewhere");
    assert_eq!(through.ask(Method::POST, "/p/status/503", &[BEARER], "x").await.status, 503);
    let head = through.ask(Method::HEAD, "/p/x", &[BEARER], "").await;
    assert_eq!(head.status, 200);
    assert_ne!(head.header("content-length"), "0");
    assert!(head.bytes().await.unwrap().is_empty());
    let usage = through.cloud.usage_of(3).await;
    let mut statuses: Vec<_> = usage.iter().map(|event| event["status_code"].as_u64()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [Some(200), Some(302), Some(503)]);
    assert_eq!(through.upstream.ledger().len(), 3, "nobody follows a redirect, or tries again");
}

#[tokio::test]
async fn events_are_passed_on_one_by_one_and_an_answer_that_breaks_off_is_not_complete() {
    let through =
        Through::start(&[("r-1", json!({"path_prefix": "/p", "timeout_ms": 1500}))]).await;
    let mut answer = through.ask(Method::GET, "/p/events", &[BEARER], "").await;
    let first = answer.next_event().await.unwrap().unwrap();
    assert_eq!(first.data, "one");
    through.upstream.release();
    assert_eq!(answer.events().await.unwrap().last().unwrap().data, "two");
    for path in ["/p/cut", "/p/stall"] {
        let answer = through.ask(Method::GET, path, &[BEARER], "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.bytes().await.is_err(), "{path}");
    }
    let usage = through.cloud.usage_of(3).await;
    let classes: Vec<_> = usage.iter().filter_map(|event| event["error_class"].as_str()).collect();
    assert!(classes.contains(&"stream_aborted") && classes.contains(&"timeout"), "{usage:?}");
}

#[tokio::test]
async fn a_route_is_for_those_who_may_use_it() {
    let through = Through::start(&[
        ("r-key", json!({"path_prefix": "/key"})),
        ("other", json!({"path_prefix": "/other"})),
        ("r-far", json!({"path_prefix": "/far", "source_cidrs": ["203.0.113.0/24"]})),
        (
            "r-header",
            json!({"path_prefix": "/header", "auth_mode": "header_key",
            "auth_header_name": "x-gateway-key", "credential_mode": "forward_client"}),
        ),
        (
            "r-open",
            json!({"path_prefix": "/open", "auth_mode": "anonymous", "anonymous_key_id": "k-2",
            "source_cidrs": ["127.0.0.1"]}),
        ),
        (
            "r-shut",
            json!({"path_prefix": "/shut", "auth_mode": "anonymous", "anonymous_key_id": "k-2",
            "source_cidrs": ["203.0.113.1"]}),
        ),
        ("r-foreign", json!({"path_prefix": "/foreign", "provider_key_id": "pk-other"})),
        ("r-off", json!({"path_prefix": "/off", "enabled": false})),
    ])
    .await;
    let demo = ("authorization", "Bearer sk-demo");
    for (path, headers, status) in [
        ("/key/x", &[][..], 401),
        ("/key/x", &[("authorization", "Bearer sk-wrong")], 401),
        ("/key/x", &[demo], 403),
        ("/key/x", &[BEARER], 200),
        ("/other/x", &[BEARER], 403),
        ("/far/x", &[BEARER], 403),
        ("/header/x", &[BEARER], 401),
        ("/header/x", &[("x-gateway-key", ALLOWED)], 200),
        ("/open/x", &[], 200),
        ("/shut/x", &[BEARER], 403),
        ("/foreign/x", &[BEARER], 400),
        ("/off/x", &[BEARER], 404),
        ("/key/../other", &[BEARER], 400),
        ("/keys", &[BEARER], 404),
    ] {
        let answer = through.ask(Method::GET, path, headers, "").await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
    }
    let own = [("x-gateway-key", ALLOWED), ("authorization", "Bearer own")];
    let answer = through.ask(Method::GET, "/header/x", &own, "").await;
    let seen = answer.json().await.unwrap();
    assert_eq!(seen["headers"]["authorization"], "Bearer own");
    assert!(seen["headers"].get("x-gateway-key").is_none(), "{seen}");
    let far = through.ask(Method::GET, "/far/x", &[BEARER], "").await.json().await.unwrap();
    assert_eq!(far["error"]["code"], "ip_restricted");
    let anonymous = |event: &Value| {
        event["auth_type"] == "anonymous"
            && event["api_key_id"] == "k-2"
            && event["status_code"] == 200
    };
    wait::until("the usage of the anonymous request", async || {
        let usage = through.cloud.usage().await;
        if usage.iter().any(anonymous) { Ok(()) } else { Err(json!(usage)) }
    })
    .await;
}

#[tokio::test]
async fn a_host_of_a_route_goes_before_every_path() {
    let through = Through::start(&[
        ("r-1", json!({"hosts": ["API.up.test", "*.wild.test"]})),
        ("r-2", json!({"hosts": ["deep.test"], "path_prefix": "/v1"})),
    ])
    .await;
    for (host, path, reached) in [
        ("api.UP.test:3000", "/v1/models", Some("/mirror/v1/models")),
        ("a.wild.test", "/livez", Some("/mirror/livez")),
        ("a.b.wild.test", "/v1/models", None),
        ("deep.test", "/v1/x", Some("/mirror/x")),
        ("elsewhere.test", "/v1/models", None),
    ] {
        let answer = through.ask(Method::GET, path, &[BEARER, ("host", host)], "").await;
        assert_eq!(answer.status, 200, "{host}");
        let answer = answer.json().await.unwrap();
        assert_eq!(answer["path"].as_str(), reached, "{host}: {answer}");
    }
}

#[tokio::test]
async fn routes_are_not_reported_as_unenforced() {
    let through = Through::start(&[("r-1", json!({"path_prefix": "/p"}))]).await;
    let status = through.gateway.status_config().await;
    assert_eq!(status["applied"]["resource_counts"]["passthrough_routes"], 1, "{status}");
    let rows = status["partially_compatible"].as_array().cloned().unwrap_or_default();
    assert!(rows.iter().all(|row| row["resource_kind"] != "passthrough_routes"), "{status}");
}
