//! Caller keys that may not spend more.

use serde_json::json as value;
use shared::budget::{Denial, Verdict};
use shared::resource::{Cost, Model, ModelKind, Resource};
use shared::worker_settings::ProxySettings;

use super::gateway::{Gateway, model, request, test_settings};
use super::run;
use super::upstream::{Upstream, json};

const KEY: (&str, &str) = ("authorization", "Bearer sk-demo");

async fn gateway() -> Gateway {
    let unknown = Some(Verdict::Deny(Box::new(Denial::because("nothing known"))));
    let settings = ProxySettings { budget_unknown: unknown, ..test_settings() };
    Gateway::start(settings, "127.0.0.1:1".parse().unwrap()).await
}

fn published() -> Denial {
    let text = |text: &str| Some(text.to_owned());
    Denial {
        message: "team budget 'research' exceeded ($50.00/month).".to_owned(),
        scope: text("team"),
        scope_ref: text("t-42"),
        limit_usd: text("50.00"),
        spent_usd: text("50.17"),
        period: text("month"),
        period_resets_at: text("2026-10-01T00:00:00Z"),
        retry_after_seconds: Some(3600),
    }
}

#[test]
fn a_denial_is_told_as_published_in_both_dialects_and_leaves_usage() {
    run(async {
        let gateway = gateway().await;
        let verdict = Verdict::Deny(Box::new(published()));
        gateway.proxy.budgets.take_in(false, vec![("k-1".to_owned(), verdict)]);
        let told = gateway.chat(value!({})).await;
        let expected = concat!(
            r#"{"error":{"message":"team budget 'research' exceeded ($50.00/month).","type":"billing_error","#,
            r#""code":"budget_exceeded","scope":"team","scope_ref":"t-42","limit_usd":"50.00","spent_usd":"50.17","#,
            r#""period":"month","period_resets_at":"2026-10-01T00:00:00Z","retry_after_seconds":3600}}"#,
        );
        assert_eq!((told.status.as_u16(), told.body.as_str()), (429, expected));
        assert_eq!(told.header("retry-after"), "3600");
        let body = r#"{"model":"chat","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
        let messages = request("POST", "/v1/messages", &[KEY], body);
        let told = gateway.caller().await.ask(messages).await;
        let expected = r#"{"type":"error","error":{"type":"rate_limit_error","message":"team budget 'research' exceeded ($50.00/month)."}}"#;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (429, expected));
        assert_eq!(told.header("retry-after"), "3600");
        let usage = gateway.usage();
        assert_eq!(usage.len(), 2);
        for event in usage {
            assert_eq!((event.status_code, event.error_class.as_str()), (429, "billing_error"));
            assert_eq!(event.api_key_id, "k-1");
        }
    });
}

#[test]
fn what_the_cloud_did_not_say_is_left_out() {
    run(async {
        let gateway = gateway().await;
        let verdict = Verdict::Deny(Box::new(Denial::because("no more")));
        gateway.proxy.budgets.take_in(false, vec![("k-1".to_owned(), verdict)]);
        let told = gateway.chat(value!({})).await;
        assert_eq!(
            told.body,
            r#"{"error":{"message":"no more","type":"billing_error","code":"budget_exceeded"}}"#
        );
        assert_eq!(told.header("retry-after"), "");
    });
}

#[test]
fn budgets_count_only_where_quota_is_consumed_and_after_every_other_refusal() {
    run(async {
        let gateway = gateway().await;
        let verdict = Verdict::Deny(Box::new(Denial::because("no more")));
        gateway.proxy.budgets.take_in(false, vec![("k-1".to_owned(), verdict)]);
        for (method, path, status) in [
            ("GET", "/v1/models", 200),
            ("GET", "/livez", 200),
            ("POST", "/mcp", 501),
            ("GET", "/a2a/x/.well-known/agent-card.json", 501),
            ("POST", "/v1/embeddings", 400),
            ("POST", "/v1/files", 429),
            ("POST", "/a2a/x", 429),
            ("POST", "/v1/messages/count_tokens", 400),
        ] {
            let told = gateway.caller().await.ask(request(method, path, &[KEY], "{}")).await;
            assert_eq!(told.status.as_u16(), status, "{path}");
        }
        assert_eq!(gateway.chat(value!({"model": "none"})).await.status.as_u16(), 404);
        assert_eq!(gateway.chat(value!({"messages": []})).await.status.as_u16(), 400);
        assert_eq!(gateway.chat(value!({})).await.status.as_u16(), 429);
    });
}

#[test]
fn an_undecided_key_is_decided_as_configured_and_without_a_cloud_nobody_asks() {
    run(async {
        let told = gateway().await.chat(value!({})).await;
        assert_eq!(told.status.as_u16(), 429);
        assert_eq!(told.json()["error"]["message"], "nothing known");
        let without = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        assert_eq!(without.chat(value!({})).await.status.as_u16(), 502);
    });
}

#[test]
fn a_model_with_a_cost_is_its_price_in_usage() {
    let cost = Cost { input_per_1k: 2.0, output_per_1k: 10.0 };
    assert_eq!(cost.of(500, 100), 2.0);
    let mut priced: Model = model("m-1", "chat", "pk-1");
    if let ModelKind::Direct(direct) = &mut priced.kind {
        direct.cost = Some(cost);
    }
    run(async {
        const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}"#;
        let upstream = Upstream::start([json("200 OK", ANSWER)]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        gateway.put(Resource::Model(priced));
        assert_eq!(gateway.chat(value!({})).await.status.as_u16(), 200);
        assert_eq!(gateway.usage()[0].cost_usd, 0.092);
        assert_eq!(gateway.chat(value!({"model": "none"})).await.status.as_u16(), 404);
        assert_eq!(gateway.usage()[1].cost_usd, 0.0, "no upstream was asked");
    });
}
