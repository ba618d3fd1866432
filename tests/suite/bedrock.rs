//! Bedrock behind callers of both dialects: signed requests, and the binary event stream.

use harness::caller::{chat, chat_stream};
use harness::provider::bedrock::{API_KEY, Bedrock, KEY_ID, SECRET, SIGNATURE};
use harness::sse::Event;
use harness::{Answer, Builder, Cloud, Connection, Gateway, Projection, projection};
use serde_json::{Value, json};

struct World {
    bedrock: Bedrock,
    cloud: Cloud,
    gateway: Gateway,
}

const SCRIPTS: [&str; 6] = ["plain", "think", "tool", "full", "exception", "cut"];

impl World {
    async fn start() -> Self {
        Self::start_with(&Bedrock::secret(), |url, gateway| (Some(url.to_owned()), gateway)).await
    }

    /// With a secret, and the `api_base` and settings that come of Bedrock's place.
    async fn start_with(
        secret: &str,
        place: impl FnOnce(&str, Builder) -> (Option<String>, Builder),
    ) -> Self {
        let bedrock = Bedrock::start().await;
        // What is projected is known only with the settings.
        let cloud = Cloud::start(&Projection::default()).await;
        let builder = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0");
        let (api_base, builder) = place(&bedrock.url(), builder);
        let key = json!({
            "display_name": "bedrock", "provider": "bedrock", "adapter": "bedrock",
            "api_base": api_base, "api_key": secret,
        });
        let mut projection = Projection::default().with("provider_keys", "pk-1", key).with(
            "api_keys",
            "k-1",
            projection::api_key(projection::CALLER_KEY, &["*"]),
        );
        for script in SCRIPTS {
            let mut model = projection::model(script, "pk-1");
            model["provider"] = json!("bedrock");
            model["model_name"] = json!(format!("eu.anthropic.{script}:0"));
            projection = projection.with("models", &format!("m-{script}"), model);
        }
        cloud.project(&projection);
        let gateway = builder.start().await;
        let world = Self { bedrock, cloud, gateway };
        world.is_configured().await;
        world
    }

    async fn is_configured(&self) {
        harness::wait::until("every worker has the models", async || {
            let applied = self.gateway.status_config().await["applied"].take();
            let is_there = applied["resource_counts"]["models"] == SCRIPTS.len();
            if is_there { Ok(()) } else { Err(applied.to_string()) }
        })
        .await;
    }

    async fn ask(&self, body: &Value) -> Answer {
        self.gateway.caller().try_chat(body).await.unwrap()
    }

    async fn ask_messages(&self, body: &Value) -> Answer {
        let caller = self.gateway.caller();
        let mut connection = Connection::open(caller.address).await.unwrap();
        connection.send(caller.request("/v1/messages", body)).await.unwrap()
    }
}

fn messages(model: &str, text: &str, is_stream: bool) -> Value {
    json!({
        "model": model, "max_tokens": 100, "stream": is_stream,
        "messages": [{"role": "user", "content": text}],
    })
}

