//! More callers at once than begin in one round.

use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::gateway::{Gateway, test_settings};
use super::upstream::{Upstream, json};
use super::{run, until};

const MANY: usize = 200;
/// Of how many callers one has a head that does not come in one piece.
const LONG_OF: usize = 10;
/// Callers that do not go: the others are at the end of the line.
const STAY: usize = 160;

struct Crowd {
    upstream: Upstream,
    gateway: Gateway,
    callers: Vec<TcpStream>,
}

impl Crowd {
    /// Callers with a connection each.
    async fn gather() -> Self {
        let upstream = Upstream::start(vec![json("200 OK", "{}"); 2 * MANY]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut callers = Vec::new();
        for _ in 0..MANY {
            callers.push(TcpStream::connect(gateway.address).await.unwrap());
        }
        Self { upstream, gateway, callers }
    }

    /// All ask, and many of them wait for their turn.
    async fn ask(&mut self) {
        self.send();
        until(|| self.gateway.proxy.entrance.is_crowded()).await;
    }

    /// All ask. Nobody is heard before this thread pauses.
    fn send(&mut self) {
        for (number, caller) in self.callers.iter_mut().enumerate() {
            let body = r#"{"model":"chat","messages":[{"role":"user","content":"hi"}]}"#;
            let long = if number % LONG_OF == 0 { 5_000 } else { 10 };
            let request = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer sk-demo\r\nx-long: {}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                "x".repeat(long),
                body.len()
            );
            assert_eq!(caller.try_write(request.as_bytes()).unwrap(), request.len());
        }
    }
}

/// The head of the answer to one request.
async fn answer(caller: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n{}") {
        assert_ne!(caller.read_buf(&mut bytes).await.unwrap(), 0);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn everybody_is_served_over_the_same_connection_again_also_whose_head_is_long() {
    run(async {
        let mut crowd = Crowd::gather().await;
        for turn in 1..=2 {
            crowd.ask().await;
            for caller in &mut crowd.callers {
                assert!(answer(caller).await.starts_with("HTTP/1.1 200 OK\r\n"));
            }
            assert_eq!(crowd.gateway.usage().len(), turn * MANY);
        }
    });
}

#[test]
fn who_waits_has_only_its_connection() {
    run(async {
        let mut crowd = Crowd::gather().await;
        let holders = || Rc::strong_count(&crowd.gateway.proxy);
        until(|| holders() > MANY).await;
        let waiting = holders();
        crowd.ask().await;
        // Whoever is in use holds the proxy at least once more, some several times: they would be more than one each.
        let in_use = Rc::strong_count(&crowd.gateway.proxy) - waiting;
        assert!(in_use < MANY, "{in_use}");
    });
}

#[test]
fn who_has_gone_when_its_turn_comes_is_not_served() {
    run(async {
        let mut crowd = Crowd::gather().await;
        crowd.ask().await;
        drop(crowd.callers.split_off(STAY));
        for caller in &mut crowd.callers {
            answer(caller).await;
        }
        crowd.gateway.stop.notify_one();
        until(|| Rc::strong_count(&crowd.gateway.proxy) == 1).await;
        // Not even begun: that would be an event of usage.
        assert_eq!((crowd.upstream.heard().len(), crowd.gateway.usage().len()), (STAY, STAY));
    });
}

#[test]
fn who_waits_when_the_server_stops_is_served_as_the_last() {
    run(async {
        let mut crowd = Crowd::gather().await;
        crowd.ask().await;
        crowd.gateway.stop.notify_one();
        for caller in &mut crowd.callers {
            let head = answer(caller).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert_eq!(caller.read(&mut [0]).await.unwrap(), 0, "the connection ends");
        }
        crowd.gateway.serving.await.unwrap();
        assert_eq!(crowd.upstream.heard().len(), MANY);
    });
}

#[test]
fn health_is_told_to_who_asks_behind_all_others() {
    run(async {
        let mut crowd = Crowd::gather().await;
        let mut probe = TcpStream::connect(crowd.gateway.address).await.unwrap();
        crowd.ask().await;
        probe
            .write_all(b"GET /livez HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut told = String::new();
        probe.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("ok"), "{told}");
        assert!(crowd.upstream.heard().len() < MANY, "not after everybody else");
    });
}

#[test]
fn what_was_sent_as_a_body_is_never_read_as_a_request_also_where_connections_rest_at_once() {
    const LENGTH: usize = 60_000;
    let smuggled = "GET /livez HTTP/1.1\r\nhost: g\r\n\r\n";
    for (fields, comes_at_once) in [
        ("content-length: 60000", true),
        ("content-length: 60000\r\nexpect: 100-continue", false),
        ("content-length: 60000\r\nexpect: 100-continue\r\ntransfer-encoding: chunked", false),
        ("content-length: 60000\r\nconnection: close", true),
    ] {
        let body: Vec<u8> = smuggled.bytes().cycle().take(LENGTH).collect();
        run(async move {
            let mut crowd = Crowd::gather().await;
            let mut probe = TcpStream::connect(crowd.gateway.address).await.unwrap();
            crowd.send();
            let head = format!("GET /livez HTTP/1.1\r\nhost: g\r\n{fields}\r\n\r\n");
            assert_eq!(probe.try_write(head.as_bytes()).unwrap(), head.len());
            if comes_at_once {
                assert!(probe.try_write(&body).unwrap() > 0);
            }
            let mut told = Vec::new();
            while !told.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(probe.read_buf(&mut told).await.unwrap(), 0);
            }
            if !comes_at_once {
                // It may be closed already.
                let _ = probe.write_all(&body).await;
            }
            // Whether it ends in order or with a reset, now or before: nothing more is answered.
            let _ = probe.shutdown().await;
            let _ = probe.read_to_end(&mut told).await;
            let told = String::from_utf8(told).unwrap();
            assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{fields}: {told}");
        });
    }
}
