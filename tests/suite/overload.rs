//! More requests than a worker can hold or begin at once: the rest is told to come back, and nothing is lost of what is served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use harness::caller::{chat, chat_stream};
use harness::exposition::Exposition;
use harness::projection::CALLER_KEY;
use harness::worker::Worker;
use harness::{Builder, Connection, World, client, wait};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// What a worker needs beside connections (`OTHER_FILES` in `worker/src/server/mod.rs`); of the rest, half is for callers.
const OTHER_FILES: usize = 256;

/// One worker, in a gateway that may have so many files open.
fn with_files(builder: Builder, files: usize) -> Builder {
    let limited = format!("ulimit -n {files}; exec \"$@\"");
    builder.set("/proxy/workers", json!(1)).started_by(&["sh", "-c", &limited, "sh"])
}

/// Many requests at once over one connection.
struct Multiplexed {
    base: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Multiplexed {
    async fn open(world: &World) -> Self {
        let address = world.gateway.proxy();
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        Self { base: format!("http://{address}"), sender }
    }

    async fn ask(&mut self, method: Method, path: &str, body: &str) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {CALLER_KEY}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        wait::within("an answer", self.sender.send_request(request)).await.unwrap()
    }
}

fn asks_to_come_back(retry_after: &str) {
    assert!(matches!(retry_after.parse(), Ok(3..=25)), "{retry_after}");
}

async fn is_refused(answer: Response<Incoming>) -> Value {
    assert_eq!(answer.status(), 503);
    asks_to_come_back(answer.headers()["retry-after"].to_str().unwrap());
    assert!(answer.headers().contains_key("x-aisix-request-id"));
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn what_a_worker_cannot_hold_is_told_to_come_back_and_what_it_holds_is_served_and_counted() {
    const HELD: usize = 40;
    let world = World::start_with(|it| with_files(it, OTHER_FILES + 2 * HELD)).await;
    let mut caller = Multiplexed::open(&world).await;
    let mut held = Vec::new();
    for _ in 0..HELD {
        let body = chat_stream("hold", "hello").to_string();
        let answer = caller.ask(Method::POST, "/v1/chat/completions", &body).await;
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    let body = chat("small-1", "hello").to_string();
    let told = is_refused(caller.ask(Method::POST, "/v1/chat/completions", &body).await).await;
    assert_eq!(told["error"]["type"], "overloaded", "{told}");
    let told = is_refused(caller.ask(Method::POST, "/v1/messages", &body).await).await;
    assert_eq!(
        (&told["type"], &told["error"]["type"]),
        (&json!("error"), &json!("overloaded_error"))
    );
    is_refused(caller.ask(Method::GET, "/v1/models", "").await).await;
    // A caller with a connection of its own keeps it.
    let mut kept = Connection::open(world.gateway.proxy()).await.unwrap();
    for _ in 0..2 {
        let answer = world.caller().chat_over(&mut kept, &chat("small-1", "hello")).await.unwrap();
        assert_eq!(answer.status, 503);
        answer.bytes().await.unwrap();
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(caller.ask(Method::GET, path, "").await.status(), 200, "{path}");
        assert_eq!(client::fetch(world.gateway.proxy(), path).await.unwrap().status, 200);
    }
    wait::until("the refused are counted", async || {
        let metrics = world.gateway.metrics().await;
        let refused = metrics.sum("aisix_proxy_overload_rejections_total", &[]);
        let answered = metrics.sum("aisix_proxy_requests_total", &[("status", "503")]);
        if (refused, answered) == (5.0, 5.0) {
            Ok(())
        } else {
            Err(format!("{refused} {answered}"))
        }
    })
    .await;
    let log = world.gateway.log();
    assert_eq!(log.matches("more requests come than this worker can serve").count(), 1, "{log}");

    world.upstream.release();
    for answer in held {
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b"data: [DONE]\n\n"));
    }
    let answer = world.caller().chat_over(&mut kept, &chat("small-1", "hello")).await.unwrap();
    assert_eq!(answer.status, 200);
    answer.bytes().await.unwrap();
    // Those that were refused are no usage.
    let events = world.cloud.usage_of(HELD + 1).await;
    assert_eq!(events.len(), HELD + 1);
    assert!(events.iter().all(|event| event["status_code"] == 200));
    assert_eq!(world.cloud.usage_repeats().await, 0);
}

