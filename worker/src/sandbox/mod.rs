//! The worker locks itself in before it reads a byte of a stranger.
//!
//! The supervisor has already changed the user, emptied every capability set and set `no_new_privs` when this program
//! starts. What follows here, in this order, on the only thread there is (but see [`enter_with`]):
//!
//! 1. not dumpable: nobody of the same user may read its memory or attach to it;
//! 2. Landlock: no file at all, no TCP port to bind, no signal or abstract socket to the outside;
//! 3. the system call filter, last, since it forbids the calls that the others need.
//!
//! Everything that needs a file (trust roots, resolver configuration) is read before.

mod filesystem;
mod seccomp;
mod table;

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

/// Locks the process in. Must run while it has a single thread. What could not be had is in the report, in words.
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
    match filesystem::deny_all() {
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
    match seccomp::apply(role) {
        Ok(()) => report.seccomp = true,
        Err(error) => report.missing.push(format!("system call filter: {error}")),
    }
    report
}
