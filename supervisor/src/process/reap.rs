//! Children that nobody here has started: as process 1 of a container we inherit every orphan, and only we can collect what
//! is left of them.
//!
//! The status of a worker is never taken: its owner waits for it by descriptor.

use std::fs;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tracing::debug;

/// Collects children that have ended and are not among `ours`. Says how many there were.
pub fn orphans(ours: &[Pid]) -> usize {
    children().into_iter().filter(|child| !ours.contains(child) && reap(*child)).count()
}

fn reap(child: Pid) -> bool {
    match waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => false,
        Ok(status) => {
            debug!(?status, "an orphan has ended");
            true
        }
        Err(error) => {
            debug!(%child, %error, "cannot wait for an orphan");
            false
        }
    }
}

/// Every child of ours, as the kernel lists them by thread. Where it does not, there is nothing to be found.
fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| {
        // A thread that has ended meanwhile has left its children to another.
        fs::read_to_string(thread.path().join("children")).ok()
    });
    let numbers = |list: String| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
    };
    lists.flat_map(|list| -> Vec<Pid> { numbers(list) }).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn an_unknown_child_is_collected_and_a_known_one_is_not() {
        let start = || Command::new("true").spawn().unwrap();
        let (mut ours, orphan) = (start(), start());
        let pid = |child: &std::process::Child| Pid::from_raw(i32::try_from(child.id()).unwrap());
        let known = [pid(&ours)];
        let start = Instant::now();
        // Children of other tests in this process may be among them.
        while children().contains(&pid(&orphan)) {
            orphans(&known);
            assert!(start.elapsed() < Duration::from_secs(60), "it is never collected");
            std::thread::yield_now();
        }
        assert!(ours.wait().unwrap().success(), "its status is still there");
    }
}
