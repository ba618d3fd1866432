//! What the gateway may use of the machine: open files and memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::look::Look;
use super::{Fault, warning};
use crate::settings::Settings;

static FILES: Fault = warning(
    "host-open-files-low",
    "the gateway may have few files open, and with them few connections",
    "Each request takes two connections; a worker stops to accept before its descriptors run out.",
    "raise the hard limit: LimitNOFILE=65536 in the unit, --ulimit nofile=65536:65536 of the container, or ulimit -Hn",
    &[],
);
static MEMORY: Fault = warning(
    "host-memory-low",
    "the limit of memory is low for so many workers",
    "The kernel ends workers that want more; what they were answering fails.",
    "raise the limit of the container or unit, or lower proxy.workers",
    &["gateway-workers-restarting"],
);
static PROCESSES: Fault = warning(
    "host-processes-low",
    "the gateway may have few processes and threads",
    "A new worker cannot be started, and an upgrade not take place.",
    "raise the limit: TasksMax= of the unit, --pids-limit of the container",
    &["gateway-workers-restarting"],
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[&FILES, &MEMORY, &PROCESSES];

/// A connection of a caller and one to a provider for each of some two thousand requests.
const FILES_MIN: u64 = 4096;
const MIB: u64 = 1024 * 1024;
/// Supervisor and helpers.
const MEMORY_BASE: u64 = 128 * MIB;
/// A proxy worker with a small configuration and some requests.
const MEMORY_PER_WORKER: u64 = 64 * MIB;
/// Threads of the supervisor, and each worker twice while it is replaced.
const TASKS_BASE: u64 = 24;

/// Compares limits with what the settings ask for.
pub fn check(settings: Option<&Settings>, look: &mut Look<'_>) {
    let machine = || thread::available_parallelism().map_or(1, usize::from);
    let workers = settings.map_or_else(machine, |settings| settings.proxy.workers.get());
    let workers = u64::try_from(workers).unwrap_or(u64::MAX);
    if let Ok(limits) = look.of_gateway("limits")
        && let Some(files) = hard_limit(&limits, "Max open files")
        && files < FILES_MIN
    {
        look.found(&FILES, format!("the hard limit is {files}, wanted are {FILES_MIN}"));
    }
    let groups = look.of_gateway("cgroup").unwrap_or_default();
    let root = look.places.cgroup.clone();
    let memory_min = MEMORY_BASE + MEMORY_PER_WORKER.saturating_mul(workers);
    if let Some((path, bytes)) =
        lowest(&root, &groups, "memory", &["memory.max", "memory.limit_in_bytes"])
        && bytes < memory_min
    {
        let (has, wants) = (bytes / MIB, memory_min / MIB);
        let evidence =
            format!("{} is {has} MiB, {workers} worker(s) want {wants} MiB", path.display());
        look.found(&MEMORY, evidence);
    }
    let tasks_min = TASKS_BASE.saturating_add(workers.saturating_mul(4));
    if let Some((path, tasks)) = lowest(&root, &groups, "pids", &["pids.max"])
        && tasks < tasks_min
    {
        look.found(&PROCESSES, format!("{} is {tasks}, wanted are {tasks_min}", path.display()));
    }
}

/// `Name <spaces> soft <spaces> hard <spaces> unit`, see proc_pid_limits(5); `None` = unlimited, or not told.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The lowest limit of that name in the group of the process and those above it, in either version of cgroups. `groups` is
/// `/proc/PID/cgroup`: lines of `number:controllers:/path`.
fn lowest(root: &Path, groups: &str, controller: &str, names: &[&str]) -> Option<(PathBuf, u64)> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let base = match controllers {
            "" => root.to_owned(),
            all if all.split(',').any(|it| it == controller) => root.join(all),
            _ => continue,
        };
        // In a container the path may be that of the host, while only the root is mounted.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            for name in names {
                let file = base.join(group).join(name);
                let text = fs::read_to_string(&file).unwrap_or_default();
                limits.extend(text.trim().parse::<u64>().ok().map(|limit| (file, limit)));
            }
        }
    }
    limits.into_iter().min_by_key(|(_, limit)| *limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_counts() {
        let limits = "Limit      Soft Limit  Hard Limit  Units\nMax open files   1024    4096   files\n\
            Max processes   unlimited  unlimited  processes\n";
        assert_eq!(hard_limit(limits, "Max open files"), Some(4096));
        assert_eq!(hard_limit(limits, "Max processes"), None);
        assert_eq!(hard_limit("", "Max open files"), None);
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts_in_both_versions_of_cgroups() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("a/memory.max", "2000\n");
        file("a/b/memory.max", "max\n");
        file("memory/c/memory.limit_in_bytes", "3000\n");
        let names = ["memory.max", "memory.limit_in_bytes"];
        let limit =
            |groups: &str| lowest(root.path(), groups, "memory", &names).map(|(_, limit)| limit);
        assert_eq!(limit("0::/a/b\n"), Some(2000));
        assert_eq!(limit("4:memory:/c\n0::/\n"), Some(3000));
        assert_eq!(limit("4:cpu,cpuacct:/c\n"), None);
        assert_eq!(limit("0::/elsewhere\n"), None);
        assert_eq!(limit("nonsense"), None);
    }
}