/// Asks over a connection of its own, and returns as soon as the kernel has the request.
async fn asked(world: &World, body: &Value) -> TcpStream {
    let (body, address) = (body.to_string(), world.gateway.proxy());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {CALLER_KEY}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    wait::within("the whole answer", stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn requests_that_have_piled_up_are_all_served_with_the_first_come_first() {
    const PILED_UP: usize = 200;
    let world = World::start_with(|builder| builder.set("/proxy/workers", json!(1))).await;
    let worker = world.gateway.proxies().pop().unwrap();
    kill(worker.pid, Signal::SIGSTOP).unwrap();
    let mut streams = Vec::new();
    for _ in 0..PILED_UP {
        streams.push(asked(&world, &chat("small-1", "hello")).await);
    }
    kill(worker.pid, Signal::SIGCONT).unwrap();
    for stream in streams {
        let text = answer(stream).await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    }
    assert!(worker.runs());
    assert_eq!(world.cloud.usage_of(PILED_UP).await.len(), PILED_UP);
    assert_eq!(world.cloud.usage_repeats().await, 0);
}

#[tokio::test]
async fn many_idle_connections_and_many_streams_are_there_at_once_on_one_worker() {
    const IDLE: usize = 200;
    const STREAMS: usize = 100;
    let world = World::start_with(|builder| builder.set("/proxy/workers", json!(1))).await;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut connection = Connection::open(world.gateway.proxy()).await.unwrap();
        let listed = world.caller().models_over(&mut connection).await.unwrap();
        assert_eq!(listed.status, 200);
        listed.bytes().await.unwrap();
        idle.push(connection);
    }
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(asked(&world, &chat_stream("hold", "hello")).await);
    }
    wait::until("all streams have begun", async || {
        let in_flight = world.gateway.metrics().await.sum("aisix_proxy_in_flight_requests", &[]);
        if in_flight == STREAMS as f64 { Ok(()) } else { Err(format!("{in_flight} are in flight")) }
    })
    .await;
    world.upstream.release();
    for stream in streams {
        let text = answer(stream).await;
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("[DONE]"), "{text}");
    }
    for mut connection in idle {
        let listed = world.caller().models_over(&mut connection).await.unwrap();
        assert_eq!(listed.status, 200);
        listed.bytes().await.unwrap();
    }
    assert_eq!(world.cloud.usage_of(STREAMS).await.len(), STREAMS);
}

#[tokio::test]
async fn connections_that_no_other_worker_has_time_for_are_taken_by_the_one_that_has_more_already()
{
    const CALLERS: usize = 64;
    let world = World::start().await;
    let stopped = world.gateway.proxies().pop().unwrap();
    kill(stopped.pid, Signal::SIGSTOP).unwrap();
    let (caller, mut kept) = (world.caller(), Vec::new());
    for _ in 0..CALLERS {
        let mut connection = Connection::open(world.gateway.proxy()).await.unwrap();
        let listed = caller.models_over(&mut connection);
        let listed = wait::within("an answer", listed).await.unwrap();
        assert_eq!(listed.status, 200);
        listed.bytes().await.unwrap();
        kept.push(connection);
    }
    kill(stopped.pid, Signal::SIGCONT).unwrap();
}

/// Reads one answer: its status, and when to ask again.
async fn one_answer(stream: &mut TcpStream) -> (u16, Option<String>) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let size = stream.read(&mut buffer).await.unwrap();
        assert_ne!(size, 0, "the connection was closed after {text:?}");
        text.push_str(str::from_utf8(&buffer[..size]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let mut found = lines.filter(|(its, _)| its.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.to_owned())
        };
        if header("content-length").unwrap().parse() == Ok(body.len()) {
            return (head[9..12].parse().unwrap(), header("retry-after"));
        }
    }
}

/// Asks again and again over a connection of its own until it is enough; each answer's status is counted.
async fn ask_on(
    address: SocketAddr,
    request: Rc<str>,
    seen: Rc<RefCell<BTreeMap<u16, usize>>>,
    enough: Rc<Cell<bool>>,
    begun: Rc<Cell<usize>>,
) {
    let mut is_first = true;
    let mut stream = TcpStream::connect(address).await.unwrap();
    while !enough.get() {
        stream.write_all(request.as_bytes()).await.unwrap();
        let (status, retry_after) = wait::within("an answer", one_answer(&mut stream)).await;
        if status == 503 {
            asks_to_come_back(&retry_after.unwrap());
        }
        *seen.borrow_mut().entry(status).or_default() += 1;
        if std::mem::take(&mut is_first) {
            begun.set(begun.get() + 1);
        }
    }
}

