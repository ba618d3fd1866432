//! Taking more than one's share: each is refused, or comes to an end that others do not notice.

use libc::{AF_INET, AF_UNIX, MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE};
use nix::errno::Errno;
use shared::descriptor::{CONTROL, LOG};

use super::{Attempt, done};
use crate::stage::Outcome;
use crate::sys::call;

/// Nobody who is limited gets so far.
const ROUNDS_MAX: usize = 100_000;
const MIB: usize = 1024 * 1024;
/// For the three kinds of the old interface; what is made is removed again.
const CREATE: usize = 0o600 | libc::IPC_CREAT as usize;

pub const ATTEMPTS: &[(&str, Attempt)] = &[
    ("descriptors_dup", |_| until_refused(|| call(libc::SYS_dup, [0]))),
    ("descriptors_socket", |_| {
        until_refused(|| call(libc::SYS_socket, [AF_INET as usize, libc::SOCK_STREAM as usize, 0]))
    }),
    ("descriptors_pair", |_| {
        let pair = [0i32; 2];
        let pair = pair.as_ptr() as usize;
        until_refused(|| call(libc::SYS_socketpair, [AF_UNIX as usize, 1, 0, pair]))
    }),
    ("descriptors_pipe", |_| {
        let pair = [0i32; 2];
        until_refused(|| call(libc::SYS_pipe2, [pair.as_ptr() as usize, 0]))
    }),
    ("descriptors_event", |_| until_refused(|| call(libc::SYS_eventfd2, [0, 0]))),
    ("descriptors_epoll", |_| until_refused(|| call(libc::SYS_epoll_create1, [0]))),
    ("descriptors_timer", |_| until_refused(|| call(libc::SYS_timerfd_create, [1, 0]))),
    ("descriptors_watch", |_| until_refused(|| call(libc::SYS_inotify_init1, [0]))),
    ("memory", |_| {
        let rights = (PROT_READ | PROT_WRITE) as usize;
        let flags = (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) as usize;
        // Enough to tell a limit from none.
        let size = 64 * MIB;
        until_refused(|| call(libc::SYS_mmap, [0, size, rights, flags, usize::MAX, 0]))
            .map(|count| format!("{count} of 64 MiB"))
    }),
    ("queue_of_supervisor", |_| {
        let frame = vec![0u8; 64 * 1024];
        let (at, flags) = (frame.as_ptr() as usize, libc::MSG_NOSIGNAL as usize);
        until_refused(|| call(libc::SYS_sendto, [CONTROL as usize, at, frame.len(), flags, 0, 0]))
    }),
    ("queue_of_log", |_| {
        let line = [b'x'; 1024];
        until_refused(|| call(libc::SYS_write, [LOG as usize, line.as_ptr() as usize, 1024]))
    }),
    ("message_queue", |_| {
        let queue = call(libc::SYS_msgget, [0, CREATE])?;
        done(call(libc::SYS_msgctl, [queue, libc::IPC_RMID as usize, 0]))
    }),
    ("semaphores", |_| {
        let set = call(libc::SYS_semget, [0, 1, CREATE])?;
        done(call(libc::SYS_semctl, [set, 0, libc::IPC_RMID as usize, 0]))
    }),
    ("shared_memory", |_| {
        let memory = call(libc::SYS_shmget, [0, 4096, CREATE])?;
        done(call(libc::SYS_shmctl, [memory, libc::IPC_RMID as usize, 0]))
    }),
    ("timers", |_| {
        let id = [0i32];
        done(call(libc::SYS_timer_create, [1, 0, id.as_ptr() as usize]))
    }),
];

/// Again and again until the kernel has enough; how often it went well. An error if it never did.
fn until_refused(mut again: impl FnMut() -> Result<usize, Errno>) -> Outcome {
    again()?;
    for count in 1..ROUNDS_MAX {
        if let Err(error) = again() {
            return Ok(format!("{count} then {error:?}"));
        }
    }
    Ok(format!("{ROUNDS_MAX} and no end"))
}
