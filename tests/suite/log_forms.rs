//! The log in the form of whoever reads it: JSON in a container, the journal under systemd, with who speaks kept apart from
//! what is said.

use harness::journal::{Entry, Journal};
use harness::{Builder, Cloud, Projection, World, upstream, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn objects(log: &str) -> Vec<Value> {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let object = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    whole.lines().map(object).collect()
}

#[tokio::test]
async fn in_a_container_every_line_is_json_with_the_speaker_beside_the_fields() {
    let fits = |gateway: Builder| {
        gateway.set("/observability/log_format", json!("auto")).env("container", "podman")
    };
    let mut world = World::start_with(fits).await;
    let answer = world.caller().ask("small-1", "one two three").await;
    let id = answer.header("x-aisix-request-id").to_owned();
    let line = wait::until("the request is in the log", async || {
        let lines = objects(&world.gateway.log()).into_iter();
        let mut lines = lines.filter(|line| line["message"] == "proxy request completed");
        lines.find(|line| line["fields"]["request_id"] == *id).ok_or("not yet")
    })
    .await;
    let proxies = world.gateway.proxies();
    let worker = proxies.iter().find(|worker| line["worker"] == worker.id.parse::<u32>().unwrap());
    let worker = worker.unwrap_or_else(|| panic!("{line}"));
    assert_eq!(line["pid"], worker.pid.as_raw(), "{line}");
    assert_eq!((&line["role"], &line["level"]), (&json!("proxy"), &json!("INFO")));
    assert_eq!(line["message"], "proxy request completed");
    assert_eq!(line["fields"]["status"], 200, "{line}");
    assert_eq!(line["fields"]["attempts"].as_str().unwrap().split(':').nth(1), Some("200"));
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    // To the last line, and what is said of a worker that is killed.
    worker.kill();
    world.gateway.wait_until_ready().await;
    world.gateway.terminate();
    world.gateway.end().await;
    let lines = objects(&world.gateway.log());
    let says = |words: &str| lines.iter().any(|line| line["message"].to_string().contains(words));
    assert!(says("worker ended") && says("ended in order"), "{lines:#?}");
}

#[tokio::test]
async fn the_form_that_is_configured_is_the_form() {
    let text = World::start_with(|it| it.env("container", "podman")).await;
    assert!(!text.gateway.log().starts_with('{'), "{}", text.gateway.log());
    let json = World::start_with(|it| it.set("/observability/log_format", json!("json"))).await;
    assert!(!objects(&json.gateway.log()).is_empty());
}

#[tokio::test]
async fn under_systemd_the_journal_has_every_line_with_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let Some(journal) = Journal::at(folder.path()) else { return };
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let mut gateway = journal.start(Builder::managed(&cloud)).start().await;
    let answer = gateway.caller().ask("small-1", "one two three").await;
    let id = answer.header("x-aisix-request-id").to_owned();
    let entry = wait::until("the request is in the journal", async || {
        let entries = journal.entries().into_iter();
        let mut entries = entries.filter(|entry| entry["MESSAGE"].contains("request completed"));
        entries.find(|entry| entry.get("F_REQUEST_ID") == Some(&id)).ok_or("not yet")
    })
    .await;
    let proxies = gateway.proxies();
    let worker = proxies.iter().find(|worker| worker.id == entry["AISIX_WORKER"]);
    assert!(worker.is_some_and(|it| it.pid.to_string() == entry["AISIX_PID"]), "{entry:?}");
    for (name, value) in [
        ("SYSLOG_IDENTIFIER", "aisix"),
        ("AISIX_ROLE", "proxy"),
        ("PRIORITY", "6"),
        ("F_STATUS", "200"),
        ("F_PATH", "/v1/chat/completions"),
    ] {
        assert_eq!(entry[name], value, "{entry:?}");
    }
    assert!(entry["MESSAGE"].contains("proxy request completed"), "{entry:?}");
    let mut entries = journal.entries().into_iter();
    let own = entries.find(|entry| entry["AISIX_ROLE"] == "supervisor");
    assert!(own.as_ref().is_some_and(|entry| !entry.contains_key("AISIX_WORKER")), "{own:?}");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.end().await.code(), Some(0));
    wait::until("the last line is in the journal", async || {
        let ended = |entry: &Entry| entry["MESSAGE"].contains("ended in order");
        if journal.entries().iter().any(ended) { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert_eq!(gateway.log(), "", "nothing is written twice");
}

#[tokio::test]
async fn a_journal_that_is_not_there_is_told_of_and_the_log_is_text() {
    let world =
        World::start_with(|it| it.set("/observability/log_format", json!("journald"))).await;
    if std::path::Path::new("/run/systemd/journal/socket").exists() {
        println!("skipped: this machine has a journal");
        return;
    }
    let log = world.gateway.log();
    assert!(log.contains("the journal cannot be reached"), "{log}");
    assert!(log.contains(" INFO supervisor"), "{log}");
}
