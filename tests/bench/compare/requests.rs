//! Requests with whole answers: the latency at one connection, and throughput, latency and processor time at 64.

use std::time::Duration;

use crate::cpu::{self, Core};
use crate::figure::percentile;
use crate::load::{self, Whole};
use crate::peers::Peer;
use crate::rounds::Values;

/// Connections at once.
const MANY: usize = 64;

/// What stands for what a subject adds to a request.
pub const ADDED: &[(&str, &str)] =
    &[("latency_p50_us", "added_p50_us"), ("latency_p99_us", "added_p99_us")];

/// One turn of a subject. `time` for each of both; a quarter of it before, for nothing.
pub fn turn(peer: &Peer, time: Duration) -> Result<Values, String> {
    // So that connections, caches and branch predictors are as they are in service.
    let before = peer.before()?;
    let warm = load::whole(&peer.target, MANY, time / 4)?;
    peer.settle(before, warm.latencies.len() as u64)?;

    let before = peer.before()?;
    let mut one = load::whole(&peer.target, 1, time)?;
    peer.settle(before, one.latencies.len() as u64)?;
    let one_cpu = peer.used_since(before);

    let before = peer.before()?;
    let cores = [Core::now(cpu::GATEWAY), Core::now(cpu::REST)];
    let mut many = load::whole(&peer.target, MANY, time)?;
    let busy =
        [Core::now(cpu::GATEWAY).busy_since(cores[0]), Core::now(cpu::REST).busy_since(cores[1])];
    let others = busy[0] - 100.0 * peer.used_since(before).as_secs_f64() / many.time.as_secs_f64();
    let requests = many.latencies.len() as u64;
    let behind = peer.behind(before, requests);
    // What is still to be done for these requests counts as theirs.
    peer.settle(before, requests)?;
    let many_cpu = peer.used_since(before);
    let by_threads = peer.used_by_threads_since(before);

    let mut values = vec![
        ("latency_p50_us", "us", microseconds(&mut one, 50)?),
        ("latency_p99_us", "us", microseconds(&mut one, 99)?),
        ("requests_per_s", "1/s", requests as f64 / many.time.as_secs_f64()),
        ("latency_p99_us_at_64", "us", microseconds(&mut many, 99)?),
        ("core_0_busy", "%", busy[0]),
        ("core_1_busy", "%", busy[1]),
        ("core_0_others", "%", others.max(0.0)),
    ];
    if !peer.processes().is_empty() {
        let per_request =
            |used: Duration, seen: &Whole| used.as_secs_f64() * 1e6 / seen.latencies.len() as f64;
        values.push(("cpu_us_per_request", "us", per_request(many_cpu, &many)));
        values.push(("cpu_us_per_request_by_threads", "us", per_request(by_threads, &many)));
        values.push(("cpu_us_per_request_at_1", "us", per_request(one_cpu, &one)));
        values.push(("usage_events_behind", "%", 100.0 * behind as f64 / requests as f64));
    }
    Ok(values)
}

fn microseconds(seen: &mut Whole, hundredths: usize) -> Result<f64, String> {
    let nanoseconds =
        percentile(&mut seen.latencies, hundredths).ok_or("no request was answered")?;
    Ok(nanoseconds / 1000.0)
}
