//! What a caller sees when the upstream fails.

use harness::{Projection, World, port, projection, wait};
use serde_json::{Value, json};

/// The error of an unary request: status, type, and the whole body.
async fn failure(world: &World, model: &str) -> (u16, String, Value) {
    let answer = world.caller().ask(model, "one two three").await;
    let status = answer.status.as_u16();
    let body = answer.json().await.unwrap();
    (status, body["error"]["type"].as_str().unwrap_or_default().to_owned(), body)
}

#[tokio::test]
async fn an_error_of_the_caller_is_passed_on_as_the_upstream_said_it() {
    let world = World::start().await;
    for (model, status) in [("status-400", 400), ("status-404", 404)] {
        let (seen, kind, body) = failure(&world, model).await;
        assert_eq!((seen, kind.as_str()), (status, "upstream_error"));
        assert_eq!(body["error"]["message"], "scripted failure");
        assert_eq!(body["error"]["code"], "scripted");
    }
}

#[tokio::test]
async fn a_rate_limit_of_the_upstream_is_passed_on_with_its_retry_after() {
    let world = World::start().await;
    let answer = world.caller().ask("status-429", "hello").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), "7");
}

#[tokio::test]
async fn an_error_of_the_upstream_itself_is_502_without_its_words() {
    let world = World::start().await;
    for model in ["status-500", "status-503"] {
        let (status, kind, body) = failure(&world, model).await;
        assert_eq!((status, kind.as_str()), (502, "upstream_error"));
        assert!(!body.to_string().contains("scripted"), "{body}");
    }
}

#[tokio::test]
async fn nonsense_from_the_upstream_is_502() {
    let world = World::start().await;
    let (status, kind, _) = failure(&world, "garbage").await;
    assert_eq!((status, kind.as_str()), (502, "upstream_decode_error"));
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_502_and_in_a_stream_an_error_event_without_done() {
    let world = World::start().await;
    let (status, _, _) = failure(&world, "cut").await;
    assert_eq!(status, 502);
    let answer = world.caller().ask_stream("cut", "one two three").await;
    assert_eq!(answer.status, 200);
    let events = answer.events().await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.name, "error", "{events:?}");
    let body: Value = serde_json::from_str(&last.data).unwrap();
    assert!(body["error"]["message"].is_string(), "{body}");
    assert!(events.iter().all(|event| event.data != "[DONE]"), "{events:?}");
}

#[tokio::test]
async fn an_upstream_that_is_away_is_502() {
    let world = World::start().await;
    let nobody = format!("http://{}/v1", port::reserve());
    let projection = Projection::of(&world.upstream)
        .with("provider_keys", "pk-away", projection::provider_key(&nobody, "x"))
        .with("models", "m-away", projection::model("away", "pk-away"));
    world.cloud.project(&projection);
    let (status, kind) = wait::until("the model is known", async || {
        let (status, kind, body) = failure(&world, "away").await;
        if status == 404 { Err(body) } else { Ok((status, kind)) }
    })
    .await;
    assert_eq!((status, kind.as_str()), (502, "transport_error"));
}

#[tokio::test]
async fn a_model_without_its_provider_key_is_400() {
    let world = World::start().await;
    let dangling = projection::model("dangling", "pk-nowhere");
    world.cloud.project(&Projection::of(&world.upstream).with("models", "m-dangling", dangling));
    let (status, kind) = wait::until("the model is known", async || {
        let (status, kind, body) = failure(&world, "dangling").await;
        if status == 404 { Err(body) } else { Ok((status, kind)) }
    })
    .await;
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
}

#[tokio::test]
async fn an_upstream_that_is_silent_for_too_long_is_504_and_in_a_stream_an_error_event() {
    let world = World::start().await;
    let mut model = projection::model("silent", "pk-1");
    model["model_name"] = json!("stall");
    model["timeout"] = json!(200);
    model["stream_timeout"] = json!(200);
    world.cloud.project(&Projection::of(&world.upstream).with("models", "m-silent", model));
    let (status, kind) = wait::until("the model is known", async || {
        let (status, kind, body) = failure(&world, "silent").await;
        if status == 404 { Err(body) } else { Ok((status, kind)) }
    })
    .await;
    assert_eq!((status, kind.as_str()), (504, "timeout"));
    let events = world.caller().ask_stream("silent", "one two three").await.events().await.unwrap();
    assert_eq!(events.last().unwrap().name, "error", "{events:?}");
}
