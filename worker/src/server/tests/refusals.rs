//! Requests that reach no upstream.

use serde_json::json as value;
use shared::resource::{Model, ModelKind, Resource};
use shared::worker_settings::ProxySettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::gateway::{
    Gateway, Told, api_key, chat_request, model, provider_key, request, test_settings,
};
use super::run;

const KEY: (&str, &str) = ("authorization", "Bearer sk-demo");

async fn gateway(settings: ProxySettings) -> Gateway {
    Gateway::start(settings, "127.0.0.1:1".parse().unwrap()).await
}

async fn ask(
    gateway: &Gateway,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Told {
    gateway.caller().await.ask(request(method, path, headers, body)).await
}

#[test]
fn a_caller_without_a_valid_key_is_refused_in_its_dialect_and_leaves_no_usage() {
    run(async {
        let gateway = gateway(test_settings()).await;
        let mut expired = api_key("k-2", "sk-old");
        expired.expires_at_unix_ms = Some(1_000);
        gateway.put(Resource::ApiKey(expired));
        for (headers, expected) in [
            (
                &[][..],
                r#"{"error":{"message":"missing or malformed Authorization header","type":"invalid_api_key"}}"#,
            ),
            (
                &[("x-api-key", "nope")],
                r#"{"error":{"message":"invalid API key","type":"invalid_api_key"}}"#,
            ),
            (
                &[("x-api-key", "sk-old")],
                r#"{"error":{"message":"API key has expired","type":"invalid_api_key","code":"api_key_expired"}}"#,
            ),
        ] {
            for (method, path) in [
                ("POST", "/v1/chat/completions"),
                ("GET", "/v1/models"),
                ("POST", "/v1/embeddings"),
            ] {
                let told = ask(&gateway, method, path, headers, "").await;
                assert_eq!((told.status.as_u16(), told.body.as_str()), (401, expected));
                assert!(told.header("server").starts_with("AISIX/"));
                assert_eq!(told.header("x-aisix-request-id").len(), 36);
            }
        }
        let told = ask(&gateway, "POST", "/v1/messages", &[], "{}").await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["error"]["type"]),
            (401, &value!("authentication_error"))
        );
        assert!(gateway.usage().is_empty());
    });
}

#[test]
fn what_the_caller_may_not_or_cannot_have_is_told_and_leaves_usage() {
    run(async {
        let gateway = gateway(test_settings()).await;
        let mut key = api_key("k-1", "sk-demo");
        key.allowed_models =
            ["chat", "unknown", "local", "dangling", "group", "no-base"].map(str::to_owned).into();
        gateway.put(Resource::ApiKey(key));
        gateway.put(Resource::Model(model("m-2", "hidden", "pk-1")));
        let local = Model {
            allowed_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            ..model("m-3", "local", "pk-1")
        };
        gateway.put(Resource::Model(local));
        gateway.put(Resource::Model(model("m-4", "dangling", "pk-none")));
        gateway
            .put(Resource::Model(Model { kind: ModelKind::Ensemble, ..model("m-5", "group", "") }));
        let mut other = provider_key("pk-3", "http://127.0.0.1:1");
        other.endpoint = None;
        gateway.put(Resource::ProviderKey(other));
        gateway.put(Resource::Model(model("m-7", "no-base", "pk-3")));
        for (name, status, kind, code) in [
            ("unknown", 404, "model_not_found", None),
            ("hidden", 403, "permission_denied", None),
            ("local", 403, "permission_denied", Some("ip_restricted")),
            ("dangling", 400, "invalid_request_error", None),
            ("group", 501, "not_implemented", None),
            ("no-base", 400, "invalid_request_error", None),
        ] {
            let told = gateway.chat(value!({"model": name})).await;
            let error = &told.json()["error"];
            assert_eq!((told.status.as_u16(), &error["type"]), (status, &value!(kind)), "{name}");
            assert_eq!(error.get("code"), code.map(|code| value!(code)).as_ref(), "{name}");
        }
        let usage = gateway.usage();
        assert_eq!(usage.len(), 6);
        assert_eq!(
            (usage[0].requested_model.as_str(), usage[0].model_id.as_str()),
            ("unknown", "")
        );
        assert_eq!((usage[0].status_code, usage[0].error_class.as_str()), (404, "model_not_found"));
        assert_eq!((usage[1].model_id.as_str(), usage[1].attempt_kind.as_str()), ("m-2", ""));
    });
}

#[test]
fn bodies_that_cannot_be_understood_are_refused_without_usage() {
    run(async {
        let gateway = gateway(test_settings()).await;
        for body in ["", "{", r#"{"model":"chat","messages":[]}"#, r#"{"messages":[1]}"#] {
            let told = ask(&gateway, "POST", "/v1/chat/completions", &[KEY], body).await;
            assert_eq!(
                (told.status.as_u16(), &told.json()["error"]["type"]),
                (400, &value!("invalid_request_error"))
            );
        }
        let mut form = chat_request(value!({}));
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(gateway.caller().await.ask(form).await.status, 400);
        assert!(gateway.usage().is_empty());
    });
}

#[test]
fn a_body_above_the_limit_is_refused_whether_its_length_is_declared_or_not() {
    run(async {
        let gateway =
            gateway(ProxySettings { request_body_bytes_max: 1_000, ..test_settings() }).await;
        let large = "x".repeat(300_000);
        let told = gateway.chat(value!({"x": large})).await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["error"]["type"]),
            (413, &value!("invalid_request_error"))
        );
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-api-key: sk-demo\r\n\
                    connection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
        stream.write_all([head, &chunk].concat().as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(gateway.usage().is_empty());
        // The limit is of bytes, not of what they say: a body within it goes on to the upstream, which nobody serves here.
        assert_eq!(gateway.chat(value!({})).await.status, 502);
    });
}

#[test]
fn paths_and_methods_that_are_not_the_gateway_s_are_told_apart() {
    run(async {
        let gateway = gateway(test_settings()).await;
        let told = ask(&gateway, "GET", "/nothing", &[], "").await;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (404, ""));
        assert!(told.header("server").starts_with("AISIX/"));
        let told = ask(&gateway, "GET", "/v1/chat/completions", &[KEY], "").await;
        assert_eq!(
            (told.status.as_u16(), told.body.as_str(), told.header("allow")),
            (405, "", "POST")
        );
        let told = ask(&gateway, "DELETE", "/v1/models", &[], "").await;
        assert_eq!((told.status.as_u16(), told.header("allow")), (405, "GET,HEAD"));
        let told = ask(&gateway, "POST", "/passthrough/x", &[], "").await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["error"]["code"]),
            (410, &value!("endpoint_removed"))
        );
        let told = ask(&gateway, "POST", "/v1/files", &[KEY], "{}").await;
        let expected = r#"{"error":{"message":"/v1/files is not served by this build yet","type":"not_implemented"}}"#;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (501, expected));
    });
}

#[test]
fn the_health_routes_follow_the_worker_s_state() {
    run(async {
        let gateway = gateway(test_settings()).await;
        let told = ask(&gateway, "GET", "/readyz", &[], "").await;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (200, "ok"));
        assert_eq!(told.header("content-type"), "text/plain; charset=utf-8");
        let told = ask(&gateway, "HEAD", "/livez?verbose", &[], "").await;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (200, ""));
        assert_eq!(told.header("content-length"), "45");
        gateway.proxy.health.retire();
        let told = ask(&gateway, "GET", "/livez", &[], "").await;
        assert_eq!((told.status.as_u16(), told.header("connection")), (503, "close"));
    });
}
