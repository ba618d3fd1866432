//! Answers that are no streams.

use std::rc::Rc;

use serde_json::{Value, json as value};
use shared::resource::Resource;
use tokio::sync::Notify;

use super::gateway::{Gateway, chat_request, model, request, test_settings};
use super::upstream::{Step, Upstream, json, with_headers};
use super::{run, until};

const ANSWER: &str = r#"{ "id":"chatcmpl-1","model":"gpt-up-2024", "choices":[{"index":0,"message":
    {"role":"assistant","content":"hello"},"finish_reason":"stop"}],"x":1e2,
    "usage":{"prompt_tokens":11,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":3}}}"#;

#[test]
fn an_answer_is_relayed_as_it_came_and_accounted_with_the_provider_s_tokens() {
    run(async {
        let upstream = Upstream::start([json("200 OK", ANSWER)]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut request = chat_request(value!({"temperature": 0.5}));
        for (name, value) in
            [("user-agent", "tests"), ("x-aisix-request-id", "id-1"), ("cookie", "c=1")]
        {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let told = gateway.caller().await.ask(request).await;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (200, ANSWER));
        assert_eq!(told.header("content-type"), "application/json");
        assert_eq!(told.header("x-aisix-request-id"), "id-1");
        assert_eq!(told.header("x-aisix-call-id"), "id-1");
        assert!(told.header("server").starts_with("AISIX/"));

        let heard = &upstream.heard()[0];
        assert!(heard.head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{}", heard.head);
        assert!(heard.head.contains("authorization: bearer sk-upstream\r\n"));
        assert!(heard.head.contains("x-aisix-request-id: id-1\r\n"));
        assert!(!heard.head.contains("cookie") && !heard.head.contains("sk-demo"));
        let body: Value = serde_json::from_str(&heard.body).unwrap();
        assert_eq!((&body["model"], &body["temperature"]), (&value!("gpt-up"), &value!(0.5)));

        let usage = gateway.usage();
        let [event] = &usage[..] else { panic!("{usage:?}") };
        assert_eq!((event.prompt_tokens, event.completion_tokens), (11, 7));
        assert_eq!((event.cached_prompt_tokens, event.usage_estimated), (3, false));
        assert_eq!((event.request_id.as_str(), event.status_code), ("id-1", 200));
        assert_eq!((event.model_id.as_str(), event.api_key_id.as_str()), ("m-1", "k-1"));
        assert_eq!(event.provider_request_id, "chatcmpl-1");
        assert_eq!(event.provider_model_version, "gpt-up-2024");
        assert_eq!((event.finish_reason.as_str(), event.provider_kind.as_str()), ("stop", "byo"));
        assert_eq!(event.client_source_ip, "127.0.0.1");
        assert_eq!((event.attempt_kind.as_str(), event.error_class.as_str()), ("initial", ""));
    });
}

#[test]
fn what_a_wildcard_stands_for_is_the_upstream_s_name_and_missing_usage_is_estimated() {
    run(async {
        let upstream =
            Upstream::start([json("200 OK", r#"{"choices":[{"message":{"content":"12345"}}]}"#)])
                .await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut wildcard = model("m-2", "open-*", "pk-1");
        if let shared::resource::ModelKind::Direct(direct) = &mut wildcard.kind {
            direct.model_name = "up/*".to_owned();
        }
        gateway.put(Resource::Model(wildcard));
        let told = gateway.chat(value!({"model": "open-4o"})).await;
        assert_eq!(told.status, 200);
        assert!(upstream.heard()[0].body.contains(r#""model":"up/4o""#));
        let event = &gateway.usage()[0];
        assert_eq!((event.completion_tokens, event.usage_estimated), (2, true));
        assert!(event.prompt_tokens > 0);
    });
}

#[test]
fn errors_of_an_upstream_are_told_as_far_as_they_concern_the_caller() {
    let full = r#"{"error":{"message":"too long","type":"t","code":"context_length_exceeded","param":"messages"}}"#;
    let long = "x".repeat(3_000);
    let cases = [
        (
            json("400 Bad Request", full),
            400,
            "upstream_error",
            "too long",
            "context_length_exceeded",
            "upstream_status",
        ),
        (
            json("404 Not Found", "plain text"),
            404,
            "upstream_error",
            "plain text",
            "",
            "upstream_status",
        ),
        (json("403 Forbidden", &long), 403, "upstream_error", &long[..1024], "", "upstream_status"),
        (
            json("401 Unauthorized", ""),
            401,
            "upstream_error",
            "upstream returned 401",
            "",
            "upstream_status",
        ),
        (
            json("503 Service Unavailable", full),
            502,
            "upstream_error",
            "upstream returned 503",
            "",
            "upstream_status",
        ),
        (
            with_headers("302 Found", "location: http://elsewhere/\r\n", ""),
            502,
            "upstream_error",
            "upstream returned 302",
            "",
            "upstream_status",
        ),
        (
            json("200 OK", "<html>"),
            502,
            "upstream_decode_error",
            "upstream returned a response that cannot be decoded",
            "",
            "upstream_decode",
        ),
        (vec![Step::Close], 502, "transport_error", "cannot reach the upstream", "", "transport"),
        (
            vec![
                Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned()),
                Step::Close,
            ],
            502,
            "transport_error",
            "cannot reach the upstream",
            "",
            "transport",
        ),
    ];
    for (script, status, kind, message, code, class) in cases {
        run(async {
            let upstream = Upstream::start([script]).await;
            let gateway = Gateway::start(test_settings(), upstream.address).await;
            let told = gateway.chat(value!({})).await;
            assert_eq!(told.status.as_u16(), status, "{message}: {}", told.body);
            let error = &told.json()["error"];
            assert_eq!((&error["type"], &error["message"]), (&value!(kind), &value!(message)));
            assert_eq!(error["code"].as_str().unwrap_or_default(), code);
            assert_eq!(told.header("x-aisix-call-id"), "");
            let event = &gateway.usage()[0];
            assert_eq!((event.status_code, event.error_class.as_str()), (status, class));
            assert_eq!(
                (event.prompt_tokens > 0, event.completion_tokens),
                (event.usage_estimated, 0)
            );
        });
    }
}

#[test]
fn when_to_ask_again_is_passed_on() {
    run(async {
        let script = with_headers("429 Too Many Requests", "retry-after: 17\r\n", "slow down");
        let upstream = Upstream::start([script]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let told = gateway.chat(value!({})).await;
        assert_eq!((told.status.as_u16(), told.header("retry-after")), (429, "17"));
    });
}

#[test]
fn an_upstream_that_takes_too_long_is_a_timeout() {
    run(async {
        let upstream = Upstream::start([vec![Step::AwaitEnd]]).await;
        let mut settings = test_settings();
        settings.upstream.timeout_ms = 60;
        let gateway = Gateway::start(settings, upstream.address).await;
        let told = gateway.chat(value!({})).await;
        assert_eq!(told.status, 504);
        assert_eq!(told.json()["error"]["message"], "upstream request timed out after 60ms");
        assert_eq!(gateway.usage()[0].error_class, "timeout");
        upstream.gone.notified().await;
    });
}

#[test]
fn a_port_where_nobody_listens_is_a_transport_error() {
    run(async {
        let gateway = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        let told = gateway.chat(value!({})).await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["error"]["type"]),
            (502, &value!("transport_error"))
        );
        assert!(!told.body.contains("127.0.0.1"));
        assert!(gateway.usage()[0].error_message.contains("cannot connect to 127.0.0.1:1"));
    });
}

#[test]
fn a_caller_that_leaves_while_waiting_ends_the_upstream_s_work() {
    run(async {
        let arrived = Rc::new(Notify::new());
        let upstream = Upstream::start([vec![Step::AwaitEnd]]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut caller = gateway.caller().await;
        let told = arrived.clone();
        let asking = tokio::task::spawn_local(async move {
            tokio::select! {
                _ = caller.send(chat_request(value!({}))) => panic!("there is no answer"),
                () = told.notified() => caller.leave(),
            }
        });
        until(|| !upstream.heard().is_empty()).await;
        arrived.notify_one();
        asking.await.unwrap();
        upstream.gone.notified().await;
        let event = &gateway.usage()[0];
        assert_eq!((event.status_code, event.usage_estimated), (499, true));
        assert_eq!(gateway.proxy.health.in_flight(), 0);
    });
}

#[test]
fn models_are_listed_as_far_as_the_key_allows_them() {
    run(async {
        let gateway = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        gateway.put(Resource::Model(model("m-2", "a-chat", "pk-1")));
        gateway.put(Resource::Model(model("m-3", "a-*", "pk-1")));
        let mut key = super::gateway::api_key("k-2", "sk-other");
        key.allowed_models = vec!["chat".to_owned(), "a-*".to_owned()];
        gateway.put(Resource::ApiKey(key));
        gateway.put(Resource::Model(model("m-4", "secret", "pk-1")));
        let request = request("GET", "/v1/models", &[("x-api-key", "sk-other")], "");
        let told = gateway.caller().await.ask(request).await;
        let list = told.json();
        let ids: Vec<_> =
            list["data"].as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
        assert_eq!(ids, ["a-chat", "chat"]);
        assert_eq!(
            (&list["object"], &list["data"][0]["owned_by"]),
            (&value!("list"), &value!("openai"))
        );
        assert!(gateway.usage().is_empty());
    });
}
