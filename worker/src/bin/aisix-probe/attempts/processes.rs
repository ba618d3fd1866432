//! Becoming somebody else, and doing something to other processes.

use std::thread;

use libc::{CLONE_NEWNET, CLONE_NEWUSER, SIGCHLD, SIGURG};
use nix::errno::Errno;

use super::{Attempt, done};
use crate::stage::{Outcome, Stage};
use crate::sys::{call, call_and_leave};

const PTRACE_SEIZE: usize = 0x4206;
/// A signal that nobody minds, who has not asked for it.
const SIGNAL: usize = SIGURG as usize;

pub const ATTEMPTS: &[(&str, Attempt)] = &[
    ("exec", |_| exec()),
    ("exec_at", |_| {
        let (path, nothing) = (c"/bin/true", [0usize]);
        let nothing = nothing.as_ptr() as usize;
        let here = libc::AT_FDCWD as usize;
        done(call(libc::SYS_execveat, [here, path.as_ptr() as usize, nothing, nothing, 0]))
    }),
    ("exec_with_the_signal_blocked", |_| {
        signal_mask(1 << (libc::SIGSYS - 1))?;
        exec()
    }),
    #[cfg(target_arch = "x86_64")]
    ("fork", |_| done(call_and_leave(libc::SYS_fork, []))),
    #[cfg(target_arch = "x86_64")]
    ("vfork", |_| done(crate::sys::vfork())),
    ("clone", |_| done(call_and_leave(libc::SYS_clone, [SIGCHLD as usize, 0, 0, 0, 0]))),
    ("clone3", |_| {
        let arguments = [0u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
        done(call_and_leave(libc::SYS_clone3, [arguments.as_ptr() as usize, 64]))
    }),
    ("thread", |_| {
        let thread = thread::Builder::new().spawn(|| ());
        let thread = thread.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        let _ = thread.join();
        Ok("ran".to_owned())
    }),
    ("trace_supervisor", |stage| trace(stage.number("supervisor"))),
    ("trace_sibling", |stage| trace(stage.number("sibling"))),
    ("read_supervisor_by_call", |stage| reach(stage, libc::SYS_process_vm_readv)),
    ("write_supervisor_by_call", |stage| reach(stage, libc::SYS_process_vm_writev)),
    ("supervisor_descriptor", |stage| {
        done(call(libc::SYS_pidfd_open, [stage.number("supervisor"), 0]))
    }),
    ("descriptor_of_supervisor", |_| done(call(libc::SYS_pidfd_getfd, [3, 0, 0]))),
    ("signal_supervisor", |stage| done(call(libc::SYS_kill, [stage.number("supervisor"), SIGNAL]))),
    ("signal_sibling", |stage| done(call(libc::SYS_kill, [stage.number("sibling"), SIGNAL]))),
    ("signal_supervisor_thread", |stage| {
        let supervisor = stage.number("supervisor");
        done(call(libc::SYS_tgkill, [supervisor, supervisor, SIGNAL]))
    }),
    ("signal_supervisor_old", |stage| {
        done(call(libc::SYS_tkill, [stage.number("supervisor"), SIGNAL]))
    }),
    ("signal_supervisor_queued", |stage| {
        let information = [0u64; 16];
        let information = information.as_ptr() as usize;
        match call(libc::SYS_rt_sigqueueinfo, [stage.number("supervisor"), SIGNAL, information]) {
            // It may not look like the kernel's; it was asked all the same.
            Err(Errno::EPERM) => Ok("asked".to_owned()),
            other => done(other),
        }
    }),
    ("signal_by_descriptor", |_| match call(libc::SYS_pidfd_send_signal, [0, SIGNAL, 0, 0]) {
        Err(Errno::EBADF) => Ok("asked".to_owned()),
        other => done(other),
    }),
    ("limits_of_supervisor", |stage| {
        let limits = [0u64; 2];
        let (files, limits) = (libc::RLIMIT_CORE as usize, limits.as_ptr() as usize);
        done(call(libc::SYS_prlimit64, [stage.number("supervisor"), files, 0, limits]))
    }),
    ("slow_supervisor", |stage| {
        done(call(libc::SYS_setpriority, [0, stage.number("supervisor"), 1]))
    }),
    ("own_user", |_| done(call(libc::SYS_setuid, [0]))),
    ("own_users", |_| done(call(libc::SYS_setresuid, [0, 0, 0]))),
    ("own_groups", |_| done(call(libc::SYS_setgroups, [0, 0]))),
    ("own_capabilities", |_| {
        let (header, data) = ([0x2008_0522u32, 0], [0u32; 6]);
        done(call(libc::SYS_capset, [header.as_ptr() as usize, data.as_ptr() as usize]))
    }),
    ("own_dumps", |_| done(call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1]))),
    ("own_signal_handler", |_| {
        let action = [1usize, 0, 0, 0];
        let action = action.as_ptr() as usize;
        done(call(libc::SYS_rt_sigaction, [libc::SIGSYS as usize, action, 0, 8]))
    }),
    ("own_personality", |_| done(call(libc::SYS_personality, [0]))),
    ("user_namespace", |_| done(call(libc::SYS_unshare, [CLONE_NEWUSER as usize]))),
    ("network_namespace", |_| done(call(libc::SYS_unshare, [CLONE_NEWNET as usize]))),
    ("enter_namespace", |_| {
        match call(libc::SYS_setns, [0, 0]) {
            // Not a namespace; it was asked all the same.
            Err(Errno::EINVAL) => Ok("asked".to_owned()),
            other => done(other),
        }
    }),
];

fn exec() -> Outcome {
    let (path, nothing) = (c"/bin/true", [0usize]);
    let nothing = nothing.as_ptr() as usize;
    done(call(libc::SYS_execve, [path.as_ptr() as usize, nothing, nothing]))
}

fn signal_mask(signals: u64) -> Result<usize, Errno> {
    let signals = [signals];
    let signals = signals.as_ptr() as usize;
    call(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as usize, signals, 0, 8])
}

fn trace(process: usize) -> Outcome {
    done(call(libc::SYS_ptrace, [PTRACE_SEIZE, process, 0, 0]))
}

/// One byte of the supervisor, at an address that is no one's: whoever is let in gets a fault.
fn reach(stage: &Stage, number: libc::c_long) -> Outcome {
    let byte = [0u8];
    let (ours, theirs) = ([byte.as_ptr() as usize, 1], [4096usize, 1]);
    let (ours, theirs) = (ours.as_ptr() as usize, theirs.as_ptr() as usize);
    match call(number, [stage.number("supervisor"), ours, 1, theirs, 1, 0]) {
        Err(Errno::EFAULT) => Ok("let in".to_owned()),
        other => done(other),
    }
}
