//! Gemini behind callers of both dialects: with an account that asks for tokens, and with an API key.

use harness::caller::{chat, chat_stream};
use harness::provider::gemini::{API_KEY, Gemini, PROJECT, SIGNATURE, TOKEN};
use harness::sse::Event;
use harness::{Answer, Builder, Cloud, Connection, Gateway, Projection, WORKERS, projection};
use serde_json::{Value, json};

struct World {
    gemini: Gemini,
    cloud: Cloud,
    gateway: Gateway,
}

const MODELS: [&str; 7] = [
    "gemini-plain",
    "gemini-think",
    "gemini-tool",
    "gemini-blocked",
    "gemini-full",
    "gemini-broken",
    "gemini-cut",
];

impl World {
    /// With the secret of an account that may ask for tokens.
    async fn start() -> Self {
        Self::start_with(|gemini| (gemini.account(), String::new())).await
    }

    /// With a secret, and a path below the place of Gemini.
    async fn start_with(key: impl FnOnce(&Gemini) -> (String, String)) -> Self {
        let gemini = Gemini::start().await;
        let (secret, path) = key(&gemini);
        let key = json!({
            "display_name": "gemini", "provider": "vertex", "adapter": "vertex",
            "api_base": format!("{}{path}", gemini.url()), "api_key": secret,
        });
        let mut projection = Projection::default().with("provider_keys", "pk-1", key).with(
            "api_keys",
            "k-1",
            projection::api_key(projection::CALLER_KEY, &["*"]),
        );
        for name in MODELS {
            let mut model = projection::model(name, "pk-1");
            model["provider"] = json!("vertex");
            projection = projection.with("models", &format!("m-{name}"), model);
        }
        let cloud = Cloud::start(&projection).await;
        let gateway = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0").start().await;
        Self { gemini, cloud, gateway }
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

/// The deltas of chunks, put together.
fn joined(events: &[Event], field: &str) -> String {
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(&event.data).ok());
    chunks
        .filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str().map(str::to_owned))
        .collect()
}

fn tool() -> Value {
    let parameters = json!({
        "type": "object", "additionalProperties": false, "properties": {"x": {"type": ["integer", "null"]}},
    });
    json!({"type": "function", "function": {"name": "find", "parameters": parameters, "strict": true}})
}

#[tokio::test]
async fn an_openai_caller_is_answered_and_every_class_of_tokens_is_reported() {
    let world = World::start().await;
    let mut body = chat("gemini-think", "one two");
    body["reasoning_effort"] = json!("low");
    body["messages"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"role": "system", "content": "brief"}));
    let answer = world.ask(&body).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json().await.unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "You said: one two");
    assert_eq!(choice["message"]["reasoning_content"], "hm");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 20);
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 8);

    let [asked] = world.gemini.asked().try_into().unwrap();
    let path = format!(
        "/v1/projects/{PROJECT}/locations/global/publishers/google/models/gemini-think:generateContent"
    );
    assert_eq!(asked.target, path);
    assert_eq!(asked.header("authorization"), format!("Bearer {TOKEN}"));
    let told = asked.json();
    assert_eq!(told["systemInstruction"]["parts"][0]["text"], "brief");
    assert_eq!(told["generationConfig"]["thinkingConfig"]["includeThoughts"], true);

    let [event] = world.cloud.usage_of(1).await.try_into().unwrap();
    assert_eq!((&event["prompt_tokens"], &event["completion_tokens"]), (&json!(20), &json!(12)));
    assert_eq!(
        (&event["cached_prompt_tokens"], &event["reasoning_tokens"]),
        (&json!(8), &json!(7))
    );
    assert_eq!(event["provider_request_id"], "r-1");
    assert_eq!(event["model_id"], "m-gemini-think");
}

#[tokio::test]
async fn a_stream_comes_in_openai_s_chunks_and_is_reported() {
    let world = World::start().await;
    let mut body = chat_stream("gemini-think", "one two");
    body["stream_options"] = json!({"include_usage": true});
    let answer = world.ask(&body).await;
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    let events = answer.events().await.unwrap();
    assert_eq!(joined(&events, "content"), "You said: one two");
    assert_eq!(joined(&events, "reasoning_content"), "hm");
    assert_eq!(events.last().unwrap().data, "[DONE]");
    let usage: Value = serde_json::from_str(&events[events.len() - 2].data).unwrap();
    assert_eq!(usage["usage"]["completion_tokens"], 12);
    assert!(world.gemini.asked()[0].target.ends_with(":streamGenerateContent?alt=sse"));
    let [event] = world.cloud.usage_of(1).await.try_into().unwrap();
    assert_eq!((&event["completion_tokens"], &event["status_code"]), (&json!(12), &json!(200)));
}

