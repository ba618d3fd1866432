//! A prompt of 20 MB: how long it takes, what it costs, and what it takes in memory while it is on its way.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::figure::percentile;
use crate::load;
use crate::peers::Peer;
use crate::rounds::Values;

/// Bytes of the prompt.
const BYTES: usize = 20_000_000;

/// What stands for what a subject adds to it.
pub const ADDED: &[(&str, &str)] = &[("prompt_20mb_ms", "added_prompt_20mb_ms")];

/// One turn of a subject, which is asked so many times.
pub fn turn(peer: &Peer, times: usize) -> Result<Values, String> {
    let before = peer.before()?;
    let processes = peer.processes();
    for pid in &processes {
        // Only what comes from now on is the most that it ever took.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
    let resident: u64 = processes.iter().map(|pid| kib(*pid, "VmRSS:")).sum();
    let mut seen = load::large(&peer.target, BYTES, times)?;
    peer.settle(before, times as u64)?;
    let used = peer.used_since(before);
    let most: u64 = processes.iter().map(|pid| kib(*pid, "VmHWM:")).sum();

    let time = percentile(&mut seen.latencies, 50).ok_or("no request was answered")?;
    let time = Duration::from_nanos(time as u64).as_secs_f64();
    let mut values = vec![
        ("prompt_20mb_ms", "ms", time * 1e3),
        ("prompt_20mb_mb_per_s", "MB/s", BYTES as f64 / 1e6 / time),
    ];
    if !processes.is_empty() {
        values.push(("prompt_20mb_cpu_ms", "ms", used.as_secs_f64() * 1e3 / times as f64));
        values.push(("prompt_20mb_peak_mib", "MiB", most.saturating_sub(resident) as f64 / 1024.0));
    }
    Ok(values)
}

/// A line of `/proc/PID/status`.
fn kib(pid: Pid, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default()
}
