//! The machine and the processes: versions, limits, groups, and what the kernel says of supervisor and workers.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use shared::version::VERSION;

use super::{Case, report::Report};
use crate::handover::exec::Own;
use crate::handover::preflight::version_of;
use crate::process::launch::Program;
use crate::settings::control;

/// No file of the kernel is read further.
const BYTES_MAX: u64 = 256 * 1024;
/// Further processes are left out.
const PROCESSES_MAX: usize = 200;
/// What is told of each process.
const OF_PROCESS: [&str; 5] = ["status", "limits", "wchan", "cgroup", "oom_score_adj"];
/// What is told of the machine.
const OF_MACHINE: [&str; 8] = [
    "/etc/os-release",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/version",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/sys/kernel/seccomp/actions_avail",
    "/sys/kernel/security/lsm",
];
/// What is told of the group of the gateway and those above it.
const OF_GROUP: [&str; 6] =
    ["memory.max", "memory.current", "memory.events", "pids.max", "pids.current", "cpu.max"];

/// Adds all of it.
pub fn add(case: &Case<'_>, report: &mut Report) {
    report.add("versions.txt", &versions(case));
    let mut text = String::new();
    for path in OF_MACHINE {
        section(&mut text, Path::new(path));
    }
    report.add("machine.txt", &text);
    report.add("cgroup.txt", &groups(case));
    let mut processes = vec![(std::process::id(), "this command".to_owned())];
    if let Some(status) = &case.status {
        processes.push((status.pid, "supervisor".to_owned()));
        processes.extend(status.workers.iter().filter_map(|worker| {
            Some((
                u32::try_from(worker.pid).ok()?,
                format!("worker {} ({})", worker.id, worker.role),
            ))
        }));
    } else {
        processes.extend(by_name());
        report.missing("processes of the gateway", "no gateway has answered: those of its names");
    }
    let mut text = String::new();
    for (pid, what) in processes.into_iter().take(PROCESSES_MAX) {
        let _ = writeln!(text, "==== {what}, process {pid}\n");
        let folder = PathBuf::from(format!("/proc/{pid}"));
        for name in OF_PROCESS {
            section(&mut text, &folder.join(name));
        }
        if let Ok(files) = fs::read_dir(folder.join("fd")) {
            let _ = writeln!(text, "open files: {}\n", files.count());
        }
    }
    report.add("processes.txt", &text);
}

fn versions(case: &Case<'_>) -> String {
    let mut text = format!("aisix (this command): {VERSION}\n");
    if let Some(status) = &case.status {
        let _ = writeln!(text, "aisix (the gateway that runs): {}", status.version);
    }
    let variables = case.environment.variables.iter().cloned();
    let raw = case.options.config.as_deref().and_then(|it| control::as_written(it, variables).ok());
    let named = raw.and_then(|raw| raw.path("supervisor.worker_path"));
    let worker = Program::open(named.as_deref(), &Own::of_this_process().program);
    let worker = match worker {
        Ok(program) => match version_of(&program) {
            Ok(version) => format!("{version} ({})", program.path.display()),
            Err(error) => format!("{}: {error}", program.path.display()),
        },
        Err(error) => error.to_string(),
    };
    let _ = writeln!(text, "aisix-worker: {worker}");
    let _ = writeln!(text, "machine: {} {}", std::env::consts::OS, std::env::consts::ARCH);
    text
}

fn groups(case: &Case<'_>) -> String {
    let pid = case.status.as_ref().map_or_else(|| "self".to_owned(), |it| it.pid.to_string());
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut text = format!("{lines}\n");
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    for group in Path::new(path).ancestors() {
        for name in OF_GROUP {
            let file = Path::new("/sys/fs/cgroup").join(group).join(name);
            if let Ok(content) = fs::read_to_string(&file) {
                let _ =
                    writeln!(text, "{}: {}", file.display(), content.trim().replace('\n', ", "));
            }
        }
    }
    text
}

fn section(text: &mut String, path: &Path) {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    let content = match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Err(error) => format!("({error})"),
    };
    let _ = writeln!(text, "-- {}\n{content}\n", path.display());
}

/// Processes with the names of our programs: one that hangs does not answer, and its state is what matters then.
fn by_name() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let name = name.trim();
        let is_ours = ["aisix", "aisix-worker"].contains(&name) && pid != std::process::id();
        is_ours.then(|| (pid, format!("called {name}")))
    });
    named.take(PROCESSES_MAX).collect()
}
