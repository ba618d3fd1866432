//! Ending, changing or copying the listener that all workers share.

use libc::{F_DUPFD, F_GETFL, F_SETFL, O_NONBLOCK};
use shared::descriptor::{CONTROL, LISTENER};

use super::network::{rights, send_message};
use super::{Attempt, done};
use crate::sys::call;

const SOCKET: usize = LISTENER as usize;

pub const ATTEMPTS: &[(&str, Attempt)] = &[
    ("listener_shutdown", |_| done(call(libc::SYS_shutdown, [SOCKET, libc::SHUT_RDWR as usize]))),
    ("listener_listen", |_| done(call(libc::SYS_listen, [SOCKET, 0]))),
    ("listener_connect", |_| {
        // To nothing, which ends it.
        let nothing = [0u64; 2];
        done(call(libc::SYS_connect, [SOCKET, nothing.as_ptr() as usize, 16]))
    }),
    ("listener_bind", |_| {
        let nothing = [0u64; 2];
        done(call(libc::SYS_bind, [SOCKET, nothing.as_ptr() as usize, 16]))
    }),
    ("listener_option", |_| {
        let (level, option, on) = (libc::SOL_SOCKET, libc::SO_KEEPALIVE, [1i32]);
        let on = on.as_ptr() as usize;
        done(call(libc::SYS_setsockopt, [SOCKET, level as usize, option as usize, on, 4]))
    }),
    ("listener_flags", |_| {
        let flags = call(libc::SYS_fcntl, [SOCKET, F_GETFL as usize])?;
        let blocking = flags & !(O_NONBLOCK as usize);
        done(call(libc::SYS_fcntl, [SOCKET, F_SETFL as usize, blocking]))
    }),
    ("listener_ioctl", |_| {
        let off = [0i32];
        done(call(libc::SYS_ioctl, [SOCKET, libc::FIONBIO as usize, off.as_ptr() as usize]))
    }),
    ("listener_dup", |_| done(call(libc::SYS_dup, [SOCKET]))),
    ("listener_dup3", |_| done(call(libc::SYS_dup3, [SOCKET, 100, 0]))),
    ("listener_dup_by_fcntl", |_| done(call(libc::SYS_fcntl, [SOCKET, F_DUPFD as usize, 20]))),
    ("listener_handed_over", |_| send_message(CONTROL as usize, 0, 0, 0, &rights(LISTENER))),
];
