//! What a process uses, as the kernel tells it. Reading costs a few small files below `/proc`, which wait for no disk.

use super::sys::OwnFile;
use super::view::View;

/// Ticks of the processor time in `/proc/PID/stat`, per second: the same on every Linux.
const TICKS: f64 = 100.0;

/// What a process uses; `None` where the kernel does not say, or not to us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time since its start.
    pub cpu_seconds: Option<f64>,
    /// Memory that is resident.
    pub resident_bytes: Option<u64>,
    /// Open descriptors.
    pub open_descriptors: Option<u64>,
    /// Descriptors that it may open.
    pub descriptors_max: Option<u64>,
    /// Its threads.
    pub threads: Option<u64>,
}

/// What a process uses.
pub fn of(process: &View) -> Usage {
    let read = |file| process.read(file).unwrap_or_default();
    let status = read(OwnFile::Status);
    Usage {
        cpu_seconds: cpu_seconds(&read(OwnFile::Stat)),
        resident_bytes: field(&status, "VmRSS:").map(|kibibytes| kibibytes.saturating_mul(1024)),
        open_descriptors: process.open_descriptors(),
        descriptors_max: field(&read(OwnFile::Limits), "Max open files"),
        threads: field(&status, "Threads:"),
    }
}

/// User and system time: the 14th and the 15th field, see proc_pid_stat(5). The second one, in brackets, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some(user.saturating_add(system) as f64 / TICKS)
}

/// The first number in the line that begins so.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 99 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn a_field_is_the_first_number_of_its_line() {
        assert_eq!(field("VmHWM:\t 9 kB\nVmRSS:\t    1024 kB\n", "VmRSS:"), Some(1024));
        let limits =
            "Max open files            1024                 4096                 files     \n";
        assert_eq!(field(limits, "Max open files"), Some(1024));
        assert_eq!(field("Max open files  unlimited unlimited", "Max open files"), None);
    }

    #[test]
    fn this_process_is_told_in_full() {
        let usage = of(&View::own());
        assert!(usage.resident_bytes > Some(100_000) && usage.threads >= Some(1), "{usage:?}");
        assert!(usage.open_descriptors >= Some(3), "{usage:?}");
        assert!(usage.cpu_seconds.is_some(), "{usage:?}");
        assert_eq!(of(&View::Path("no-process".to_owned())), Usage::default());
    }

    proptest! {
        #[test]
        fn no_text_can_panic_it(text: String) {
            let _ = (cpu_seconds(&text), field(&text, "VmRSS:"));
        }
    }
}
