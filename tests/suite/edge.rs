//! Bytes that no client library sends: each is refused, within a limit, and without harm to anybody else.

use harness::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str = r#"{"model":"small-1","messages":[{"role":"user","content":"hi"}]}"#;

/// What comes back over a connection until it ends, or until the answer's head if it does not.
async fn told(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.gateway.proxy()).await.unwrap();
    // A refusal may come before everything is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..count]);
        if count == 0 || answer.windows(4).any(|window| window == b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-api-key: sk-demo\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
    )
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused_and_its_connection_ends() {
    let world = World::start().await;
    let length = BODY.len();
    let chunked = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    let both = format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n");
    let other = format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n");
    for (headers, body) in [
        (both.as_str(), chunked.as_str()),
        (&other, &chunked),
        (&format!("content-length: {length}\r\ncontent-length: {length}\r\n"), BODY),
        (&format!("content-length: {length}\r\ncontent-length: 3\r\n"), BODY),
        (&format!("content-length: {length}, {length}\r\n"), BODY),
        (&format!("content-length: +{length}\r\n"), BODY),
        ("content-length: -1\r\n", BODY),
        ("transfer-encoding: gzip\r\n", BODY),
        ("transfer-encoding: chunked, identity\r\n", &chunked),
    ] {
        let smuggled = "GET /livez HTTP/1.1\r\nhost: g\r\n\r\n";
        let mut stream = TcpStream::connect(world.gateway.proxy()).await.unwrap();
        stream.write_all(format!("{}{smuggled}", post(headers, body)).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It ends: nothing behind the request is served.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(status(&answer), "400", "{headers}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{headers}: {answer}");
    }
    assert!(world.upstream.ledger().is_empty());
    // The same requests with one length are fine.
    let fine = told(&world, post("transfer-encoding: chunked\r\n", &chunked).as_bytes()).await;
    assert_eq!(status(&fine), "200", "{fine}");
    let fine = told(&world, post(&format!("content-length: {length}\r\n"), BODY).as_bytes()).await;
    assert_eq!(status(&fine), "200", "{fine}");
}

#[tokio::test]
async fn heads_that_are_too_large_or_no_heads_are_refused() {
    let world = World::start().await;
    let large = format!("x-large: {}\r\n", "a".repeat(100_000));
    let many = "x: 1\r\n".repeat(1000);
    for (bytes, expected) in [
        (post(&large, "").into_bytes(), "431"),
        (post(&many, "").into_bytes(), "431"),
        (b"GET / HTTP/1.1\r\nhost: g\r\nx-bad: a\x00b\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\nhost: g\r\nbad name: a\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\nhost: g\r\n folded: a\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\nhost: g\r\nname : a\r\n\r\n".to_vec(), "400"),
        (b"GET / nonsense\r\n\r\n".to_vec(), "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no clear text\r\n\r\n".to_vec(), "400"),
        (format!("GET /{} HTTP/1.1\r\nhost: g\r\n\r\n", "a".repeat(70_000)).into_bytes(), "4"),
    ] {
        let answer = told(&world, &bytes).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(status(&answer).starts_with(expected), "{shown:?}: {answer}");
    }
    assert_eq!(world.caller().ask("small-1", "hi").await.status, 200);
}

#[tokio::test]
async fn a_caller_who_says_nothing_or_half_of_it_keeps_nobody_else_waiting() {
    let world = World::start().await;
    let mut silent = Vec::new();
    for index in 0..300 {
        let mut stream = TcpStream::connect(world.gateway.proxy()).await.unwrap();
        let begun = match index % 3 {
            0 => String::new(),
            1 => "POST /v1/chat/completions HTTP/1.1\r\nhost".to_owned(),
            _ => post("content-length: 1000\r\n", "{\"model\":"),
        };
        stream.write_all(begun.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(world.caller().ask("small-1", "hi").await.status, 200);
    }
    drop(silent);
    assert_eq!(world.caller().ask("small-1", "hi").await.status, 200);
}

#[tokio::test]
async fn a_callers_text_ends_up_in_no_header_of_an_answer() {
    let world = World::start().await;
    for id in ["a\tb", "a b", "\u{e9}", "%0d%0ax: 1"] {
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: g\r\nx-api-key: sk-demo\r\nx-aisix-request-id: {id}\r\n\r\n"
        );
        let answer = told(&world, head.as_bytes()).await;
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        assert_eq!(status(head), "200");
        assert!(!head.contains("\r\nx: 1"), "{head}");
        let plain = id.bytes().all(|byte| byte.is_ascii_graphic());
        assert_eq!(head.contains(id), plain, "{head}");
    }
}