#[tokio::test]
async fn a_loop_of_tools_keeps_the_signature_of_the_thoughts_for_callers_of_both_dialects() {
    let world = World::start().await;
    let mut body = chat("gemini-tool", "look");
    body["tools"] = json!([tool()]);
    let answer = world.ask(&body).await.json().await.unwrap();
    let message = answer["choices"][0]["message"].clone();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let call = &message["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "find", "arguments": "{\"x\":1}"}));
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "found"});
    body["messages"].as_array_mut().unwrap().extend([message, result]);
    let answer = world.ask(&body).await.json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "\"find\" says {\"result\":\"found\"}");

    let mut body = messages("gemini-tool", "look", false);
    body["tools"] = json!([{"name": "find", "input_schema": tool()["function"]["parameters"]}]);
    let answer = world.ask_messages(&body).await.json().await.unwrap();
    assert_eq!(answer["stop_reason"], "tool_use");
    let content = answer["content"].clone();
    let call = content.as_array().unwrap().iter().find(|block| block["type"] == "tool_use");
    let result =
        json!({"type": "tool_result", "tool_use_id": call.unwrap()["id"], "content": "found"});
    let turns = [
        json!({"role": "assistant", "content": content}),
        json!({"role": "user", "content": [result]}),
    ];
    body["messages"].as_array_mut().unwrap().extend(turns);
    let answer = world.ask_messages(&body).await.json().await.unwrap();
    assert_eq!(answer["content"][0]["text"], "\"find\" says {\"result\":\"found\"}");

    let asked = world.gemini.asked();
    for again in [&asked[1], &asked[3]] {
        let parts = again.json()["contents"][1]["parts"].as_array().unwrap().clone();
        let call = parts.iter().find(|part| part.get("functionCall").is_some()).unwrap();
        assert_eq!(call["thoughtSignature"], SIGNATURE, "{parts:?}");
    }
    let declared = &asked[0].json()["tools"][0]["functionDeclarations"][0];
    let expected =
        json!({"type": "object", "properties": {"x": {"type": "integer", "nullable": true}}});
    assert_eq!(declared["parameters"], expected);
}

#[tokio::test]
async fn an_anthropic_caller_is_answered_in_its_own_words() {
    let world = World::start().await;
    let answer = world.ask_messages(&messages("gemini-think", "one two", false)).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json().await.unwrap();
    assert_eq!(answer["content"][0]["thinking"], "hm");
    assert_eq!(answer["content"][1], json!({"type": "text", "text": "You said: one two"}));
    assert_eq!(answer["stop_reason"], "end_turn");
    assert_eq!(answer["usage"]["input_tokens"], 12);
    assert_eq!(answer["usage"]["cache_read_input_tokens"], 8);

    let events = world.ask_messages(&messages("gemini-plain", "one two", true)).await;
    let events = events.events().await.unwrap();
    assert_eq!(events.first().unwrap().name, "message_start");
    assert_eq!(events.last().unwrap().name, "message_stop");
    let text: String = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(&event.data).ok())
        .filter_map(|event| event["delta"]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "You said: one two");
    let events = world.cloud.usage_of(2).await;
    assert!(events.iter().all(|event| event["inbound_protocol"] == "anthropic"), "{events:?}");
}

#[tokio::test]
async fn many_requests_at_once_share_one_token_per_worker() {
    let world = World::start().await;
    let body = chat("gemini-plain", "hi");
    let asking = (0..40).map(|_| world.ask(&body));
    for answer in futures_util::future::join_all(asking).await {
        assert_eq!(answer.status, 200);
    }
    assert!((1..=WORKERS).contains(&world.gemini.tokens()), "{}", world.gemini.tokens());
    assert_eq!(world.gemini.asked().len(), 40);
}

#[tokio::test]
async fn an_api_key_is_sent_as_google_takes_it_and_nobody_is_asked_for_a_token() {
    let world = World::start_with(|_| (API_KEY.to_owned(), String::new())).await;
    let answer = world.ask(&chat("gemini-plain", "hi")).await;
    assert_eq!(answer.status, 200);
    let [asked] = world.gemini.asked().try_into().unwrap();
    assert_eq!(asked.target, "/v1beta/models/gemini-plain:generateContent");
    assert_eq!((asked.header("x-goog-api-key"), asked.header("authorization")), (API_KEY, ""));
    assert_eq!(world.gemini.tokens(), 0);
}

#[tokio::test]
async fn a_token_of_somebody_else_is_sent_to_a_project() {
    let path = "/v1/projects/p/locations/l".to_owned();
    let world = World::start_with(|_| (TOKEN.to_owned(), path)).await;
    assert_eq!(world.ask(&chat("gemini-plain", "hi")).await.status, 200);
    let [asked] = world.gemini.asked().try_into().unwrap();
    assert!(asked.target.starts_with("/v1/projects/p/locations/l/publishers/google/models/"));
}

#[tokio::test]
async fn an_account_that_gets_no_token_is_an_unusable_credential() {
    let world = World::start_with(|gemini| (gemini.account_of("other@x"), String::new())).await;
    let answer = world.ask(&chat("gemini-plain", "hi")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.json().await.unwrap()["error"]["type"], "authentication_error");
    assert!(world.gemini.asked().is_empty());
}

#[tokio::test]
async fn what_gemini_refuses_is_told_with_the_gateway_s_code_and_what_it_blocks_as_a_filter() {
    let world = World::start().await;
    let answer = world.ask(&chat("gemini-full", "hi")).await;
    assert_eq!(answer.status, 429);
    let error = answer.json().await.unwrap()["error"].clone();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("upstream_error"), &json!("rate_limit_exceeded"))
    );
    assert_eq!(error["message"], "quota exceeded");

    let answer = world.ask(&chat("gemini-broken", "hi")).await;
    assert_eq!(answer.status, 502);
    assert!(!answer.text().await.unwrap().contains("insides"));

    let answer = world.ask(&chat("gemini-blocked", "hi")).await.json().await.unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_with_an_error_and_without_done() {
    let world = World::start().await;
    let events = world.ask(&chat_stream("gemini-cut", "one two")).await.events().await.unwrap();
    assert_eq!(events.last().unwrap().name, "error");
    assert!(events.iter().all(|event| event.data != "[DONE]"));
    let [event] = world.cloud.usage_of(1).await.try_into().unwrap();
    assert_eq!(event["error_class"], "stream_aborted");
}
