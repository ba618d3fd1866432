//! The endpoints beside chat: what reaches the provider, what comes back, and what is counted.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use harness::provider::KEY;
use harness::provider::endpoints::SOUND;
use harness::{
    Answer, Builder, Caller, Cloud, Gateway, Projection, Upstream, client, projection, upstream,
};
use http::Request;
use serde_json::{Value, json};

struct Served {
    upstream: Upstream,
    cloud: Cloud,
    gateway: Gateway,
}

impl Served {
    /// The models `chat` (another name at the upstream), `plain` of a vendor that is compatible only, and the scripts.
    async fn start() -> Self {
        let upstream = upstream().await;
        let mut renamed = projection::model("chat", "pk-1");
        renamed["model_name"] = json!("upstream-name");
        let mut compatible = projection::model("plain", "pk-2");
        compatible["provider"] = json!("deepseek");
        let mut provider_key = projection::provider_key(&upstream.api_base(), KEY);
        provider_key["display_name"] = json!("compatible");
        provider_key["provider"] = json!("deepseek");
        provider_key["request"] = json!({
            "default_body_fields": {"safe": true},
            "default_headers": {"x-team": "${request.api_key.team_id}", "x-none": "${request.api_key.user_id}"},
            "forward_client_headers": ["x-trace-*", "authorization"],
            "param_renames": {"max_tokens": "max_new_tokens"},
        });
        let mut key = projection::api_key(projection::CALLER_KEY, &["*"]);
        key["team_id"] = json!("t-7");
        let projection = Projection::of(&upstream)
            .with("api_keys", "k-1", key)
            .with("provider_keys", "pk-2", provider_key)
            .with("models", "m-chat", renamed)
            .with("models", "m-plain", compatible);
        let cloud = Cloud::start(&projection).await;
        let gateway = Builder::managed(&cloud).start().await;
        Self { upstream, cloud, gateway }
    }

    async fn ask(&self, path: &str, body: &Value) -> Answer {
        let caller = self.gateway.caller();
        client::send(caller.address, caller.request(path, body)).await.expect("an answer")
    }

    async fn post_form(&self, path: &str, form: &'static [u8]) -> Answer {
        let caller = self.gateway.caller();
        client::send(caller.address, signed(&caller, path, form)).await.expect("an answer")
    }
}

fn signed(caller: &Caller, path: &str, form: &'static [u8]) -> Request<Bytes> {
    Request::post(path)
        .header("authorization", format!("Bearer {}", caller.key))
        .header("content-type", "multipart/form-data; boundary=xYz")
        .body(Bytes::from_static(form))
        .unwrap()
}

#[tokio::test]
async fn json_endpoints_are_relayed_with_the_providers_name_of_the_model_and_counted() {
    let served = Served::start().await;
    let requests = [
        ("/v1/completions", json!({"model": "chat", "prompt": "one two three"}), 3, 2),
        ("/v1/embeddings", json!({"model": "chat", "input": "one two"}), 2, 0),
        ("/v1/rerank", json!({"model": "chat", "query": "one", "documents": ["a", "b"]}), 1, 0),
        ("/v1/images/generations", json!({"model": "chat", "prompt": "one two"}), 2, 9),
        ("/v1/responses", json!({"model": "chat", "input": "one two"}), 2, 1),
    ];
    for (path, body, ..) in &requests {
        let answer = served.ask(path, body).await;
        assert_eq!(answer.status, 200, "{path}");
        let answer = answer.json().await.unwrap();
        let model = answer.get("model").cloned().unwrap_or(json!("upstream-name"));
        assert_eq!(model, "upstream-name", "{path}");
    }
    for (seen, (path, body, ..)) in served.upstream.ledger().iter().zip(&requests) {
        assert_eq!(seen.model, "upstream-name", "{path}");
        let fields: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        assert_eq!(seen.fields, fields, "{path}");
    }
    let usage = served.cloud.usage_of(requests.len()).await;
    for (path, body, prompt, completion) in &requests {
        let found = usage.iter().any(|event| {
            (&event["prompt_tokens"], &event["completion_tokens"])
                == (&json!(prompt), &json!(completion))
                && event["requested_model"] == body["model"]
                && event.get("usage_estimated").is_none()
        });
        assert!(found, "{path}: {usage:?}");
    }
}

#[tokio::test]
async fn streams_beside_chat_are_relayed_and_counted() {
    let served = Served::start().await;
    let body = json!({"model": "chat", "prompt": "one two three", "stream": true});
    let events = served.ask("/v1/completions", &body).await.events().await.unwrap();
    assert_eq!(events.last().unwrap().data, "[DONE]");
    let body = json!({"model": "chat", "input": "one two", "stream": true});
    let answer = served.ask("/v1/responses", &body).await;
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    let events = answer.events().await.unwrap();
    let last: Value = serde_json::from_str(&events.last().unwrap().data).unwrap();
    assert_eq!(last["type"], "response.completed");
    let usage = served.cloud.usage_of(2).await;
    assert!(usage.iter().any(|event| event["reasoning_tokens"] == 1), "{usage:?}");
    assert!(usage.iter().any(|event| event["prompt_tokens"] == 3), "{usage:?}");
}

