//! A gateway that was asked for a little of everything: both dialects, streams, errors, limits, the cache, guardrails,
//! fallbacks, tokens, passthrough, callers that leave.

use harness::caller::{chat, chat_stream};
use harness::client::{self, Answer};
use harness::identity::{IdentityProvider, SigningKey};
use harness::provider::KEY;
use harness::{Builder, Cloud, Gateway, Projection, Upstream, projection, wait};
use serde_json::{Value, json};

/// Bytes that a request may have.
const BODY_MAX: usize = 100_000;
/// What callers write wherever they may write: no label may hold it.
pub const FREE_TEXT: &str = "zzfreetextzz";

/// The gateway and what belongs to it.
pub struct Varied {
    _upstream: Upstream,
    _provider: IdentityProvider,
    _cloud: Cloud,
    pub gateway: Gateway,
    token: String,
}

fn with(mut document: Value, more: Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    document
}

async fn resources(upstream: &Upstream, provider: &IdentityProvider) -> Projection {
    let user = json!({"team_id": "t-1", "user_id": "u-1", "user_name": "Ada"});
    let limited = json!({"rate_limit": {"rpd": 1, "rpm": 100, "tpm": 100_000}});
    let subject = json!({"jwt_provider": "corp", "jwt_subject": "alice"});
    let cost = json!({"cost": {"input_per_1k": 1.0, "output_per_1k": 2.0}});
    let claude = json!({"provider": "anthropic", "model_name": "small-1"});
    let group = json!({"display_name": "group", "routing":
        {"targets": [{"model": "status-500"}, {"model": "small-1"}], "retries": 0}});
    let bad_group = json!({"display_name": "bad-group", "routing":
        {"targets": [{"model": "status-503"}, {"model": "status-404"}], "retries": 0}});
    let guardrail = json!({"name": "words", "kind": "keyword", "hook_point": "both",
        "patterns": [{"kind": "literal", "value": "forbidden"}]});
    let attachment = json!({"guardrail_id": "g-1", "priority": 1, "scope_type": "env"});
    let base = format!("http://{}", upstream.address());
    let route = json!({"name": "r-1", "target_url": format!("{base}/mirror"), "credential_mode": "inject",
        "provider_key_id": "pk-1", "path_prefix": "/passthrough/up"});
    let budget = json!({"allow": true, "fail_mode": "open", "budget": {"limit_usd": "50.00", "spent_usd": "1.00",
        "remaining_usd": "49.00", "reset_seconds": 3600}});
    let key = |key: &str, more: Value| with(projection::api_key(key, &["*"]), more);
    Projection::of(upstream)
        .with("provider_keys", "pk-a", projection::anthropic_key(&upstream.api_base(), KEY))
        .with("api_keys", "k-1", key(projection::CALLER_KEY, user))
        .with("api_keys", "k-limited", key("sk-limited", limited))
        .with("api_keys", "k-alice", key("sk-alice", subject))
        .with("api_keys", "k-route", key("sk-route", json!({"allowed_routes": ["r-*"]})))
        .with("oidc_providers", "o-1", provider.document("corp"))
        .with("models", "m-paid", with(projection::model("small-1", "pk-1"), cost))
        .with(
            "models",
            "m-small-1",
            with(projection::model("small-one", "pk-1"), json!({"model_name": "small-1"})),
        )
        .with("models", "m-claude", with(projection::model("claude", "pk-a"), claude))
        .with("models", "m-open", projection::model("open-*", "pk-1"))
        .with("models", "m-group", group)
        .with("models", "m-bad-group", bad_group)
        .with("models", "m-rejected", json!({"display_name": 7}))
        .with(
            "models",
            "m-partial",
            with(projection::model("partial", "pk-1"), json!({"zz_new": 1})),
        )
        .with("guardrails", "g-1", guardrail)
        .with("guardrail_attachments", "a-1", attachment)
        .with("cache_policies", "c-1", json!({"name": "faq"}))
        .with("passthrough_routes", "r-1", route)
        .with("budgets", "k-1", budget)
}

