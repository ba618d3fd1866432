//! Settings of the configuration file that reach the workers.

use std::fs;

use harness::authority::Authority;
use harness::{Connection, World, wait};

#[tokio::test]
async fn a_file_of_trusted_issuers_may_be_larger_than_a_message_to_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::default();
    let pem = fs::read_to_string(authority.certificate()).unwrap();
    let path = folder.path().join("issuers.pem");
    fs::write(&path, pem.repeat(256 * 1024 / pem.len() + 1)).unwrap();
    let ca_file = path.to_str().unwrap().into();
    let world = World::start_with(|builder| builder.set("/upstream/tls/ca_file", ca_file)).await;
    assert_eq!(world.caller().ask("small-1", "one two three").await.status, 200);
}

#[tokio::test]
async fn a_connection_that_was_accepted_before_the_end_gets_its_answer_from_a_new_upstream_connection()
 {
    let mut world = World::start().await;
    // Accepted, but silent, when the signal comes.
    let mut fresh = Connection::open(world.gateway.proxy()).await.unwrap();
    wait::until("a worker holds the connection", async || {
        let held = world.gateway.proxies().iter().any(|worker| worker.holds(&fresh));
        if held { Ok(()) } else { Err("nobody does") }
    })
    .await;
    world.gateway.terminate();
    let caller = world.caller();
    let body = harness::caller::chat("small-1", "one two three");
    let answer = caller.chat_over(&mut fresh, &body).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(world.gateway.end().await.code(), Some(0));
}