#[tokio::test]
async fn a_form_reaches_the_provider_to_the_byte_but_for_the_model() {
    const FORM: &[u8] = b"preamble\r\n--xYz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
        Content-Type: audio/wav\r\n\r\n\x00\xff\r\n--xY\r\nchat\r\n--xYz\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n\
        chat\r\n--xYz--\r\nepilogue";
    let served = Served::start().await;
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"] {
        let answer = served.post_form(path, FORM).await;
        assert_eq!(answer.status, 200, "{path}");
        let answer = answer.json().await.unwrap();
        assert_eq!(answer["content_type"], "multipart/form-data; boundary=xYz");
        let form = BASE64_STANDARD.decode(answer["form"].as_str().unwrap()).unwrap();
        let model = b"\r\n\r\nchat\r\n--xYz--";
        let at = FORM.windows(model.len()).position(|part| part == model).unwrap();
        let expected =
            [&FORM[..at], b"\r\n\r\nupstream-name\r\n--xYz--", &FORM[at + model.len()..]];
        assert_eq!(form, expected.concat(), "{path}");
    }
    let usage = served.cloud.usage_of(3).await;
    assert!(usage.iter().all(|event| event["audio_duration_seconds"] == 2.5), "{usage:?}");

    let twice = b"--xYz\r\ncontent-disposition: form-data; name=model\r\n\r\nchat\r\n--xYz\r\n\
        content-disposition: form-data; name=\"model\"\r\n\r\nother\r\n--xYz--";
    for form in [&twice[..], b"--xYz--", b"not a form"] {
        assert_eq!(served.post_form("/v1/audio/transcriptions", form).await.status, 400);
    }
    let json = served.ask("/v1/images/edits", &json!({"model": "chat"})).await;
    assert_eq!(json.status, 400);
}

#[tokio::test]
async fn sound_comes_as_it_is_and_one_that_breaks_off_is_not_taken_for_complete() {
    let served = Served::start().await;
    let body = json!({"model": "chat", "input": "four words to say", "voice": "alloy"});
    let answer = served.ask("/v1/audio/speech", &body).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "audio/mpeg"));
    assert_eq!(answer.bytes().await.unwrap(), SOUND);
    let body = json!({"model": "cut", "input": "x", "voice": "alloy"});
    let answer = served.ask("/v1/audio/speech", &body).await;
    assert_eq!(answer.status, 200);
    assert!(answer.bytes().await.is_err(), "the connection breaks");
    let usage = served.cloud.usage_of(2).await;
    assert!(usage.iter().any(|event| event["error_class"] == "stream_aborted"), "{usage:?}");
}

#[tokio::test]
async fn responses_are_translated_for_a_provider_that_has_none() {
    let served = Served::start().await;
    let body = json!({"model": "plain", "instructions": "be brief", "input": "one two"});
    let answer = served.ask("/v1/responses", &body).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json().await.unwrap();
    assert_eq!((&answer["object"], &answer["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(answer["output"][0]["content"][0]["text"], "You said: one two");
    assert_eq!(answer["usage"]["input_tokens"], 4);

    let streamed = json!({"model": "plain", "input": "one two", "stream": true});
    let events = served.ask("/v1/responses", &streamed).await.events().await.unwrap();
    let events: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect();
    assert_eq!(events[0]["type"], "response.created");
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .filter_map(|event| event["delta"].as_str())
        .collect();
    assert_eq!(text, "You said: one two");
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "You said: one two");

    for more in [json!({"previous_response_id": "r"}), json!({"tools": [{"type": "web_search"}]})] {
        let mut body = json!({"model": "plain", "input": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = served.ask("/v1/responses", &body).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json().await.unwrap()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(served.upstream.ledger().len(), 2);
}

#[tokio::test]
async fn requests_are_changed_as_the_provider_key_says() {
    let served = Served::start().await;
    let caller = served.gateway.caller();
    let mut request =
        caller.request("/v1/embeddings", &json!({"model": "plain", "input": "x", "max_tokens": 3}));
    for (name, value) in [("x-trace-a", "1"), ("x-other", "1"), ("cookie", "a=b")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = client::send(caller.address, request).await.unwrap();
    assert_eq!(answer.status, 200);
    let [seen] = served.upstream.ledger().try_into().unwrap();
    assert_eq!(seen.fields, ["input", "max_new_tokens", "model", "safe"]);
    let has = |name: &str| seen.headers.iter().any(|other| other == name);
    assert!(has("x-trace-a") && has("x-team"), "{:?}", seen.headers);
    assert!(!has("x-other") && !has("cookie") && !has("x-none"), "{:?}", seen.headers);
}

#[tokio::test]
async fn what_is_not_served_yet_and_what_is_wrong_is_told_apart() {
    let served = Served::start().await;
    for path in ["/v1/videos", "/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/mcp", "/a2a/x"]
    {
        let answer = served.ask(path, &json!({})).await;
        assert_eq!(answer.status, 501, "{path}");
        assert_eq!(answer.json().await.unwrap()["error"]["type"], "not_implemented");
    }
    for path in ["/v1/embeddings", "/v1/responses", "/v1/audio/speech"] {
        let answer = client::fetch(served.gateway.proxy(), path).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
        assert_eq!(served.ask(path, &json!({"model": "chat"})).await.status, 400, "{path}");
    }
    let gone = served.ask("/passthrough/openai/v1/models", &json!({})).await;
    assert_eq!(gone.status, 410);
    assert_eq!(gone.json().await.unwrap()["error"]["code"], "endpoint_removed");
    assert_eq!(served.ask("/v1/nothing", &json!({})).await.status, 404);
}
