//! How long turns on a core are that several of our processes want, as the kernel tells.

use std::fs;
use std::time::Duration;

use harness::World;
use nix::unistd::Pid;

/// How long a turn of a process is; `None` where the kernel does not tell.
fn turn(pid: Pid) -> Option<Duration> {
    let told = fs::read_to_string(format!("/proc/{pid}/sched")).ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("se.slice"))?;
    Some(Duration::from_nanos(line.trim_start_matches([' ', ':']).parse().ok()?))
}

/// Whether threads may ask for the length of their turns: since Linux 6.12, and where neither another policy nor a filter of system calls
/// forbids it.
fn may_ask() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let sched = fs::read_to_string("/proc/self/sched").unwrap_or_default();
    let is_ordinary = |line: &str| line.starts_with("policy") && line.ends_with(" 0");
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 12)
        && status.contains("Seccomp:\t0\n")
        && sched.lines().any(is_ordinary)
}

#[tokio::test]
async fn proxy_workers_have_long_turns_the_supervisor_longer_ones_and_helpers_those_of_the_kernel()
{
    let world = World::start().await;
    let Some(ours) = turn(Pid::this()).filter(|_| may_ask()) else {
        return println!("skipped: turns have no length here that could be asked for");
    };
    assert_eq!(turn(world.gateway.pid()), Some(Duration::from_millis(20)));
    let workers = world.gateway.workers();
    assert!(!world.gateway.proxies().is_empty() && workers.len() > world.gateway.proxies().len());
    for worker in workers {
        let expected = if worker.role == "proxy" { Duration::from_millis(8) } else { ours };
        assert_eq!(turn(worker.pid), Some(expected), "{worker:?}");
    }
}
