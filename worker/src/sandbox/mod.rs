//! The worker locks itself in before it reads a byte of a stranger.
//!
//! The supervisor has already changed the user, emptied every capability set and set `no_new_privs` when this program
//! starts. What follows here, in this order, on the only thread there is (but see [`enter_with`]):
//!
//! 1. not dumpable: nobody of the same user may read its memory or attach to it. This is the first thing the program does
//!    ([`hide`]);
//! 2. Landlock: no file at all, no TCP port to bind or, in roles that make no connection, to connect to, no signal or
//!    abstract socket to the outside. It holds for this thread and those that follow;
//! 3. no further thread or process. The other limits are set by whoever started the program, this one cannot be: it counts
//!    all processes of the user;
//! 4. the system call filter, for every thread there is, last, since it forbids the calls that the others need.
//!
//! Nothing needs a file: trust roots and the resolver's files come as sealed memory.

mod filesystem;
mod forbidden;
mod seccomp;
mod table;

use std::fs;

use nix::sys::resource::{Resource, setrlimit};

use shared::id::Role;
use shared::message::Confinement;

use crate::sys;

/// How strictly a worker must be confined (`supervisor.sandbox`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// All of it, or no start; the supervisor decides that on the report.
    Required,
    /// What the host offers; what is missing is reported.
    BestEffort,
    /// None, for debugging.
    Off,
}

impl Policy {
    /// The policy of that name, as the configuration writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "required" => Some(Self::Required),
            "best-effort" => Some(Self::BestEffort),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// Keeps the memory of this process from others of the same user, and lets the machine end it before the supervisor where
/// memory runs out. To be called first; [`enter`] and the supervisor report a failure.
pub fn hide(policy: Policy) {
    // Before the process is hidden: then its files below `/proc` are not its own any more.
    let inherited = fs::read_to_string(OUT_OF_MEMORY_SCORE);
    if let Some(score) = inherited.ok().and_then(|score| score.trim().parse::<i32>().ok()) {
        let _ = fs::write(OUT_OF_MEMORY_SCORE, (score + SOONER).min(1000).to_string());
    }
    if policy != Policy::Off {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
}

/// Inherited from the supervisor.
const OUT_OF_MEMORY_SCORE: &str = "/proc/self/oom_score_adj";
/// How much higher than the supervisor's ours is. The kernel knows none above 1000.
const SOONER: i32 = 300;

/// Locks the process in. A thread that is there already gets the system call filter, not Landlock. What could not be had
/// is in the report, in words.
pub fn enter(policy: Policy, role: Role) -> Confinement {
    enter_with(policy, role, || {})
}

/// As [`enter`], with `threads` to make those that the role needs beside its first: they have the Landlock ruleset of the
/// thread that makes them, the system call filter is put in force for all at once, and nobody can make one after it.
pub fn enter_with(policy: Policy, role: Role, threads: impl FnOnce()) -> Confinement {
    let mut report = Confinement::default();
    if policy == Policy::Off {
        threads();
        report.missing.push("supervisor.sandbox is off".to_owned());
        return report;
    }
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        report.missing.push(format!("cannot be made undumpable: {error}"));
    }
    match filesystem::deny_all(table::connects(role)) {
        Ok(abi) => {
            report.landlock_abi = abi;
            if abi < 4 {
                report
                    .missing
                    .push(format!("Landlock: version {abi} of this kernel has no TCP rules"));
            }
            if abi < 6 {
                let scopes = "has no scopes for signals and abstract sockets";
                report.missing.push(format!("Landlock: version {abi} of this kernel {scopes}"));
            }
        }
        Err(reason) => report.missing.push(format!("Landlock: {reason}")),
    }
    sys::report_forbidden_calls();
    threads();
    if let Err(error) = setrlimit(Resource::RLIMIT_NPROC, 0, 0) {
        report.missing.push(format!("limit of processes: {error}"));
    }
    match seccomp::apply(role) {
        Ok(()) => report.seccomp = true,
        Err(error) => report.missing.push(format!("system call filter: {error}")),
    }
    report
}
