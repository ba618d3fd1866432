//! The log of a gateway: one place, every process under its own name, no secret in it.

use futures_util::{StreamExt, stream};
use harness::caller::chat;
use harness::{Builder, Cloud, Projection, World, client, projection, wait};
use serde_json::json;

#[tokio::test]
async fn every_request_leaves_one_line_under_the_name_of_its_worker() {
    let world = World::start().await;
    let answer = world.caller().ask("small-1", "one two three").await;
    let id = answer.header("x-aisix-request-id").to_owned();
    let line = wait::until("the access log has the request", async || {
        let log = world.gateway.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("proxy request completed") && line.contains(&id));
        match (lines.next(), lines.next()) {
            (Some(line), None) => Ok(line.to_owned()),
            (None, _) => Err("not there".to_owned()),
            (Some(_), Some(_)) => Err("more than once".to_owned()),
        }
    })
    .await;
    assert!(line.starts_with("proxy["), "{line}");
    for field in ["status=200", "path=\"/v1/chat/completions\"", "model=\"small-1\""] {
        assert!(line.contains(field), "{field} in {line}");
    }
}

#[tokio::test]
async fn the_log_holds_neither_a_callers_key_nor_a_providers() {
    let world = World::start_with(|gateway| gateway.env("RUST_LOG", "trace")).await;
    let caller = world.caller();
    caller.ask("small-1", "one two three").await;
    world.gateway.caller_with("sk-nobodys-key").ask("small-1", "one two three").await;
    wait::until("both requests are in the log", async || {
        let log = world.gateway.log();
        match log.matches("proxy request completed").count() {
            2 => Ok(()),
            count => Err(format!("{count} of 2")),
        }
    })
    .await;
    let log = world.gateway.log();
    for secret in [caller.key.as_str(), "sk-nobodys-key", harness::provider::KEY] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(!log.contains("PRIVATE KEY"), "a private key is in the log");
}

/// A model that does not answer, and a group that goes on to one that does.
fn with_a_group(upstream: &harness::Upstream) -> Projection {
    let group = json!({
        "display_name": "g",
        "routing": {"targets": [{"model": "status-500"}, {"model": "small-1"}], "retries": 1},
    });
    // It is tried again and again.
    let mut failing = projection::model("status-500", "pk-1");
    failing["cooldown"] = json!({"trigger_statuses": [418]});
    let projection = Projection::of(upstream).with("models", "m-status-500", failing);
    projection.with("models", "m-g", group)
}

#[tokio::test]
async fn the_line_of_a_request_lists_its_attempts_in_order() {
    let upstream = harness::upstream().await;
    let cloud = Cloud::start(&with_a_group(&upstream)).await;
    let gateway = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0").start().await;
    let mut request = gateway.caller().request("/v1/chat/completions", &chat("g", "one two"));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.headers_mut().insert("traceparent", trace.parse().unwrap());
    let answer = client::send(gateway.proxy(), request).await.unwrap();
    assert_eq!(answer.status, 200);
    let id = answer.header("x-aisix-request-id").to_owned();
    answer.bytes().await.unwrap();
    let line = wait::until("the request is in the log", async || {
        let log = gateway.log();
        let mut lines = log.lines().filter(|line| line.contains("proxy request completed"));
        lines.find(|line| line.contains(&id)).map(str::to_owned).ok_or("not yet")
    })
    .await;
    let attempts = line.split_whitespace().find_map(|word| word.strip_prefix("attempts="));
    let attempts: Vec<_> = attempts.unwrap().trim_matches('"').split(',').collect();
    let starts = ["status-500@openai:500:", "status-500@openai:500:", "small-1@openai:200:"];
    assert_eq!(attempts.len(), starts.len(), "{line}");
    for (attempt, start) in attempts.iter().zip(starts) {
        assert!(attempt.starts_with(start) && attempt.ends_with("ms"), "{line}");
    }
    for field in ["trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"", "client_ip=127.0.0.1", "cache="]
    {
        assert!(line.contains(field), "{field} in {line}");
    }
}

#[tokio::test]
async fn thousands_of_failing_attempts_are_a_handful_of_lines() {
    const REQUESTS: usize = 1_500;
    let upstream = harness::upstream().await;
    let cloud = Cloud::start(&with_a_group(&upstream)).await;
    let gateway = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0").start().await;
    let caller = gateway.caller();
    let ask = |_| async {
        let answer = caller.ask("g", "hello").await;
        assert_eq!(answer.status, 200);
        answer.bytes().await.unwrap();
    };
    stream::iter(0..REQUESTS).for_each_concurrent(16, ask).await;
    let failed = upstream.ledger().iter().filter(|it| it.model == "status-500").count();
    wait::until("every request is in the log", async || {
        let log = gateway.log();
        let count = log.matches("proxy request completed").count();
        if count == REQUESTS { Ok(()) } else { Err(count) }
    })
    .await;
    let log = gateway.log();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(failed >= 2 * REQUESTS, "{failed}");
    println!("{failed} attempts failed, {} lines tell of it", lines.len());
    // Two workers; each tells of a failure and of a cooldown, and again after a minute.
    assert!((1..=16).contains(&lines.len()), "{lines:#?}");
}
