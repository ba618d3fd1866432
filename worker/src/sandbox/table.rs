//! Which system calls a role may make: one table, a reason beside each group. Reviewed as a whole.
//!
//! What is in no group answers `ENOSYS`, as if the kernel did not know it, since libraries fall back on that and on no
//! other error. What is in [`forbidden`] ends the worker: no library asks for it, so somebody else does. A call of another
//! architecture's table (32 bits, by `int 0x80`) ends it too, one with the x32 bit is unknown.

use libc::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, PROT_READ, PROT_WRITE, SOCK_DGRAM, SOCK_STREAM,
    c_int, c_long,
};
use shared::counters;
use shared::descriptor::{ADOPTED, ADOPTION, LISTENER, METRICS, USAGE};
use shared::id::Role;
use shared::ring::RING_BYTES;

pub use super::forbidden::forbidden;

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
    /// All of these bits are set in the argument.
    With(u8, u64),
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

pub(super) const fn any(number: c_long) -> Call {
    Call(number, &[])
}

/// The argument has no bits but these, of the lower 32.
const fn only(index: u8, bits: c_int) -> Argument {
    Without(index, !(bits as u32) as u64)
}

use Argument::{AtMost, Is, IsApartFrom, IsNot, OwnProcess, Without};

/// Bytes in and out of what is already open, and being told when there are some. No `sendmsg`, which could hand over
/// descriptors: see [`HAND_OVER`] and [`ADOPT`]. No address in `sendto`: it could name whom no connection was made to.
const STREAMS: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    Call(libc::SYS_sendto, &[NOT_FAST_OPEN, AtMost(4, 0)]),
    any(libc::SYS_close),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
];
/// Fast open would be a connect in disguise.
const NOT_FAST_OPEN: Argument = Without(3, libc::MSG_FASTOPEN as u64);

/// Serving a listener that others share: take connections from it, but never end or change it.
const LISTEN: &[Call] = &[Call(libc::SYS_accept4, &[Is(0, LISTENER as u64)])];

/// The next supervisor, if this one is killed, connects to a socket that the worker was born with, and is looked at.
const ADOPT: &[Call] = &[
    Call(libc::SYS_accept4, &[Is(0, ADOPTION as u64)]),
    Call(libc::SYS_getsockopt, &[SOCKET_LEVEL, Is(2, libc::SO_PEERCRED as u64)]),
    // The listener, to nobody but the next supervisor: over a socket of its own a worker would get a copy of it, under a
    // number that no rule protects.
    Call(libc::SYS_sendmsg, &[Is(0, ADOPTED as u64), Without(2, libc::MSG_FASTOPEN as u64)]),
];

/// How long a signature is waited for.
const SIGNED: &[Call] =
    &[Call(libc::SYS_setsockopt, &[NOT_LISTENER, SOCKET_LEVEL, Is(2, libc::SO_RCVTIMEO as u64)])];

/// Whether what egress hands over is a connection.
const CONNECTED: &[Call] =
    &[Call(libc::SYS_getsockopt, &[SOCKET_LEVEL, Is(2, libc::SO_TYPE as u64)])];

