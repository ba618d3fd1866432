//! Requests that are answered.

use harness::caller::{chat, chat_stream};
use harness::provider::answer::Answer as Said;
use harness::provider::behaviour::Behaviour;
use harness::sse::Event;
use harness::{Connection, World, projection};
use serde_json::{Value, json};

/// The text that the chunks of a stream add up to.
fn text_of(events: &[Event]) -> String {
    events
        .iter()
        .filter(|event| event.data != "[DONE]")
        .filter_map(|event| {
            let chunk: Value = serde_json::from_str(&event.data).expect("chunks are JSON");
            chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        })
        .collect()
}

/// What the upstream would say.
fn said(model: &str, text: &str) -> Said {
    Said::to(&chat(model, text), Behaviour::of(model))
}

#[tokio::test]
async fn an_unary_answer_is_the_upstreams_with_the_gateways_headers() {
    let world = World::start().await;
    let answer = world.caller().ask("small-1", "one two three").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("server").starts_with("AISIX/"), "{:?}", answer.headers);
    assert!(answer.header("content-type").starts_with("application/json"));
    let id = answer.header("x-aisix-request-id").to_owned();
    assert_eq!(answer.header("x-aisix-call-id"), id);
    assert_eq!(answer.json().await.unwrap(), said("small-1", "one two three").completion());

    let [served] = world.upstream.ledger().try_into().unwrap();
    assert_eq!(served.request_id, Some(id));
    assert!(served.authorized, "the upstream gets its own key, not the caller's");
}

#[tokio::test]
async fn a_stream_comes_chunk_by_chunk_and_hides_the_usage_that_only_the_gateway_asked_for() {
    let world = World::start().await;
    let answer = world.caller().ask_stream("small-1", "one two three").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    let events = answer.events().await.unwrap();
    assert_eq!(text_of(&events), "You said: one two three");
    assert_eq!(events.last().unwrap().data, "[DONE]");
    assert!(events.iter().all(|event| !event.data.contains("prompt_tokens")), "{events:?}");
    let [served] = world.upstream.ledger().try_into().unwrap();
    assert!(served.include_usage, "the gateway asks for the usage");
}

#[tokio::test]
async fn a_caller_who_asks_for_usage_in_the_stream_gets_it() {
    let world = World::start().await;
    let mut body = chat_stream("small-1", "one two three");
    body["stream_options"] = json!({"include_usage": true});
    let events = world.caller().try_chat(&body).await.unwrap().events().await.unwrap();
    let usage: Value = serde_json::from_str(&events[events.len() - 2].data).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], said("small-1", "one two three").usage());
}

#[tokio::test]
async fn a_stream_is_passed_on_before_it_is_complete() {
    let world = World::start().await;
    let mut answer = world.caller().ask_stream("hold", "one two three").await;
    let first = answer.next_event().await.unwrap();
    assert!(first.is_some(), "the first chunk comes while the upstream still holds the rest");
    world.upstream.release();
    assert_eq!(answer.events().await.unwrap().last().unwrap().data, "[DONE]");
}

#[tokio::test]
async fn a_stream_does_not_depend_on_how_the_upstream_writes_it() {
    let world = World::start().await;
    let events = world.caller().ask_stream("split", "one two three").await.events().await.unwrap();
    assert_eq!(text_of(&events), "You said: one two three");
    assert_eq!(events.last().unwrap().data, "[DONE]");
}

#[tokio::test]
async fn a_big_answer_arrives_whole() {
    let world = World::start().await;
    let expected = said("big", "hello");
    let unary = world.caller().ask("big", "hello").await.json().await.unwrap();
    assert_eq!(unary, expected.completion());
    let events = world.caller().ask_stream("big", "hello").await.events().await.unwrap();
    assert_eq!(text_of(&events), expected.words.join(" "));
}

