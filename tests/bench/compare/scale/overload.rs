//! Four times what one worker can serve, in two ways.
//!
//! `closed`: four times the connections at which it serves most; each asks again when it is answered, and after as many seconds
//! as `Retry-After` says when it is refused. `open`: requests come four times as fast as it can serve, over a few thousand
//! connections, whatever becomes of those before; one for which no connection is free is lost, and over a connection that was refused the
//! next one is sent at once, to be heard when it is time (how long that took is not among the latencies). In both every request that was
//! taken has to be answered, with 200 or with 503 and `Retry-After`.
//!
//! What is kept is told of what the same gateway serves at the connections at which it serves most, with all usage delivered: half of that
//! right before and half of it right after. The better of the two would not be what it serves, but what a shared machine has added at
//! one time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::Pid;

use super::gateway::Governed;
use crate::clock;
use crate::cpu::{self, Core};
use crate::figure::percentile;
use crate::load::{self, Target};
use crate::rounds::Values;
use crate::wire::{Part, Reader, Side};

/// Connections of which one number is the best.
const CONNECTIONS: [usize; 4] = [16, 32, 64, 128];
/// How much more there is than can be served.
const TIMES: usize = 4;
/// Connections of the open load.
const OPEN_CONNECTIONS: usize = 4000;
/// How long a single answer may take, in milliseconds.
const ANSWER_MS_MAX: u64 = 30_000;
/// How long what is served before and after is measured, at least.
const SERVED: Duration = Duration::from_secs(8);
const SECOND: u64 = 1_000_000_000;

/// One turn.
pub async fn turn(
    programs: Option<&Path>,
    upstream: SocketAddr,
    time: Duration,
) -> Result<Values, Box<dyn Error>> {
    let gateway = Governed::start(programs, upstream, 1).await?;
    load::whole(&gateway.target, 64, time / 4)?;
    let mut best = (0.0, 0);
    for connections in CONNECTIONS {
        let used = gateway.used();
        let seen = load::whole(&gateway.target, connections, time)?;
        gateway.settle()?;
        let used = gateway.used().saturating_sub(used).as_secs_f64();
        let us = used * 1e6 / seen.latencies.len() as f64;
        eprintln!("scale: {connections} connections: {us:.1} us of CPU per answer");
        let per_second = seen.latencies.len() as f64 / seen.time.as_secs_f64();
        if per_second > best.0 {
            best = (per_second, connections);
        }
    }
    // Before, between and after: a machine that is shared is not as fast at all times.
    let (connections, served) = (best.1, time.max(SERVED));
    let serves = || {
        gateway.settle()?;
        let seen = load::whole(&gateway.target, connections, served)?;
        Ok::<_, String>(seen.latencies.len() as f64 / seen.time.as_secs_f64())
    };
    // Overload that stands: the second until it is noticed is a small part of it.
    let time = time.max(Duration::from_secs(20));
    let before = serves()?;
    let closed = connections * TIMES;
    let closed = measured(&gateway, "closed", || run(&gateway.target, closed, None, time))?;
    let between = serves()?;
    let offered = before.max(between) * TIMES as f64;
    let open =
        measured(&gateway, "open", || run(&gateway.target, OPEN_CONNECTIONS, Some(offered), time))?;
    let after = serves()?;
    eprintln!("scale: refused as the gateway counts: {}", gateway.refused().await);
    let mut values = vec![
        ("served_before_overload", "1/s", before),
        ("served_between_overloads", "1/s", between),
        ("served_after_overload", "1/s", after),
        ("served_at_connections", "", connections as f64),
    ];
    for (seen, best, [kept, refused, p99]) in [
        (
            closed,
            f64::midpoint(before, between),
            ["overload_closed_kept", "overload_closed_refused", "overload_closed_p99_ms"],
        ),
        (
            open,
            f64::midpoint(between, after),
            ["overload_open_kept", "overload_open_refused", "overload_open_p99_ms"],
        ),
    ] {
        let mut seen = seen;
        let seconds = time.as_secs_f64();
        values.push((kept, "%", 100.0 * seen.answered as f64 / seconds / best));
        values.push((refused, "1/s", seen.refused as f64 / seconds));
        let slowest = percentile(&mut seen.latencies, 99).ok_or("nothing was answered")?;
        values.push((p99, "ms", slowest / 1e6));
    }
    Ok(values)
}

/// Tells also what an answer has cost the gateway, and whether its core or the one of the load is the limit.
fn measured(
    gateway: &Governed,
    name: &str,
    run: impl FnOnce() -> Result<Seen, String>,
) -> Result<Seen, String> {
    let cores = [cpu::GATEWAY, cpu::REST].map(Core::now);
    let (used, all) = (gateway.used(), cpu::used_by(Pid::this()));
    let seen = run()?;
    let cores = [(cpu::GATEWAY, cores[0]), (cpu::REST, cores[1])];
    let busy = cores.map(|(core, before)| Core::now(core).busy_since(before));
    gateway.settle()?;
    let used = gateway.used().saturating_sub(used).as_secs_f64();
    let rest = cpu::used_by(Pid::this()).saturating_sub(all).as_secs_f64() - used;
    let answers = seen.latencies.len() as f64 / 1e6;
    eprintln!(
        "scale: {name}: {:.1} us of CPU per answer, {:.1} us of everything else; until the last was answered the gateway's core was busy for {:.0} %, the other one for {:.0} %",
        used / answers,
        rest / answers,
        busy[0],
        busy[1],
    );
    Ok(seen)
}