#[tokio::test]
async fn callers_beyond_what_can_be_served_are_told_to_come_back_as_long_as_there_are_too_many() {
    let world = World::start_with(|builder| builder.set("/proxy/workers", json!(1))).await;
    let address = world.gateway.proxy();
    // Costs the worker much more than whoever asks; and no upstream is asked.
    let message = json!({"role": "user", "content": "hello"});
    let body = json!({"model": "nobody-has-it", "messages": vec![message; 200]}).to_string();
    let request: Rc<str> = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {CALLER_KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into();
    let (seen, enough) = (Rc::new(RefCell::new(BTreeMap::new())), Rc::new(Cell::new(false)));
    let refused = |seen: &BTreeMap<u16, usize>| seen.get(&503).copied().unwrap_or(0);
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            // Whatever this machine can serve, at some number of callers it is too many.
            let (mut callers, begun) = (Vec::new(), Rc::new(Cell::new(0)));
            wait::until("somebody is refused", async || {
                // Nobody else comes while somebody waits to be accepted.
                for _ in 0..if begun.get() == callers.len() { 16 } else { 0 } {
                    let (request, seen) = (Rc::clone(&request), Rc::clone(&seen));
                    let (enough, begun) = (Rc::clone(&enough), Rc::clone(&begun));
                    let asking = ask_on(address, request, seen, enough, begun);
                    callers.push(tokio::task::spawn_local(asking));
                }
                match refused(&seen.borrow()) {
                    0 => Err(format!("{} callers: {:?}", callers.len(), seen.borrow())),
                    _ => Ok(()),
                }
            })
            .await;
            // Meanwhile health is told, and others are served.
            for path in ["/livez", "/readyz"] {
                assert_eq!(client::fetch(address, path).await.unwrap().status, 200, "{path}");
            }
            wait::until("a finding says so", async || {
                let finding = world.gateway.finding("overload").await;
                if finding.contains("more requests come") { Ok(()) } else { Err(finding) }
            })
            .await;
            let served = seen.borrow()[&404];
            wait::until("more are served", async || {
                if seen.borrow()[&404] > served + 100 { Ok(()) } else { Err("") }
            })
            .await;
            enough.set(true);
            for caller in callers {
                caller.await.unwrap();
            }
        })
        .await;
    let seen = seen.take();
    assert!(seen.keys().all(|status| [404, 503].contains(status)), "{seen:?}");
    let counted = |metrics: Exposition| {
        metrics
            .sum("aisix_proxy_overload_rejections_total", &[("endpoint", "/v1/chat/completions")])
    };
    wait::until("the refused are counted", async || {
        let counted = counted(world.gateway.metrics().await);
        if counted == refused(&seen) as f64 { Ok(()) } else { Err(format!("{counted} {seen:?}")) }
    })
    .await;
    // It is over, and nobody is refused any more.
    for _ in 0..20 {
        assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    }
    assert_eq!(counted(world.gateway.metrics().await), refused(&seen) as f64);
    wait::until("the finding is gone", async || {
        let finding = world.gateway.finding("overload").await;
        if finding.is_empty() { Ok(()) } else { Err(finding) }
    })
    .await;
}

/// Asks once over a new connection, which is kept.
async fn keep_one(world: &World) -> Connection {
    let mut connection = Connection::open(world.gateway.proxy()).await.unwrap();
    let listed = wait::within("an answer", world.caller().models_over(&mut connection)).await;
    listed.unwrap().bytes().await.unwrap();
    connection
}

#[tokio::test]
async fn a_worker_that_has_missed_connections_gets_those_that_come_until_it_has_as_many() {
    const KEPT: usize = 40;
    let world = World::start().await;
    let mut workers = world.gateway.proxies();
    let (other, late) = (workers.remove(0), workers.pop().unwrap());
    let files =
        |worker: &Worker| std::fs::read_dir(format!("/proc/{}/fd", worker.pid)).unwrap().count();
    let before = [&other, &late].map(files);
    let mut kept = Vec::new();
    kill(late.pid, Signal::SIGSTOP).unwrap();
    for _ in 0..KEPT {
        kept.push(keep_one(&world).await);
    }
    kill(late.pid, Signal::SIGCONT).unwrap();
    assert_eq!(files(&late), before[1]);
    wait::until("both have as many", async || {
        kept.push(keep_one(&world).await);
        let (other, late) = (files(&other) - before[0], files(&late) - before[1]);
        if late + 3 >= other { Ok(()) } else { Err(format!("{other} and {late}")) }
    })
    .await;
}
