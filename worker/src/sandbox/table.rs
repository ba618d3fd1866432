//! Which system calls a role may make: one table, a reason beside each group. Reviewed as a whole.
//!
//! What is in no group answers `ENOSYS`, as if the kernel did not know it, since libraries fall back on that and on no
//! other error. What is in [`FORBIDDEN`] ends the worker: no library asks for it, so somebody else does.

use libc::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, PROT_EXEC, SOCK_DGRAM, SOCK_STREAM, c_int, c_long,
};
use shared::descriptor::{ADOPTION, LISTENER, USAGE};
use shared::id::Role;
use shared::ring::RING_BYTES;

/// Bits of `socket(2)`'s type that are flags, not a type.
const SOCKET_FLAGS: c_int = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A condition on one argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// The argument is this value.
    Is(u8, u64),
    /// The argument is not this value.
    IsNot(u8, u64),
    /// None of these bits are set in the argument.
    Without(u8, u64),
    /// The argument, apart from these bits, is this value.
    IsApartFrom(u8, u64, u64),
    /// The argument, all 64 bits of it, is at most this value.
    AtMost(u8, u64),
    /// The argument is the id of this process.
    OwnProcess(u8),
}

/// One call, permitted if every condition holds.
#[derive(Clone, Copy, Debug)]
pub struct Call(pub c_long, pub &'static [Argument]);

const fn any(number: c_long) -> Call {
    Call(number, &[])
}

use Argument::{AtMost, Is, IsApartFrom, IsNot, OwnProcess, Without};

/// Bytes in and out of what is already open, and being told when there are some. No `sendmsg`, which could hand over
/// descriptors: see [`HAND_OVER`].
const STREAMS: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    // Fast open would be a connect in disguise.
    Call(libc::SYS_sendto, &[Without(3, libc::MSG_FASTOPEN as u64)]),
    any(libc::SYS_close),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
];

/// Serving a listener that others share: take connections from it, but never end or change it.
const LISTEN: &[Call] = &[Call(libc::SYS_accept4, &[Is(0, LISTENER as u64)])];

/// The next supervisor, if this one is killed, connects to a socket that the worker was born with.
const ADOPT: &[Call] = &[Call(libc::SYS_accept4, &[Is(0, ADOPTION as u64)])];

/// Sockets that are there, apart from the listener.
const SOCKETS: &[Call] = &[
    Call(libc::SYS_shutdown, &[IsNot(0, LISTENER as u64)]),
    Call(libc::SYS_setsockopt, &[IsNot(0, LISTENER as u64)]),
    // The runtime asks whether a socket is non-blocking before it takes it.
    Call(libc::SYS_fcntl, &[Is(1, libc::F_GETFL as u64)]),
    any(libc::SYS_getsockopt),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
];

/// Memory, none of it executable.
const MEMORY: &[Call] = &[
    Call(libc::SYS_mmap, &[Without(2, PROT_EXEC as u64)]),
    Call(libc::SYS_mprotect, &[Without(2, PROT_EXEC as u64)]),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_brk),
];

/// Sealed memory from the supervisor is read at an offset of our own.
const SEALED_MEMORY: &[Call] = &[any(libc::SYS_pread64)];

/// Usage events into the ring, and nowhere behind its end.
const USAGE_RING: &[Call] =
    &[Call(libc::SYS_pwrite64, &[Is(0, USAGE as u64), AtMost(3, RING_BYTES)])];

/// Time, chance, waiting, and the bookkeeping of the one thread.
const THREAD: &[Call] = &[
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_getrandom),
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    any(libc::SYS_rseq),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_restart_syscall),
];

/// Ending, on purpose or by an abort that signals this very process.
const END: &[Call] = &[
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    Call(libc::SYS_tgkill, &[OwnProcess(0)]),
];

/// Answers with a descriptor: a helper to whom the supervisor has introduced, an orphaned proxy worker to the next supervisor.
/// Whoever hears a worker otherwise takes no descriptor from it. Fast open would be a connect in disguise.
const HAND_OVER: &[Call] = &[Call(libc::SYS_sendmsg, &[Without(2, libc::MSG_FASTOPEN as u64)])];

/// Making upstream connections and asking resolvers, over TCP and UDP and nothing else. `bind` is the resolver's, for the
/// random port of a question; a TCP port is denied by Landlock, and nothing can `listen`.
const DIAL: &[Call] = &[
    Call(libc::SYS_socket, &[Is(0, AF_INET as u64), STREAM, TCP]),
    Call(libc::SYS_socket, &[Is(0, AF_INET6 as u64), STREAM, TCP]),
    Call(libc::SYS_socket, &[Is(0, AF_INET as u64), DATAGRAM, UDP]),
    Call(libc::SYS_socket, &[Is(0, AF_INET6 as u64), DATAGRAM, UDP]),
    Call(libc::SYS_socket, &[Is(0, AF_INET as u64), STREAM, DEFAULT]),
    Call(libc::SYS_socket, &[Is(0, AF_INET6 as u64), STREAM, DEFAULT]),
    Call(libc::SYS_socket, &[Is(0, AF_INET as u64), DATAGRAM, DEFAULT]),
    Call(libc::SYS_socket, &[Is(0, AF_INET6 as u64), DATAGRAM, DEFAULT]),
    // Connecting the listener would end it for everybody.
    Call(libc::SYS_connect, &[IsNot(0, LISTENER as u64)]),
    Call(libc::SYS_bind, &[IsNot(0, LISTENER as u64)]),
];
const STREAM: Argument = IsApartFrom(1, SOCKET_FLAGS as u64, SOCK_STREAM as u64);
const DATAGRAM: Argument = IsApartFrom(1, SOCKET_FLAGS as u64, SOCK_DGRAM as u64);
const DEFAULT: Argument = Is(2, 0);
const TCP: Argument = Is(2, IPPROTO_TCP as u64);
const UDP: Argument = Is(2, IPPROTO_UDP as u64);

/// The groups of a role.
pub const fn permitted(role: Role) -> &'static [&'static [Call]] {
    match role {
        Role::Proxy => &[
            STREAMS,
            LISTEN,
            SOCKETS,
            MEMORY,
            SEALED_MEMORY,
            USAGE_RING,
            THREAD,
            END,
            DIAL,
            ADOPT,
            HAND_OVER,
        ],
        Role::Status => &[STREAMS, LISTEN, SOCKETS, MEMORY, SEALED_MEMORY, THREAD, END],
        Role::Egress => &[STREAMS, SOCKETS, MEMORY, SEALED_MEMORY, THREAD, END, DIAL, HAND_OVER],
        Role::Signer => &[STREAMS, SOCKETS, MEMORY, SEALED_MEMORY, THREAD, END],
    }
}

/// Calls that only somebody who has taken the worker over would make.
pub const FORBIDDEN: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_capset,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];