#[tokio::test]
async fn the_list_of_models_holds_what_the_caller_may_use_in_order() {
    let world = World::start().await;
    let list = world.caller().models().await.unwrap().json().await.unwrap();
    assert_eq!(list["object"], "list");
    let names: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert!(names.is_sorted() && names.contains(&"small-1"), "{names:?}");
    let first = &list["data"][0];
    assert_eq!((&first["object"], &first["owned_by"]), (&json!("model"), &json!("openai")));
    assert!(first["created"].is_u64());

    let few = harness::Projection::of(&world.upstream).with(
        "api_keys",
        "k-2",
        projection::api_key("sk-few", &["s*-1", "big"]),
    );
    world.cloud.project(&few);
    let caller = world.gateway.caller_with("sk-few");
    let list = harness::wait::until("the second caller is known", async || {
        let answer = caller.models().await.unwrap();
        let status = answer.status;
        if status == 200 { Ok(answer.json().await.unwrap()) } else { Err(status) }
    })
    .await;
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["big", "small-1"]);
}

#[tokio::test]
async fn a_wildcard_model_asks_the_upstream_for_what_stood_in_its_place() {
    let world = World::start().await;
    let mut model = projection::model("any/*", "pk-1");
    model["model_name"] = json!("*");
    world.cloud.project(&harness::Projection::of(&world.upstream).with("models", "m-any", model));
    harness::wait::until("the wildcard answers", async || {
        let status = world.caller().ask("any/small-7", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(world.upstream.ledger().last().unwrap().model, "small-7");
}

#[tokio::test]
async fn a_request_id_of_the_caller_is_kept_if_it_is_acceptable() {
    let world = World::start().await;
    for (given, is_kept) in [("my-id-1", true), ("with space", false), (&"x".repeat(257), false)] {
        let mut request = world.caller().request("/v1/chat/completions", &chat("small-1", "hello"));
        request.headers_mut().insert("x-aisix-request-id", given.parse().unwrap());
        let answer = harness::client::send(world.gateway.proxy(), request).await.unwrap();
        let id = answer.header("x-aisix-request-id").to_owned();
        assert_eq!(id == given, is_kept, "{given} became {id}");
        assert_eq!(world.upstream.ledger().last().unwrap().request_id, Some(id));
    }
}

#[tokio::test]
async fn a_key_may_come_as_x_api_key_when_there_is_no_authorization() {
    let world = World::start().await;
    let mut request = harness::client::post("/v1/chat/completions", &chat("small-1", "hello"));
    request.headers_mut().insert("x-api-key", projection::CALLER_KEY.parse().unwrap());
    let answer = harness::client::send(world.gateway.proxy(), request).await.unwrap();
    assert_eq!(answer.status, 200);
    let [served] = world.upstream.ledger().try_into().unwrap();
    assert!(!served.headers.contains(&"x-api-key".to_owned()), "the upstream never sees it");
}

#[tokio::test]
async fn fields_that_the_gateway_does_not_know_reach_the_upstream() {
    let world = World::start().await;
    let mut body = chat("small-1", "hello");
    body["temperature"] = json!(0.5);
    body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    body["x_vendor"] = json!({"a": [1, null]});
    assert_eq!(world.caller().try_chat(&body).await.unwrap().status, 200);
    let [served] = world.upstream.ledger().try_into().unwrap();
    assert_eq!(served.fields, ["messages", "model", "temperature", "tools", "x_vendor"]);
}

#[tokio::test]
async fn many_requests_share_one_connection_to_the_upstream() {
    let world = World::start_with(|builder| builder.set("/proxy/workers", 1.into())).await;
    for number in 0..20 {
        let text = number.to_string();
        let answer = match number % 2 {
            0 => world.caller().ask("small-1", &text).await,
            _ => world.caller().ask_stream("small-1", &text).await,
        };
        answer.bytes().await.unwrap();
    }
    let ledger = world.upstream.ledger();
    assert_eq!(ledger.len(), 20);
    assert!(ledger.iter().all(|served| served.connection == ledger[0].connection), "{ledger:?}");
}

#[tokio::test]
async fn a_connection_of_a_caller_serves_many_requests() {
    let world = World::start().await;
    let caller = world.caller();
    let mut connection = Connection::open(caller.address).await.unwrap();
    for body in [
        chat("small-1", "a"),
        chat_stream("small-1", "b"),
        chat("nothing", "c"),
        chat("small-1", "d"),
    ] {
        let answer = caller.chat_over(&mut connection, &body).await.unwrap();
        answer.bytes().await.unwrap();
    }
    assert_eq!(world.upstream.ledger().len(), 3);
}