/// Sockets that are there, apart from the listener: their liveness and latency, and nothing that attaches a program to
/// one or tells who is at the other end.
const SOCKETS: &[Call] = &[
    Call(libc::SYS_shutdown, &[IsNot(0, LISTENER as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, SOCKET_LEVEL, Is(2, libc::SO_KEEPALIVE as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, SOCKET_LEVEL, Is(2, libc::SO_LINGER as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, TCP_LEVEL, Is(2, libc::TCP_NODELAY as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, TCP_LEVEL, Is(2, libc::TCP_KEEPIDLE as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, TCP_LEVEL, Is(2, libc::TCP_KEEPINTVL as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, TCP_LEVEL, Is(2, libc::TCP_KEEPCNT as u64)]),
    Call(libc::SYS_setsockopt, &[NOT_LISTENER, TCP_LEVEL, Is(2, libc::TCP_USER_TIMEOUT as u64)]),
    // The runtime asks whether a socket is non-blocking before it takes it, and what became of a connection.
    Call(libc::SYS_fcntl, &[Is(1, libc::F_GETFL as u64)]),
    Call(libc::SYS_getsockopt, &[SOCKET_LEVEL, Is(2, libc::SO_ERROR as u64)]),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
];
const NOT_LISTENER: Argument = IsNot(0, LISTENER as u64);
const SOCKET_LEVEL: Argument = Is(1, libc::SOL_SOCKET as u64);
const TCP_LEVEL: Argument = Is(1, IPPROTO_TCP as u64);

/// Memory of this process alone, at addresses of the kernel's choice, none of it executable; and the metric slots. The
/// advice is the allocator's (4, 8), against dumps (16), and that of the random generator, which is to notice a fork (18).
const MEMORY: &[Call] = &[
    Call(libc::SYS_mmap, &[DATA, only(3, PRIVATE_MEMORY)]),
    Call(libc::SYS_mmap, &[DATA, Is(3, libc::MAP_SHARED as u64), Is(4, METRICS as u64)]),
    Call(libc::SYS_mprotect, &[DATA]),
    any(libc::SYS_munmap),
    Call(libc::SYS_mremap, &[only(3, libc::MREMAP_MAYMOVE)]),
    Call(libc::SYS_madvise, &[Is(2, libc::MADV_DONTNEED as u64)]),
    Call(libc::SYS_madvise, &[Is(2, libc::MADV_FREE as u64)]),
    Call(libc::SYS_madvise, &[Is(2, libc::MADV_DONTDUMP as u64)]),
    Call(libc::SYS_madvise, &[Is(2, libc::MADV_WIPEONFORK as u64)]),
    any(libc::SYS_brk),
];
const DATA: Argument = only(2, PROT_READ | PROT_WRITE);
const PRIVATE_MEMORY: c_int =
    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;

/// What all proxy workers count together comes with a message, under a number that nobody knows beforehand: by its length,
/// and only to be read and written, which the kernel grants for no socket and for no sealed memory. The ring of usage
/// events can be mapped so as well, and its worker may write to it anyway.
const COUNTERS: &[Call] = &[Call(
    libc::SYS_mmap,
    &[
        Is(1, counters::BYTES),
        Is(2, (PROT_READ | PROT_WRITE) as u64),
        Is(3, libc::MAP_SHARED as u64),
        Is(5, 0),
    ],
)];

/// Sealed memory from the supervisor is read at an offset of our own.
const SEALED_MEMORY: &[Call] = &[any(libc::SYS_pread64)];

/// Usage events into the ring, and nowhere behind its end.
const USAGE_RING: &[Call] =
    &[Call(libc::SYS_pwrite64, &[Is(0, USAGE as u64), AtMost(3, RING_BYTES)])];

/// Time, chance, waiting, and the bookkeeping of threads that are there: none can be made. Of `futex` only what locks and
/// condition variables need, not the operations with owners, in which most of its bugs were.
const THREAD: &[Call] = &[
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_getrandom),
    Call(libc::SYS_futex, &[IsApartFrom(1, FUTEX_FLAGS, libc::FUTEX_WAIT as u64)]),
    Call(libc::SYS_futex, &[IsApartFrom(1, FUTEX_FLAGS, libc::FUTEX_WAKE as u64)]),
    Call(libc::SYS_futex, &[IsApartFrom(1, FUTEX_FLAGS, libc::FUTEX_REQUEUE as u64)]),
    Call(libc::SYS_futex, &[IsApartFrom(1, FUTEX_FLAGS, libc::FUTEX_CMP_REQUEUE as u64)]),
    Call(libc::SYS_futex, &[IsApartFrom(1, FUTEX_FLAGS, libc::FUTEX_WAIT_BITSET as u64)]),
    any(libc::SYS_sched_yield),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    any(libc::SYS_rseq),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_restart_syscall),
];
const FUTEX_FLAGS: u64 = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64;

/// Ending, on purpose, by an abort that signals this very process, or by a fault, whose handler gives way to the signal's
/// own action. No other handler can be set: that of forbidden calls stays.
const END: &[Call] = &[
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    Call(libc::SYS_rt_sigaction, &[Is(0, libc::SIGABRT as u64)]),
    Call(libc::SYS_rt_sigaction, &[Is(0, libc::SIGSEGV as u64)]),
    Call(libc::SYS_rt_sigaction, &[Is(0, libc::SIGBUS as u64)]),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    Call(libc::SYS_tgkill, &[OwnProcess(0)]),
];

/// Answers with a descriptor, of a helper to whom the supervisor has introduced. Whoever hears a worker otherwise takes no
/// descriptor from it. Fast open would be a connect in disguise.
const HAND_OVER: &[Call] = &[Call(libc::SYS_sendmsg, &[Without(2, libc::MSG_FASTOPEN as u64)])];

/// Making connections for others and asking resolvers, over TCP and UDP and nothing else. `bind` is the resolver's, for the
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
    // A question to a resolver, over a socket that is not connected.
    Call(libc::SYS_sendto, &[NOT_FAST_OPEN]),
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
            COUNTERS,
            SEALED_MEMORY,
            USAGE_RING,
            THREAD,
            END,
            ADOPT,
            CONNECTED,
            SIGNED,
        ],
        Role::Status => &[STREAMS, LISTEN, SOCKETS, MEMORY, SEALED_MEMORY, THREAD, END],
        Role::Egress => &[STREAMS, SOCKETS, MEMORY, SEALED_MEMORY, THREAD, END, DIAL, HAND_OVER],
        // Connections that egress hands over, and what it counts.
        Role::Export => &[STREAMS, SOCKETS, MEMORY, SEALED_MEMORY, THREAD, END, CONNECTED],
        // They have sockets and answer on them, but never change one.
        Role::Signer | Role::Cache => &[STREAMS, MEMORY, SEALED_MEMORY, THREAD, END],
    }
}

/// Whether the role makes connections: all others lose that in Landlock too.
pub fn connects(role: Role) -> bool {
    permitted(role).iter().copied().flatten().any(|call| call.0 == libc::SYS_connect)
}
