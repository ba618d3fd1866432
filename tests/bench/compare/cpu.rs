//! Which core a thing runs on, and how much of it was used.
//!
//! What a process has used is the scheduler's own account, the one that `/proc/PID/task/*/schedstat` shows for each thread: read
//! for the whole process, so that threads which have ended are in it, and up to this moment. The files themselves lack both: a
//! thread takes its account with it when it ends, and of one that runs just now the last tick is not there yet. They are
//! summed up as well, and the report tells if the two differ.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Where gateways run.
pub const GATEWAY: usize = 0;
/// Where everything else runs: load, upstream, Cloud, etcd and this program.
pub const REST: usize = 1;

/// Binds this thread, and whatever it starts from now on, to a core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)?;
    Ok(())
}

/// Starts something whose processes shall run on another core than this thread, which is where it was afterwards.
pub fn pinned<T>(core: usize, start: impl FnOnce() -> T) -> io::Result<T> {
    let before = sched_getaffinity(Pid::from_raw(0))?;
    pin(core)?;
    let started = start();
    sched_setaffinity(Pid::from_raw(0), &before)?;
    Ok(started)
}

/// Gives this thread back all cores, for what is measured without a core of its own.
pub fn unpin() -> io::Result<()> {
    let mut cores = CpuSet::new();
    for core in [GATEWAY, REST] {
        cores.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &cores)?;
    Ok(())
}

/// Keeps all cores from sleeping as long as it is there. A core of a virtual machine that sleeps is given away, and takes up to
/// milliseconds to come back. Only root may.
///
/// <https://docs.kernel.org/power/pm_qos_interface.html>
pub struct Awake {
    _request: File,
}

impl Awake {
    /// From now on.
    pub fn keep() -> io::Result<Self> {
        let mut request = OpenOptions::new().write(true).open("/dev/cpu_dma_latency")?;
        // The latency that is borne, in microseconds.
        request.write_all(&0_i32.to_ne_bytes())?;
        Ok(Self { _request: request })
    }
}

/// The process and all that descend from it.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        let children =
            threads.flatten().filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
        let children: Vec<_> = children
            .flat_map(|it| {
                it.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
            })
            .map(Pid::from_raw)
            .collect();
        found.extend(children);
    }
    found
}

/// What the process and all that descend from it have used, with those that have ended meanwhile and were waited for.
pub fn used_by(root: Pid) -> Duration {
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let used = |pid: &Pid| {
        let own = ClockId::pid_cpu_clock_id(*pid).and_then(ClockId::now).map(Duration::from);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ended = ended_children(&stat) as f64 / ticks_per_second as f64;
        // One that ends right now counts among the ended children of its parent the next time.
        own.unwrap_or_default() + Duration::from_secs_f64(ended)
    };
    tree(root).iter().map(used).sum()
}

/// The sum of what the threads of the process and of all that descend from it tell in their files.
pub fn used_by_threads(root: Pid) -> Duration {
    let threads =
        tree(root).into_iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    let files = threads.flatten().flatten().map(|thread| thread.path().join("schedstat"));
    Duration::from_nanos(files.filter_map(|file| ran(&fs::read_to_string(file).ok()?)).sum())
}

/// Nanoseconds on a processor: the first of the three numbers of a `schedstat`.
fn ran(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Ticks of children that were waited for: fields 16 and 17 of `/proc/PID/stat`.
fn ended_children(stat: &str) -> u64 {
    // The name, in parentheses, may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after_name.split_whitespace().skip(13).take(2);
    fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// How long a core has been busy and idle since the machine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Core {
    busy: u64,
    idle: u64,
}

impl Core {
    /// As it is now.
    pub fn now(core: usize) -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default(), core)
    }

    fn parse(stat: &str, core: usize) -> Self {
        let name = format!("cpu{core} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; what guests use is in user already.
        let all: u64 = ticks.iter().take(8).sum();
        let idle = ticks.iter().skip(3).take(2).sum();
        Self { busy: all - idle, idle }
    }

    /// The percentage of the time between the two that it was busy.
    pub fn busy_since(self, before: Self) -> f64 {
        let busy = self.busy.saturating_sub(before.busy) as f64;
        let all = busy + self.idle.saturating_sub(before.idle) as f64;
        if all > 0.0 { 100.0 * busy / all } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_core_is_busy_by_what_is_neither_idle_nor_waiting() {
        let before = Core::parse("cpu  9 9 9 9\ncpu1 10 0 10 100 5 0 0 0 0 0\ncpu10 1 1 1 1\n", 1);
        let after = Core::parse("cpu1 30 0 20 150 5 0 0 20 7 7\n", 1);
        assert_eq!(after.busy_since(before), 50.0);
        assert_eq!(before.busy_since(before), 0.0);
    }

    #[test]
    fn ended_children_are_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 200 11 22 20 0 1 0 5 6 7";
        assert_eq!(ended_children(stat), 33);
        assert_eq!(ended_children(""), 0);
    }

    #[test]
    fn a_thread_tells_first_how_long_it_ran() {
        assert_eq!((ran("85589 12 3\n"), ran("")), (Some(85589), None));
    }

    #[test]
    fn the_threads_of_a_process_that_has_come_to_rest_tell_what_it_has_used() {
        let mut shell = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(shell.id()).unwrap());
        let begin = std::time::Instant::now();
        while used_by_threads(pid) < Duration::from_millis(5)
            || used_by_threads(pid) != used_by(pid)
        {
            assert!(begin.elapsed() < Duration::from_secs(60), "they never agree");
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn what_a_process_and_its_children_have_used_only_grows() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(shell.id()).unwrap());
        let mut last = used_by(pid);
        // The child has run, has ended, and counts for its parent: at least a tick of it.
        while tree(pid).len() > 1 || last < Duration::from_millis(10) {
            let now = used_by(pid).max(last);
            last = now;
        }
        assert!(used_by(pid) >= Duration::from_millis(10));
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
