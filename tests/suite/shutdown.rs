//! SIGTERM: nothing that runs is cut off, nothing that was used is forgotten, and the status is 0.

use std::time::{Duration, Instant};

use harness::{World, client, wait};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn with_nothing_in_flight_the_end_comes_at_once_with_status_0() {
    let mut world = World::start().await;
    let workers = world.gateway.workers();
    let start = Instant::now();
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
    println!("ended within {:?}", start.elapsed());
    assert!(workers.len() > 2);
    assert!(workers.iter().all(|worker| !worker.runs()), "no worker is left behind");
}

#[tokio::test]
async fn a_stream_in_flight_is_finished_before_the_end() {
    let mut world =
        World::start_with(|builder| builder.set("/shutdown/min_drain_secs", 2.into())).await;
    let mut stream = world.caller().ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    world.gateway.terminate();
    for path in ["/livez", "/readyz"] {
        let proxy = world.gateway.proxy();
        wait::until(&format!("{path} tells the drain"), async || {
            let answer = client::fetch(proxy, path).await.map_err(|error| error.to_string())?;
            let status = answer.status;
            if status == 503 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
    world.upstream.release();
    let events = stream.events().await.unwrap();
    assert_eq!(events.last().unwrap().data, "[DONE]");
    assert_eq!(world.gateway.end().await.code(), Some(0));
    let usage = world.cloud.usage_of(1).await;
    assert_eq!(
        (&usage[0]["status_code"], &usage[0]["completion_tokens"]),
        (&200.into(), &5.into())
    );
}

#[tokio::test]
async fn sigint_ends_it_in_order_too() {
    let mut world = World::start().await;
    world.gateway.signal(Signal::SIGINT);
    assert_eq!(world.gateway.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_changes_nothing() {
    let mut world = World::start().await;
    let mut stream = world.caller().ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    world.gateway.terminate();
    world.gateway.terminate();
    world.upstream.release();
    assert_eq!(stream.events().await.unwrap().last().unwrap().data, "[DONE]");
    assert_eq!(world.gateway.end().await.code(), Some(0));
}

#[tokio::test]
async fn the_usage_of_the_last_request_is_told_before_the_end() {
    let mut world = World::start().await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
    assert_eq!(world.cloud.usage().await.len(), 1);
}

#[tokio::test]
async fn without_the_cloud_the_end_still_comes() {
    let mut world = World::start().await;
    world.cloud.stop();
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
    assert!(world.gateway.log().contains("usage"), "what was not told is at least logged");
}

#[tokio::test]
async fn who_connects_while_requests_are_finished_is_answered() {
    let mut world = World::start().await;
    let caller = world.caller();
    let mut stream = caller.ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    world.gateway.terminate();
    let proxy = world.gateway.proxy();
    wait::until("/livez tells the end", async || {
        let answer = client::fetch(proxy, "/livez").await.map_err(|error| error.to_string())?;
        let status = answer.status;
        if status == 503 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    // Several, so that every worker has one.
    for _ in 0..8 {
        assert_eq!(caller.ask("small-1", "one two three").await.status, 200);
    }
    world.upstream.release();
    assert_eq!(stream.events().await.unwrap().last().unwrap().data, "[DONE]");
    assert_eq!(world.gateway.end().await.code(), Some(0));
    world.cloud.usage_of(9).await;
}

#[tokio::test]
async fn a_caller_that_sends_half_a_request_or_nothing_does_not_hold_the_end() {
    let mut world = World::start().await;
    let proxy = world.gateway.proxy();
    let mut connections = Vec::new();
    for begun in ["", "GET /liv", "GET /livez HTTP/1.1\r\nhost: g\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        connections.push(stream);
    }
    let start = Instant::now();
    world.gateway.terminate();
    // Forty times what it takes, and still less than the 30 s that half a head may otherwise take to come.
    let ended = tokio::time::timeout(Duration::from_secs(20), world.gateway.end()).await;
    assert_eq!(ended.expect("nobody holds the end").code(), Some(0));
    println!("ended within {:?}", start.elapsed());
    for stream in &mut connections {
        // Closed, with or without an answer before.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}
