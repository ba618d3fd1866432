//! The log of a gateway: one place, every process under its own name, no secret in it.

use harness::{World, wait};

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