/// What callers have seen.
#[derive(Default)]
struct Seen {
    /// Answered with 200 within the time.
    answered: u64,
    /// Answered with 503.
    refused: u64,
    /// From the request to the end of an answer of 200, in nanoseconds.
    latencies: Vec<u32>,
}

struct Caller {
    stream: TcpStream,
    reader: Reader,
    asked: u64,
    /// Status of the answer that is coming, and after how many seconds to ask again.
    status: u16,
    retry_after: u64,
    /// What was asked last was asked before its time.
    is_early: bool,
}

/// Lets so many callers ask for so long; with a rate they ask when it is time, otherwise when they are answered.
fn run(target: &Target, callers: usize, rate: Option<f64>, time: Duration) -> Result<Seen, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let request = target.whole_request();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|it| failed("epoll", &it))?;
    let mut open = Vec::with_capacity(callers);
    for index in 0..callers {
        let stream = TcpStream::connect(target.address).map_err(|it| failed("connect", &it))?;
        stream.set_nodelay(true).map_err(|it| failed("TCP_NODELAY", &it))?;
        stream.set_nonblocking(true).map_err(|it| failed("O_NONBLOCK", &it))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&stream, event).map_err(|it| failed("epoll", &it))?;
        open.push(Caller {
            stream,
            reader: Reader::new(Side::Answers),
            asked: 0,
            status: 0,
            retry_after: 0,
            is_early: false,
        });
    }
    let mut seen = Seen { latencies: Vec::with_capacity(1 << 20), ..Seen::default() };
    let start = clock::now();
    let end = start + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    // Who is free, and who is again when.
    let mut free: VecDeque<usize> = (0..callers).collect();
    let mut later: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let (mut waiting, mut sent, mut last) = (0_usize, 0_u64, start);
    let mut events = vec![EpollEvent::empty(); 1024];
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = clock::now();
        if now >= end && waiting == 0 {
            return Ok(seen);
        }
        if now.saturating_sub(last) > ANSWER_MS_MAX * 1_000_000 {
            return Err(format!("{waiting} requests have no answer after {ANSWER_MS_MAX} ms"));
        }
        while let Some(Reverse((when, index))) = later.peek().copied()
            && when <= now
        {
            later.pop();
            free.push_back(index);
        }
        let due = match rate {
            None => usize::MAX,
            Some(rate) => {
                let due = ((now - start) as f64 / SECOND as f64 * rate) as u64;
                let missed = due.saturating_sub(sent);
                sent = due;
                usize::try_from(missed).unwrap_or(usize::MAX)
            }
        };
        if now < end {
            for index in free.drain(..due.min(free.len())) {
                open[index].ask(&request, now)?;
                waiting += 1;
            }
        }
        let ready = match epoll.wait(&mut events, 1_u8) {
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready.map_err(|it| failed("epoll", &it))?,
        };
        for event in events.iter().take(ready) {
            let index = usize::try_from(event.data()).unwrap_or_default();
            if !open[index].read(&mut buffer)? {
                continue;
            }
            let now = clock::now();
            (last, waiting) = (now, waiting - 1);
            let caller = &mut open[index];
            let was_early =
                std::mem::replace(&mut caller.is_early, rate.is_some() && caller.status == 503);
            match (caller.status, caller.retry_after) {
                (200, _) => {
                    seen.answered += u64::from(now < end);
                    if !was_early {
                        seen.latencies.push(u32::try_from(now - caller.asked).unwrap_or(u32::MAX));
                    }
                    free.push_back(index);
                }
                (503, 0) => return Err("a refusal does not say when to ask again".into()),
                (503, seconds) => {
                    seen.refused += 1;
                    match rate {
                        Some(_) => free.push_back(index),
                        None => later.push(Reverse((now + seconds * SECOND, index))),
                    }
                }
                (status, _) => return Err(format!("status {status}")),
            }
        }
    }
}

impl Caller {
    fn ask(&mut self, request: &[u8], now: u64) -> Result<(), String> {
        self.asked = now;
        let all = self.stream.write_all(request);
        all.map_err(|error| format!("a request was not taken: {error}"))
    }

    /// Reads what has come. Says whether the answer is complete.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        let size = match self.stream.read(buffer) {
            Ok(0) => return Err("the connection was closed before the answer was complete".into()),
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("the connection failed: {error}")),
        };
        let Self { reader, status, retry_after, .. } = self;
        let mut is_complete = false;
        let fed = reader.feed(&buffer[..size], |part| match part {
            Part::Head(head) => {
                *status = head.status();
                let seconds =
                    head.header("retry-after").and_then(|it| std::str::from_utf8(it).ok());
                *retry_after = seconds.and_then(|text| text.parse().ok()).unwrap_or(0);
            }
            Part::Body(_) => {}
            Part::End => is_complete = true,
        });
        fed.map_err(|error| error.to_string())?;
        Ok(is_complete)
    }
}
