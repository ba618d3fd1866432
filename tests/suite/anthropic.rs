//! Both dialects against providers of both: what a caller of one sees of a provider of the other.

mod told;

use harness::provider::messages::{REDACTED, SIGNATURE};
use harness::provider::{KEY, Outcome};
use harness::sse::Event;
use harness::{Answer, Builder, Cloud, Gateway, Projection, Upstream, client, projection, wait};
use serde_json::{Value, json};

use told::{assembled, chunks, is_broken_chat, is_broken_message, told};

struct Place {
    upstream: Upstream,
    cloud: Cloud,
    gateway: Gateway,
}

impl Place {
    /// Beside OpenAI's models there are `claude` and the scripts by their names, `claude-` in front, and `azure`.
    async fn start() -> Self {
        let upstream = harness::upstream().await;
        let mut documents = Projection::of(&upstream)
            .with("provider_keys", "pk-a", projection::anthropic_key(&upstream.api_base(), KEY))
            .with("provider_keys", "pk-azure", azure_key(&upstream));
        for name in ["small-1", "split", "cut", "overloaded", "status-429", "status-529", "hold"] {
            documents = documents.with("models", &format!("m-c-{name}"), claude(name));
        }
        let mut marked = claude("marked");
        marked["auto_prompt_caching"] = json!({"enabled": true, "ttl": "1h"});
        let mut azure = projection::model("azure", "pk-azure");
        azure["provider"] = json!("azure");
        documents = documents.with("models", "m-marked", marked).with("models", "m-azure", azure);
        let cloud = Cloud::start(&documents).await;
        let gateway = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0").start().await;
        Self { upstream, cloud, gateway }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.gateway.caller().request(path, body);
        client::send(self.gateway.proxy(), request).await.expect("the gateway answers")
    }

    async fn json(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        let (status, told) = (answer.status, answer.json().await.unwrap());
        assert_eq!(status, 200, "{told}");
        told
    }

    async fn events(&self, path: &str, body: &Value) -> Vec<Event> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let answer = self.post(path, &body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "text/event-stream");
        answer.events().await.unwrap()
    }

    /// The body that the provider got last.
    fn sent(&self) -> Value {
        self.upstream.bodies().pop().expect("a request of Messages")
    }
}

fn claude(script: &str) -> Value {
    let mut model = projection::model(&format!("claude-{script}"), "pk-a");
    model["provider"] = json!("anthropic");
    model["model_name"] = json!(script);
    model
}

fn azure_key(upstream: &Upstream) -> Value {
    let mut key = projection::provider_key(&format!("http://{}", upstream.address()), KEY);
    key["display_name"] = json!("azure");
    key["provider"] = json!("azure");
    key["adapter"] = json!("azure-openai");
    key
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]})
}

fn message(model: &str, text: &str) -> Value {
    json!({"model": model, "max_tokens": 100, "system": "Be brief.",
        "messages": [{"role": "user", "content": text}]})
}

fn chat_tools() -> Value {
    let tool = |name| json!({"type": "function", "function": {"name": name, "parameters": {}}});
    json!([tool("weather"), tool("time")])
}

fn message_tools() -> Value {
    let tool = |name| json!({"name": name, "input_schema": {"type": "object"}});
    json!([tool("weather"), tool("time")])
}

#[tokio::test]
async fn a_caller_of_openai_s_dialect_is_answered_by_anthropic_and_counted() {
    let place = Place::start().await;
    let unary = place.json(CHAT, &chat("claude-small-1", "cached words here")).await;
    assert_eq!(unary["object"], "chat.completion");
    assert_eq!(unary["choices"][0]["message"]["content"], "You said: cached words here");
    assert_eq!(unary["choices"][0]["finish_reason"], "stop");
    // Five words, and one read from the cache.
    assert_eq!(unary["usage"]["prompt_tokens"], 6);
    assert_eq!(unary["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
    let sent = place.sent();
    assert_eq!(sent["system"], "Be brief.");
    assert!(sent["max_tokens"].as_u64().unwrap() >= 4096);
    let mut streamed = chat("claude-split", "cached words here");
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = chunks(&place.events(CHAT, &streamed).await);
    assert_eq!(assembled(&chunks)["content"], "You said: cached words here");
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["prompt_tokens"]), (&json!([]), &json!(6)));
    let events = place.cloud.usage_of(2).await;
    for event in &events {
        assert_eq!(event["prompt_tokens"], 5, "{event}");
        assert_eq!(event["cache_read_tokens"], 1, "{event}");
        assert_eq!(event["cached_prompt_tokens"], Value::Null, "{event}");
        assert_eq!(event["finish_reason"], "end_turn", "{event}");
        assert_eq!(event["provider_request_id"], "msg_3", "{event}");
        assert_eq!(event["inbound_protocol"], "openai", "{event}");
        assert_eq!(event["usage_estimated"], Value::Null, "{event}");
    }
    assert_eq!(events[0]["completion_tokens"], events[1]["completion_tokens"]);
    assert!(place.upstream.ledger().iter().all(|served| served.authorized));
}

