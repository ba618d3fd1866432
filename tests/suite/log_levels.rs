//! What is logged, changed while the gateway runs.

use std::fs;
use std::process::Output;

use harness::{Gateway, World, binaries, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

async fn aisix_log(gateway: &Gateway, filter: &[&str]) -> Output {
    let config = gateway.folder().join("config.managed.yaml");
    let mut command = tokio::process::Command::new(binaries::find("aisix").unwrap());
    command.arg("log").args(filter).arg("--config").arg(config);
    command.output().await.expect("aisix runs")
}

fn words(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

async fn one_worker() -> World {
    World::start_with(|gateway| gateway.set("/proxy/workers", json!(1))).await
}

/// Asks, and returns by what the request is known.
async fn ask(world: &World) -> String {
    let answer = world.caller().ask("small-1", "hello").await;
    let id = answer.header("x-aisix-request-id").to_owned();
    answer.bytes().await.unwrap();
    id
}

async fn is_logged(world: &World, what: &str) {
    wait::until(&format!("{what} is in the log"), async || {
        if world.gateway.log().contains(what) { Ok(()) } else { Err("not yet") }
    })
    .await;
}

#[tokio::test]
async fn the_filter_reaches_every_worker_at_once_and_replaces_none() {
    let world = one_worker().await;
    let before = world.gateway.workers();
    assert!(words(&aisix_log(&world.gateway, &[]).await).contains("filter is info"));
    is_logged(&world, &ask(&world).await).await;
    // A request may come before the worker has heard: then once more.
    let silent = wait::until("a request is not logged", async || {
        let told = words(&aisix_log(&world.gateway, &["warn"]).await);
        assert!(told.contains("filter is warn") && told.contains("it was info"), "{told}");
        assert!(told.contains("requests are not logged then"), "{told}");
        let silent = ask(&world).await;
        let told = words(&aisix_log(&world.gateway, &["info"]).await);
        assert!(told.contains("it was warn") && !told.contains("not logged"), "{told}");
        is_logged(&world, "proxy request completed").await;
        let heard = wait::until("a request is logged again", async || {
            let id = ask(&world).await;
            let log = world.gateway.log();
            if log.contains(&id) { Ok(log) } else { Err("not yet") }
        })
        .await;
        if heard.contains(&silent) { Err("it was logged") } else { Ok(silent) }
    })
    .await;
    assert!(!world.gateway.log().contains(&silent));
    assert_eq!(world.gateway.workers(), before, "nobody was replaced");
    // The supervisor as well, and workers to come.
    aisix_log(&world.gateway, &["debug"]).await;
    world.gateway.proxies()[0].kill();
    is_logged(&world, "DEBUG worker::proxy: configuration in force").await;
}

#[tokio::test]
async fn a_filter_for_a_part_leaves_the_rest_as_it_is_configured() {
    let world = one_worker().await;
    let told = words(&aisix_log(&world.gateway, &["supervisor=debug"]).await);
    assert!(told.contains("filter is info,supervisor=debug"), "{told}");
    is_logged(&world, &ask(&world).await).await;
}

#[tokio::test]
async fn a_wrong_filter_is_refused_with_the_reason_and_changes_nothing() {
    let world = one_worker().await;
    for (wrong, reason) in [("debgu", "no level"), ("worker=debgu", "level filter"), ("", "empty")]
    {
        let output = aisix_log(&world.gateway, &[wrong]).await;
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert!(words(&output).contains(reason), "{wrong}: {}", words(&output));
    }
    assert!(words(&aisix_log(&world.gateway, &[]).await).contains("filter is info"));
    is_logged(&world, &ask(&world).await).await;
}

#[tokio::test]
async fn a_reload_puts_what_is_configured_in_force_again() {
    let mut world = one_worker().await;
    aisix_log(&world.gateway, &["debug"]).await;
    let path = world.gateway.folder().join("config.managed.yaml");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    file["observability"]["log_level"] = json!("info,worker::request=warn");
    fs::write(&path, file.to_string()).unwrap();
    world.gateway.signal(Signal::SIGHUP);
    wait::until("the filter is that of the file", async || {
        let told = words(&aisix_log(&world.gateway, &[]).await);
        if told.contains("info,worker::request=warn") { Ok(()) } else { Err(told) }
    })
    .await;
    is_logged(&world, "every worker is replaced").await;
    let id = ask(&world).await;
    assert!(!world.gateway.log().contains(&id));
}