impl Varied {
    /// Starts everything, and asks.
    pub async fn start() -> Self {
        let upstream = harness::upstream().await;
        let key = SigningKey::rsa("first");
        let provider = IdentityProvider::start(&[&key]).await;
        let cloud = Cloud::start(&resources(&upstream, &provider).await).await;
        let gateway = Builder::managed(&cloud)
            .env("AISIX_UPSTREAM__RETRIES", "0")
            .set("/proxy/request_body_limit_bytes", json!(BODY_MAX))
            .start()
            .await;
        let token = key.sign(&provider.claims("alice"));
        let varied =
            Self { _upstream: upstream, _provider: provider, _cloud: cloud, gateway, token };
        varied.ask().await;
        varied
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> u16 {
        let mut request = self.gateway.caller_with(key).request(path, body);
        let free = FREE_TEXT.parse().unwrap();
        request.headers_mut().insert("user-agent", free);
        request.headers_mut().insert("x-user", FREE_TEXT.parse().unwrap());
        let answer = client::send(self.gateway.proxy(), request).await.expect("an answer");
        finished(answer).await
    }

    async fn ask(&self) {
        let key = projection::CALLER_KEY;
        let say = |model: &str, text: &str| with(chat(model, text), json!({"user": FREE_TEXT}));
        let messages = |model: &str| {
            with(
                say(model, "hello there"),
                json!({"max_tokens": 5, "metadata": {"user_id": FREE_TEXT}}),
            )
        };
        let (chat_path, messages_path) = ("/v1/chat/completions", "/v1/messages");
        for _ in 0..2 {
            assert_eq!(self.post(chat_path, key, &say("small-1", "hello")).await, 200);
        }
        let stream = chat_stream("small-1", "one two");
        assert_eq!(self.post(chat_path, key, &stream).await, 200);
        assert_eq!(self.post(messages_path, key, &messages("claude")).await, 200);
        let stream = with(messages("small-1"), json!({"stream": true}));
        assert_eq!(self.post(messages_path, key, &stream).await, 200);
        for model in ["open-small-1".to_owned(), format!("open-{FREE_TEXT}")] {
            self.post(chat_path, key, &say(&model, "x")).await;
        }
        assert_eq!(self.post(chat_path, key, &say(FREE_TEXT, "x")).await, 404);
        assert_eq!(self.post(chat_path, FREE_TEXT, &say("small-1", "x")).await, 401);
        self.post(&format!("/v1/{FREE_TEXT}"), key, &say("small-1", "x")).await;
        self.post(&format!("/v1/files/{FREE_TEXT}"), key, &say("small-1", "x")).await;
        assert_eq!(self.post(chat_path, key, &say("small-1", "forbidden")).await, 422);
        let long = "x".repeat(BODY_MAX);
        assert_eq!(self.post(chat_path, key, &say("small-1", &long)).await, 413);
        assert_eq!(self.post(chat_path, key, &say("group", "for the group")).await, 200);
        self.post(chat_path, key, &say("bad-group", "for the other")).await;
        self.post(chat_path, "sk-limited", &say("small-one", "first")).await;
        assert_eq!(self.post(chat_path, "sk-limited", &say("small-one", "next")).await, 429);
        self.post("/passthrough/up/a", "sk-route", &json!({})).await;
        wait::until("the token is taken", async || {
            match self.post(chat_path, &self.token, &say("small-1", "by token")).await {
                200 => Ok(()),
                status => Err(status),
            }
        })
        .await;
        let mut held = self.gateway.caller().ask_stream("hold", "one two three").await;
        held.next_event().await.unwrap();
        drop(held);
        wait::until("the caller that left is counted", async || {
            let metrics = self.gateway.metrics().await;
            let left = metrics.sum("aisix_proxy_client_cancelled_requests_total", &[]);
            let budgets = metrics.sum("aisix_budget_limit_usd", &[]);
            let usage = metrics.sum("aisix_usage_accepted_total", &[]);
            if left > 0.0 && budgets > 0.0 && usage > 0.0 {
                Ok(())
            } else {
                Err(format!("left {left}, budgets {budgets}, usage {usage}"))
            }
        })
        .await;
    }

    /// The metrics as text.
    pub async fn text(&self) -> String {
        let answer = client::fetch(self.gateway.status(), "/metrics").await.unwrap();
        answer.text().await.unwrap()
    }
}

async fn finished(answer: Answer) -> u16 {
    let status = answer.status.as_u16();
    answer.bytes().await.unwrap();
    status
}