#[tokio::test]
async fn tools_and_signed_thoughts_go_round_for_a_caller_of_openai_s_dialect() {
    let place = Place::start().await;
    let mut body = chat("claude-small-1", "call for the secret city");
    body["tools"] = chat_tools();
    body["reasoning_effort"] = json!("low");
    let unary = place.json(CHAT, &body).await;
    assert_eq!(unary["choices"][0]["finish_reason"], "tool_calls");
    let mut answer = unary["choices"][0]["message"].clone();
    let streamed = assembled(&chunks(&place.events(CHAT, &body).await));
    let blocks = streamed["thinking_blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 2);
    assert_eq!((&blocks[0]["signature"], &blocks[0]["index"]), (&json!(SIGNATURE), &json!(0)));
    assert_eq!((&blocks[1]["data"], &blocks[1]["index"]), (&json!(REDACTED), &json!(1)));
    assert_eq!(streamed["reasoning_content"], answer["reasoning_content"]);
    assert_eq!(blocks[0]["thinking"], answer["thinking_blocks"][0]["thinking"]);
    for (unary, streamed) in answer["tool_calls"]
        .as_array()
        .unwrap()
        .iter()
        .zip(streamed["tool_calls"].as_array().unwrap())
    {
        assert_eq!(unary["function"], streamed["function"]);
        assert_eq!(unary["id"], streamed["id"]);
    }
    assert_eq!(answer["tool_calls"].as_array().unwrap().len(), 2);
    // The provider checks that the thoughts are there, signed, and that each call has its result.
    let result =
        |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let goes_on = |answer: &Value| {
        let mut next = body.clone();
        let messages = next["messages"].as_array_mut().unwrap();
        messages.extend([answer.clone(), result("toolu_0", "rain"), result("toolu_1", "noon")]);
        next
    };
    let told = place.json(CHAT, &goes_on(&answer)).await;
    assert_eq!(told["choices"][0]["message"]["content"], "The tool said: noon");
    let sent = place.sent();
    assert_eq!(sent["thinking"]["type"], "enabled");
    let kinds: Vec<_> = sent["messages"][1]["content"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = kinds.iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]);
    // A caller that has not kept them is served too, without further thoughts.
    answer.as_object_mut().unwrap().remove("thinking_blocks");
    let told = place.json(CHAT, &goes_on(&answer)).await;
    assert_eq!(told["choices"][0]["message"]["content"], "The tool said: noon");
    assert_eq!(place.sent()["thinking"], Value::Null);
}