fn joined(events: &[Event], pointer: &str) -> String {
    let data = events.iter().filter_map(|event| serde_json::from_str::<Value>(&event.data).ok());
    data.filter_map(|data| data.pointer(pointer)?.as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_signed_request_is_answered_and_every_class_of_tokens_is_reported() {
    let world = World::start().await;
    let answer = world.ask(&chat("think", "one two")).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json().await.unwrap();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "You said: one two");
    assert_eq!(message["reasoning_content"], "hm");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    let [asked] = world.bedrock.asked().try_into().unwrap();
    assert_eq!(asked.target, "/model/eu.anthropic.think%3A0/converse");
    assert!(asked.header("authorization").contains(KEY_ID));
    assert!(
        asked
            .headers
            .values()
            .all(|value| !value.as_bytes().windows(6).any(|it| it == &SECRET.as_bytes()[..6]))
    );

    let [event] = world.cloud.usage_of(1).await.try_into().unwrap();
    assert_eq!((&event["prompt_tokens"], &event["completion_tokens"]), (&json!(20), &json!(5)));
    assert_eq!(
        (&event["cache_read_tokens"], &event["cache_creation_tokens"]),
        (&json!(8), &json!(7))
    );
    assert_eq!(event["finish_reason"], "end_turn");
}

#[tokio::test]
async fn an_event_stream_comes_in_openai_s_chunks_and_is_reported() {
    let world = World::start().await;
    let answer = world.ask(&chat_stream("think", "one two")).await;
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    let events = answer.events().await.unwrap();
    assert_eq!(joined(&events, "/choices/0/delta/content"), "You said: one two");
    assert_eq!(joined(&events, "/choices/0/delta/reasoning_content"), "hm");
    assert_eq!(events.last().unwrap().data, "[DONE]");
    let [event] = world.cloud.usage_of(1).await.try_into().unwrap();
    assert_eq!((&event["completion_tokens"], &event["cache_read_tokens"]), (&json!(5), &json!(8)));
}

#[tokio::test]
async fn a_loop_of_tools_keeps_signed_thoughts_for_callers_of_both_dialects() {
    let world = World::start().await;
    let mut body = chat("tool", "look");
    body["tools"] = json!([{"type": "function", "function": {"name": "find"}}]);
    let answer = world.ask(&body).await.json().await.unwrap();
    let message = answer["choices"][0]["message"].clone();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"x\":1}");
    let result = json!({"role": "tool", "tool_call_id": "tooluse_1", "content": "found"});
    body["messages"].as_array_mut().unwrap().extend([message, result]);
    let answer = world.ask(&body).await.json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "The tool says \"found\"");

    let mut body = messages("tool", "look", true);
    body["tools"] = json!([{"name": "find", "input_schema": {"type": "object"}}]);
    let events = world.ask_messages(&body).await.events().await.unwrap();
    assert_eq!(joined(&events, "/delta/partial_json"), "{\"x\":1}");
    assert_eq!(joined(&events, "/delta/signature"), SIGNATURE);
    assert_eq!(joined(&events, "/delta/stop_reason"), "tool_use");
    let content = json!([
        {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
        {"type": "tool_use", "id": "tooluse_1", "name": "find", "input": {"x": 1}},
    ]);
    let result = json!([{"type": "tool_result", "tool_use_id": "tooluse_1", "content": "found"}]);
    let turns = [
        json!({"role": "assistant", "content": content}),
        json!({"role": "user", "content": result}),
    ];
    body["messages"].as_array_mut().unwrap().extend(turns);
    let events = world.ask_messages(&body).await.events().await.unwrap();
    assert_eq!(joined(&events, "/delta/text"), "The tool says \"found\"");

    let asked = world.bedrock.asked();
    for again in [&asked[1], &asked[3]] {
        let content = again.json()["messages"][1]["content"].clone();
        let thought = &content[0]["reasoningContent"]["reasoningText"];
        assert_eq!(*thought, json!({"text": "hm", "signature": SIGNATURE}), "{content}");
        assert_eq!(content[1]["toolUse"]["toolUseId"], "tooluse_1");
    }
}

#[tokio::test]
async fn an_anthropic_caller_is_answered_in_its_own_words() {
    let world = World::start().await;
    let mut body = messages("think", "one two", false);
    body["system"] =
        json!([{"type": "text", "text": "brief", "cache_control": {"type": "ephemeral"}}]);
    let answer = world.ask_messages(&body).await.json().await.unwrap();
    assert_eq!(
        answer["content"][0],
        json!({"type": "thinking", "thinking": "hm", "signature": SIGNATURE})
    );
    assert_eq!(answer["content"][1]["text"], "You said: one two");
    assert_eq!(answer["usage"]["input_tokens"], 20);
    assert_eq!(answer["usage"]["cache_creation_input_tokens"], 7);
    let [asked] = world.bedrock.asked().try_into().unwrap();
    assert_eq!(asked.json()["system"][1], json!({"cachePoint": {"type": "default"}}));
}

#[tokio::test]
async fn errors_before_and_inside_a_stream_are_told_with_the_gateway_s_code() {
    let world = World::start().await;
    for body in [chat("full", "hi"), chat_stream("full", "hi")] {
        let answer = world.ask(&body).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.json().await.unwrap()["error"]["code"], "rate_limit_exceeded");
    }
    let events = world.ask(&chat_stream("exception", "hi")).await.events().await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.name, "error");
    assert!(last.data.contains("the model is overloaded") && last.data.contains("overloaded"));
    let events = world.ask(&chat_stream("cut", "hi")).await.events().await.unwrap();
    assert_eq!(events.last().unwrap().name, "error");
    assert!(events.iter().all(|event| event.data != "[DONE]"));
}

#[tokio::test]
async fn a_key_with_the_wrong_secret_is_refused_and_an_api_key_is_sent_as_it_is() {
    let wrong = format!("{KEY_ID}:wrong");
    let own = |url: &str, gateway| (Some(url.to_owned()), gateway);
    let world = World::start_with(&wrong, own).await;
    let answer = world.ask(&chat("plain", "hi")).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json().await.unwrap()["error"]["code"], "invalid_api_key");

    let world = World::start_with(API_KEY, own).await;
    assert_eq!(world.ask(&chat("plain", "hi")).await.status, 200);
}

#[tokio::test]
async fn a_key_without_a_place_is_served_where_the_configuration_says() {
    let world = World::start_with(&Bedrock::secret(), |url, gateway| {
        (None, gateway.set("/bedrock_endpoint_url", json!(url)))
    })
    .await;
    assert_eq!(world.ask(&chat("plain", "hi")).await.status, 200);
    assert_eq!(world.bedrock.asked().len(), 1);
}
