//! 10,000 idle connections and 5,000 streams at once: all are there at the same moment, and none fails. On one worker where it may
//! open as many files as that takes, else on two. Who holds the idle ones is a process of its own, for its files' sake.

use std::cell::Cell;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::{JoinHandle, LocalSet};

use super::gateway::Governed;
use crate::cpu;
use crate::load::Target;
use crate::rounds::Values;

const IDLE: usize = 10_000;
const STREAMS: usize = 5_000;
/// Files that a worker may need open which has everybody: it accepts as many connections as it could have upstream too.
const FILES_OF_ALL: u64 = 2 * (IDLE + STREAMS) as u64 + 1024;
/// Files that any process needs open.
pub const FILES: u64 = FILES_OF_ALL / 2 + 1024;
/// Between two events of a stream. All together are 5,000 events a second.
const PACE: Duration = Duration::from_secs(1);
/// Events of a stream: enough for all to be there at once, also on a slow machine.
const EVENTS: usize = 30;
/// How long all of it may take.
const TIME_MAX: Duration = Duration::from_secs(180);

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"},\"finish_reason\":null}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// One turn.
pub async fn turn(programs: Option<&Path>, files: u64) -> Result<Values, Box<dyn Error>> {
    let workers = if files >= FILES_OF_ALL { 1 } else { 2 };
    let gateway = Governed::start(programs, slow_upstream()?, workers).await?;
    let tasks = LocalSet::new();
    let crowd = tasks.run_until(tokio::time::timeout(TIME_MAX, crowd(&gateway)));
    crowd.await.map_err(|_| "the crowd was not served in time")?
}

async fn crowd(gateway: &Governed) -> Result<Values, Box<dyn Error>> {
    let begin = Instant::now();
    let mut idle = Command::new(env::current_exe()?)
        .args(["hold-idle", &gateway.target.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let said = idle.stdout.take().ok_or("no standard output")?;
    let mut said = BufReader::new(said).lines();
    said.next_line().await?.ok_or("not all idle connections could be opened")?;
    let (opened, used) = (begin.elapsed(), gateway.used());
    let (running, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let begin = Instant::now();
    let streams: Vec<JoinHandle<Result<Duration, String>>> = (0..STREAMS)
        .map(|_| {
            let (target, running, most) =
                (gateway.target.clone(), Rc::clone(&running), Rc::clone(&most));
            tokio::task::spawn_local(async move {
                let streamed = stream(&target, begin, &running, &most).await;
                streamed.map_err(|error| error.to_string())
            })
        })
        .collect();
    let mut first_events = Vec::with_capacity(STREAMS);
    for stream in streams {
        first_events.push(stream.await??);
    }
    if most.get() < STREAMS {
        return Err(format!("only {} streams were there at once", most.get()).into());
    }
    let used = gateway.used().saturating_sub(used);
    // All who were idle meanwhile are still there.
    drop(idle.stdin.take());
    said.next_line().await?.ok_or("an idle connection was not served any more")?;
    let slowest = first_events.into_iter().max().unwrap_or_default();
    Ok(vec![
        ("crowd_idle_connections", "", IDLE as f64),
        ("crowd_streams_at_once", "", most.get() as f64),
        ("crowd_idle_opened_ms", "ms", opened.as_secs_f64() * 1e3),
        ("crowd_last_first_event_ms", "ms", slowest.as_secs_f64() * 1e3),
        ("crowd_cpu_us_per_event", "us", used.as_secs_f64() * 1e6 / (STREAMS * EVENTS) as f64),
    ])
}

/// Where idle connections lead to.
#[derive(Debug, clap::Args)]
pub struct IdleArguments {
    gateway: SocketAddr,
}

/// Opens the idle connections, each served once, and says so; served again when standard input ends, it says so again.
#[tokio::main(flavor = "current_thread")]
pub async fn hold_idle(arguments: IdleArguments) -> Result<(), Box<dyn Error>> {
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(arguments.gateway).await?;
        livez(&mut stream).await?;
        idle.push(stream);
    }
    println!("opened");
    io::stdin().read_line(&mut String::new())?;
    for stream in &mut idle {
        livez(stream).await?;
    }
    println!("still there");
    Ok(())
}

async fn livez(stream: &mut TcpStream) -> Result<(), Box<dyn Error>> {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let mut answer = [0; 1024];
    let size = stream.read(&mut answer).await?;
    match answer.get(..size).unwrap_or_default().starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err("an idle connection was not served any more".into()),
    }
}

/// Reads one stream to its end. When its first event came, since the beginning of all.
async fn stream(
    target: &Target,
    begin: Instant,
    running: &Cell<usize>,
    most: &Cell<usize>,
) -> Result<Duration, Box<dyn Error>> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.write_all(&target.stream_request(EVENTS as u64)).await?;
    let (mut text, mut buffer, mut first) = (Vec::new(), [0; 4096], None);
    loop {
        let size = stream.read(&mut buffer).await?;
        if size == 0 {
            return Err("a stream was cut off".into());
        }
        text.extend_from_slice(&buffer[..size]);
        if first.is_none() {
            if !text.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&text).into_owned().into());
            }
            first = Some(begin.elapsed());
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
        }
        if text.ends_with(b"0\r\n\r\n") {
            break;
        }
    }
    running.set(running.get() - 1);
    let events = memchr::memmem::find_iter(&text, b"\"content\":\"word\"").count();
    match (events, memchr::memmem::find(&text, DONE.trim_ascii_end().as_bytes())) {
        (EVENTS, Some(_)) => Ok(first.unwrap_or_default()),
        (events, _) => Err(format!("a stream had {events} of {EVENTS} events").into()),
    }
}

/// A provider whose streams are slow, on a thread of its own.
fn slow_upstream() -> Result<SocketAddr, Box<dyn Error>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("slow-upstream".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (Ok(()), Ok(runtime)) = (cpu::pin(cpu::REST), runtime) else { return };
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    // Whoever has gone is told nothing more.
                    let _ = serve(stream).await;
                });
            }
        });
    })?;
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
    let (event, done) = (chunk(EVENT), chunk(DONE));
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // A request comes in one piece or two, and its head is all that differs.
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let size = stream.read(&mut buffer).await?;
            if size == 0 {
                return Ok(());
            }
            request.extend_from_slice(&buffer[..size]);
        }
        if memchr::memmem::find(&request, b"\"stream\":true").is_none() {
            let text = "{\"id\":\"c\",\"object\":\"chat.completion\",\"choices\":[]}";
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
            stream.write_all(format!("{head} {}\r\n\r\n{text}", text.len()).as_bytes()).await?;
            continue;
        }
        stream.write_all(HEAD).await?;
        for _ in 0..EVENTS {
            stream.write_all(&event).await?;
            tokio::time::sleep(PACE).await;
        }
        stream.write_all(&done).await?;
        stream.write_all(b"0\r\n\r\n").await?;
    }
}