#[tokio::test]
async fn json_is_the_answer_where_a_caller_of_openai_s_dialect_asks_for_it() {
    let place = Place::start().await;
    let mut body = chat("claude-small-1", "a city");
    let schema = json!({"type": "object", "properties": {"said": {"type": "string"}}});
    body["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "city", "schema": schema}});
    let unary = place.json(CHAT, &body).await;
    let choice = &unary["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["tool_calls"], Value::Null);
    let content = choice["message"]["content"].as_str().unwrap();
    let json = content.split_once('{').map(|(_, rest)| format!("{{{rest}")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!({"said": "a city"}));
    let streamed = assembled(&chunks(&place.events(CHAT, &body).await));
    assert_eq!(streamed["content"], content);
}

#[tokio::test]
async fn a_caller_of_messages_is_relayed_by_anthropic_to_the_byte() {
    let place = Place::start().await;
    let mut body = message("claude-split", "call me cached");
    body["tools"] = message_tools();
    body["thinking"] = json!({"type": "adaptive", "of": "tomorrow"});
    let unary = place.json(MESSAGES, &body).await;
    let mut sent = body.clone();
    sent["model"] = json!("split");
    assert_eq!(place.sent(), sent);
    assert_eq!(unary["stop_reason"], "tool_use");
    assert_eq!(told(&place.events(MESSAGES, &body).await), unary);
    let events = place.cloud.usage_of(2).await;
    for event in &events {
        for (name, field) in [
            ("prompt_tokens", "input_tokens"),
            ("completion_tokens", "output_tokens"),
            ("cache_read_tokens", "cache_read_input_tokens"),
        ] {
            assert_eq!(event[name], unary["usage"][field], "{event}");
        }
        assert_eq!(event["finish_reason"], "tool_use");
        assert_eq!(event["inbound_protocol"], "anthropic");
    }
}

#[tokio::test]
async fn a_caller_of_messages_is_answered_by_openai_and_its_tools_go_round() {
    let place = Place::start().await;
    let mut body = message("small-1", "call now");
    body["tools"] = message_tools();
    let unary = place.json(MESSAGES, &body).await;
    assert_eq!((&unary["type"], &unary["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(unary["stop_reason"], "tool_use");
    let blocks = unary["content"].as_array().unwrap();
    assert_eq!(blocks[0], json!({"type": "text", "text": "You said: call now"}));
    let call = |index: usize, name: &str| {
        json!({"type": "tool_use", "id": format!("call_{index}"), "name": name,
            "input": {"said": "call now"}})
    };
    assert_eq!(blocks[1..], [call(0, "weather"), call(1, "time")]);
    // Two words of the system prompt, two of the user.
    assert_eq!(unary["usage"]["input_tokens"], 4);
    let mut streamed = body.clone();
    streamed["model"] = json!("split");
    let mut streamed = told(&place.events(MESSAGES, &streamed).await);
    for name in ["id", "model"] {
        streamed[name] = unary[name].clone();
    }
    assert_eq!(streamed, unary);
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": unary["content"]}));
    let result = |id: &str, content: Value| json!({"type": "tool_result", "tool_use_id": id, "content": content});
    messages.push(json!({"role": "user", "content": [
        result("call_0", json!("rain")), result("call_1", json!([{"type": "text", "text": "noon"}])),
        {"type": "text", "text": "and so?"}]}));
    let told = place.json(MESSAGES, &body).await;
    assert_eq!(told["content"][0]["text"], "You said: and so?");
    assert_eq!(told["stop_reason"], "end_turn");
    for event in place.cloud.usage_of(3).await {
        assert_eq!(event["inbound_protocol"], "anthropic", "{event}");
        assert_eq!(event["model_id"].as_str().unwrap().split('-').next(), Some("m"), "{event}");
    }
}

#[tokio::test]
async fn errors_of_anthropic_are_told_in_the_caller_s_dialect() {
    let place = Place::start().await;
    let limited = place.post(CHAT, &chat("claude-status-429", "hello")).await;
    assert_eq!((limited.status.as_u16(), limited.header("retry-after")), (429, "7"));
    let expected = json!({"error": {"message": "scripted failure", "type": "upstream_error",
        "code": "rate_limit_exceeded"}});
    assert_eq!(limited.json().await.unwrap(), expected);
    let limited = place.post(MESSAGES, &message("claude-status-429", "hello")).await;
    assert_eq!((limited.status.as_u16(), limited.header("retry-after")), (429, "7"));
    let expected = json!({"type": "error",
        "error": {"type": "rate_limit_error", "message": "scripted failure"}});
    assert_eq!(limited.json().await.unwrap(), expected);
    let overloaded = place.post(CHAT, &chat("claude-status-529", "hello")).await;
    assert_eq!(overloaded.status, 502);
    assert_eq!(overloaded.json().await.unwrap()["error"]["message"], "upstream returned 529");
    // What the provider finds wrong with a request is the caller's to know.
    let body = json!({"model": "claude-small-1", "max_tokens": 9, "messages": [
        {"role": "user", "content": [{"type": "text", "text": ""}]}]});
    let refused = place.post(MESSAGES, &body).await;
    assert_eq!(refused.status, 400);
    let error = &refused.json().await.unwrap()["error"];
    assert_eq!(error["type"], "invalid_request_error");
    assert!(error["message"].as_str().unwrap().contains("non-empty"), "{error}");
}

#[tokio::test]
async fn a_stream_of_anthropic_that_breaks_ends_with_an_error_in_the_caller_s_dialect() {
    let place = Place::start().await;
    let cut = "claude-cut";
    is_broken_chat(&place.events(CHAT, &chat(cut, "one two three")).await);
    is_broken_message(&place.events(MESSAGES, &message(cut, "one two three")).await);
    // An error is told in the middle, once both have begun.
    let mut bodies = [chat("claude-overloaded", "hello"), message("claude-overloaded", "hello")];
    bodies.iter_mut().for_each(|body| body["stream"] = json!(true));
    let mut of_chat = place.post(CHAT, &bodies[0]).await;
    let mut of_messages = place.post(MESSAGES, &bodies[1]).await;
    for answer in [&mut of_chat, &mut of_messages] {
        assert_eq!(answer.status, 200);
        answer.next_event().await.unwrap().expect("the stream begins");
    }
    place.upstream.release();
    is_broken_chat(&of_chat.events().await.unwrap());
    is_broken_message(&of_messages.events().await.unwrap());
    let classes: Vec<_> =
        place.cloud.usage_of(4).await.iter().map(|event| event["error_class"].clone()).collect();
    let count = |class: &str| classes.iter().filter(|it| *it == class).count();
    assert_eq!((count("stream_aborted"), count("upstream_in_band")), (2, 2), "{classes:?}");
}

#[tokio::test]
async fn a_caller_who_leaves_a_stream_of_anthropic_is_charged_what_was_delivered() {
    let place = Place::start().await;
    let words = "word ".repeat(200);
    let mut body = message("claude-hold", &words);
    body["max_tokens"] = json!(1000);
    body["stream"] = json!(true);
    let mut answer = place.post(MESSAGES, &body).await;
    for _ in 0..90 {
        answer.next_event().await.unwrap().expect("half of the answer");
    }
    drop(answer);
    let event = place.cloud.usage_of(1).await.pop().unwrap();
    assert_eq!(event["status_code"], 499);
    // Counted at the beginning by the provider, and since then by nobody.
    assert_eq!(event["prompt_tokens"], 202);
    assert_eq!(event["usage_estimated"], true);
    assert!(event["completion_tokens"].as_u64().unwrap() > 50, "{event}");
    wait::until("the upstream sees that the caller has left", async || {
        match place.upstream.ledger().pop() {
            Some(served) if served.outcome == Outcome::CallerLeft => Ok(()),
            served => Err(format!("{served:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn tokens_are_counted_by_anthropic_and_estimated_for_others() {
    let place = Place::start().await;
    let path = "/v1/messages/count_tokens";
    let count = place.json(path, &message("claude-small-1", "one two three")).await;
    assert_eq!(count, json!({"input_tokens": 5}));
    let count = place.json(path, &message("small-1", "one two three")).await;
    let bytes = "\"Be brief.\"".len() + r#"[{"content":"one two three","role":"user"}]"#.len();
    assert_eq!(count, json!({"input_tokens": bytes.div_ceil(4)}));
    assert_eq!(place.upstream.ledger().len(), 1);
    for event in place.cloud.usage_of(2).await {
        assert_eq!((&event["prompt_tokens"], &event["completion_tokens"]), (&json!(0), &json!(0)));
    }
}

#[tokio::test]
async fn a_model_that_is_configured_so_has_its_prompt_marked_for_the_cache() {
    let place = Place::start().await;
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    for (path, body) in
        [(CHAT, chat("claude-marked", "hello")), (MESSAGES, message("claude-marked", "hello"))]
    {
        let answer = place.json(path, &body).await;
        let sent = place.sent();
        assert_eq!(sent["system"][0]["cache_control"], mark, "{sent}");
        assert_eq!(sent["messages"][0]["content"][0]["cache_control"], mark, "{sent}");
        assert_eq!(answer["usage"]["cache_creation_input_tokens"], 2, "{answer}");
    }
    for event in place.cloud.usage_of(2).await {
        assert_eq!(event["cache_creation_tokens"], 2, "{event}");
    }
}

#[tokio::test]
async fn azure_is_asked_at_the_path_of_the_deployment_with_its_own_credential() {
    let place = Place::start().await;
    let unary = place.json(CHAT, &chat("azure", "one two")).await;
    assert_eq!(unary["choices"][0]["message"]["content"], "You said: one two");
    let unary = place.json(MESSAGES, &message("azure", "one two")).await;
    assert_eq!(unary["content"][0]["text"], "You said: one two");
    assert!(place.upstream.ledger().iter().all(|served| served.authorized));
}
