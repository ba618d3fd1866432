//! How long a turn on a core is, where several want the same one.
//!
//! Nobody gets more of a core, or less, by the length of a turn. Who asks for long ones has them later, and is interrupted less often: what it
//! has in the core's caches it uses for longer. Who asks for short ones, or for none, need not wait for the end of another's.

use std::time::Duration;

use crate::sys;

/// Asks for turns of that length for this thread and those that it makes from now on; zero leaves it to the kernel. Linux before 6.12
/// has no such thing, and some containers and the filter of the packaged unit forbid it: then turns are as ever. A thread with
/// another policy than the ordinary one keeps it: whoever has started it has chosen.
///
/// Makes system calls only, so that it may be called between fork and exec.
pub fn ask_for(length: Duration) {
    sys::ask_for_turns_of(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whether nothing here forbids to ask: neither another policy nor a filter of system calls.
    fn may_ask() -> bool {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let sched = fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
        let is_ordinary = |line: &str| line.starts_with("policy") && line.ends_with(" 0");
        status.contains("Seccomp:\t0\n") && sched.lines().any(is_ordinary)
    }

    /// How long a turn of this thread is, in nanoseconds; `None` where the kernel does not tell.
    fn slice() -> Option<u64> {
        let told = fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = told.lines().find_map(|line| line.strip_prefix("se.slice"))?;
        line.trim_start_matches([' ', ':']).parse().ok()
    }

    #[test]
    fn a_turn_is_as_long_as_was_asked_for_where_the_kernel_knows_of_that() {
        let Some(before) = slice().filter(|_| may_ask()) else { return };
        ask_for(Duration::from_millis(7));
        let (major, minor) = release();
        let expected = if (major, minor) >= (6, 12) { 7_000_000 } else { before };
        assert_eq!(slice(), Some(expected));
        ask_for(Duration::ZERO);
        assert_ne!(slice(), Some(7_000_000));
    }

    fn release() -> (u32, u32) {
        let told = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = told.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}
