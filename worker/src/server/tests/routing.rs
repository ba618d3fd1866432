//! Groups of models: when an attempt at one target is followed by one at the next.

use serde_json::json as value;
use shared::resource::{Model, ModelKind, Resource, Routing, RoutingTarget};

use super::gateway::{Gateway, model, provider_key, test_settings};
use super::run;
use super::upstream::{Step, Upstream, json, stream};

const ANSWER: &str = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

/// A gateway with the group `chat` of two models, at these upstreams.
async fn gateway(first: &Upstream, second: &Upstream, routing: Routing) -> Gateway {
    let gateway = Gateway::start(test_settings(), first.address).await;
    let other = format!("http://{}/v1", second.address);
    gateway.put(Resource::ProviderKey(provider_key("pk-2", &other)));
    gateway.put(Resource::Model(model("m-1", "first", "pk-1")));
    gateway.put(Resource::Model(model("m-2", "second", "pk-2")));
    let target = |model: &str| RoutingTarget {
        model: model.to_owned(),
        weight: 1,
        ..RoutingTarget::default()
    };
    let targets = vec![target("first"), target("second")];
    let kind = ModelKind::Routing(Box::new(Routing { targets, ..routing }));
    let group =
        Model { id: "m-g".to_owned(), display_name: "chat".to_owned(), kind, ..Model::default() };
    gateway.put(Resource::Model(group));
    gateway
}

#[test]
fn a_stream_that_begins_with_an_error_or_ends_before_anything_came_is_left_for_the_next_target() {
    run(async {
        let error = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let cut = vec![Step::Send(head.to_owned()), Step::Close];
        for script in [stream(&[error]), stream(&[]), cut, vec![Step::Close]] {
            let first = Upstream::start([script]).await;
            let good =
                ["data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n", "data: [DONE]\n\n"];
            let second = Upstream::start([stream(&good)]).await;
            let gateway = gateway(&first, &second, Routing::default()).await;
            let told = gateway.chat(value!({"stream": true})).await;
            assert_eq!((told.status.as_u16(), told.header("x-aisix-served-by")), (200, "second"));
            assert_eq!(told.body, good.concat());
            let usage = gateway.usage();
            let attempts: Vec<_> = usage
                .iter()
                .map(|event| {
                    (event.attempt_index, event.attempt_kind.as_str(), event.attempt_model.as_str())
                })
                .collect();
            assert_eq!(attempts, [(0, "initial", "first"), (1, "fallback", "second")]);
        }
    });
}

#[test]
fn after_its_first_event_a_stream_stays_where_it_is() {
    run(async {
        let script =
            stream(&["data: {\"choices\":[]}\n\n", "data: {\"error\":{\"message\":\"x\"}}\n\n"]);
        let first = Upstream::start([script]).await;
        let second = Upstream::start([]).await;
        let gateway = gateway(&first, &second, Routing::default()).await;
        let told = gateway.chat(value!({"stream": true})).await;
        assert!(told.body.contains("event: error"), "{}", told.body);
        assert_eq!((second.heard().len(), gateway.usage().len()), (0, 1));
    });
}

#[test]
fn no_more_fallbacks_are_made_than_the_group_allows_and_none_for_what_the_caller_has_to_answer_for()
{
    run(async {
        for (script, max_fallbacks) in
            [(json("500 Internal Server Error", ""), Some(0)), (json("400 Bad Request", ""), None)]
        {
            let first = Upstream::start([script]).await;
            let second = Upstream::start([json("200 OK", ANSWER)]).await;
            let routing = Routing { max_fallbacks, ..Routing::default() };
            let gateway = gateway(&first, &second, routing).await;
            assert_ne!(gateway.chat(value!({})).await.status, 200);
            assert_eq!((second.heard().len(), gateway.usage().len()), (0, 1));
        }
    });
}

#[test]
fn retries_are_those_of_the_target_else_of_the_group_else_of_the_deployment() {
    run(async {
        for (of_target, of_group, expected) in
            [(Some(0), Some(2), 1), (Some(1), Some(0), 2), (None, Some(1), 2), (None, None, 1)]
        {
            let failed = || json("503 Service Unavailable", "");
            let first = Upstream::start([failed(), failed(), failed()]).await;
            let second = Upstream::start([json("200 OK", ANSWER)]).await;
            let routing = Routing { retries: of_group, ..Routing::default() };
            let gateway = gateway(&first, &second, routing).await;
            let target = Model { retries: of_target, ..model("m-1", "first", "pk-1") };
            gateway.put(Resource::Model(target));
            assert_eq!(gateway.chat(value!({})).await.status, 200);
            assert_eq!(first.heard().len(), expected);
        }
    });
}

#[test]
fn a_target_that_cannot_be_used_as_it_is_configured_is_an_attempt_that_failed() {
    run(async {
        let first = Upstream::start([]).await;
        let second = Upstream::start([json("200 OK", ANSWER)]).await;
        let gateway = gateway(&first, &second, Routing::default()).await;
        gateway.put(Resource::Model(model("m-1", "first", "pk-nowhere")));
        assert_eq!(gateway.chat(value!({})).await.status, 200);
        let usage = gateway.usage();
        assert_eq!(
            (usage[0].error_class.as_str(), usage[0].attempt_model.as_str()),
            ("invalid_config", "first")
        );
        assert_eq!(
            (usage[1].model_id.as_str(), usage[1].attempt_kind.as_str()),
            ("m-2", "fallback")
        );
    });
}
