//! Parts of the kernel with a wide surface, code that was not in the program, and what only administrators ask for.

use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE};
use nix::errno::Errno;

use super::{Attempt, done};
use crate::stage::Outcome;
use crate::sys::call;

/// Bit by which a call of the x32 table is told from one of our own.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// An address that no call can use.
const NOWHERE: usize = 16;

pub const ATTEMPTS: &[(&str, Attempt)] = &[
    ("io_uring", |_| {
        let parameters = [0u8; 256];
        done(call(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as usize]))
    }),
    ("io_uring_enter", |_| asked(libc::SYS_io_uring_enter, [0, 0, 0, 0, 0])),
    ("async_io", |_| {
        let context = [0usize];
        done(call(libc::SYS_io_setup, [1, context.as_ptr() as usize]))
    }),
    ("bpf", |_| asked(libc::SYS_bpf, [0, NOWHERE, 64])),
    ("perf", |_| asked(libc::SYS_perf_event_open, [NOWHERE, 0, usize::MAX, usize::MAX, 0])),
    ("page_faults", |_| done(call(libc::SYS_userfaultfd, [0]))),
    ("keys", |_| asked(libc::SYS_keyctl, [0, usize::MAX - 2, 0])),
    ("add_key", |_| asked(libc::SYS_add_key, [NOWHERE, NOWHERE, 0, 0, 0])),
    ("request_key", |_| asked(libc::SYS_request_key, [NOWHERE, NOWHERE, 0, 0])),
    ("module", |_| asked(libc::SYS_init_module, [NOWHERE, 0, NOWHERE])),
    ("module_file", |_| asked(libc::SYS_finit_module, [usize::MAX, NOWHERE, 0])),
    ("kexec", |_| asked(libc::SYS_kexec_load, [0, usize::MAX, 0, usize::MAX])),
    // Without the right number nothing happens.
    ("reboot", |_| asked(libc::SYS_reboot, [0, 0, 0])),
    ("swap", |_| asked(libc::SYS_swapon, [NOWHERE, 0])),
    ("accounting", |_| asked(libc::SYS_acct, [NOWHERE])),
    ("clock", |_| asked(libc::SYS_clock_settime, [0, NOWHERE])),
    ("host_name", |_| asked(libc::SYS_sethostname, [NOWHERE, 4])),
    ("mount", |_| asked(libc::SYS_mount, [NOWHERE, NOWHERE, NOWHERE, 0, 0])),
    ("mount_new", |_| asked(libc::SYS_fsopen, [NOWHERE, 0])),
    ("mount_tree", |_| asked(libc::SYS_open_tree, [usize::MAX, NOWHERE, 0])),
    ("unmount", |_| asked(libc::SYS_umount2, [NOWHERE, 0])),
    ("pivot_root", |_| asked(libc::SYS_pivot_root, [NOWHERE, NOWHERE])),
    ("chroot", |_| asked(libc::SYS_chroot, [NOWHERE])),
    ("code_new", |_| map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS)),
    ("code_made_from_data", |_| {
        let data = call(libc::SYS_mmap, mapping(PROT_READ | PROT_WRITE, 0))?;
        done(call(libc::SYS_mprotect, [data, 4096, (PROT_READ | PROT_EXEC) as usize]))
    }),
    ("memory_in_place", |_| {
        let data = call(libc::SYS_mmap, mapping(PROT_READ | PROT_WRITE, 0))?;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        let none = usize::MAX;
        done(call(libc::SYS_mmap, [data, 4096, PROT_READ as usize, flags as usize, none, 0]))
    }),
    ("memory_shared", |_| map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS)),
    ("ring_mapped", |_| {
        let rights = (PROT_READ | PROT_WRITE) as usize;
        let ring = shared::descriptor::USAGE as usize;
        done(call(libc::SYS_mmap, [0, 4096, rights, MAP_SHARED as usize, ring, 0]))
    }),
    ("memory_locked", |_| {
        let data = call(libc::SYS_mmap, mapping(PROT_READ | PROT_WRITE, 0))?;
        done(call(libc::SYS_mlock, [data, 4096]))
    }),
    ("lock_of_others", |_| {
        // A lock with an owner, and its waiters' priorities.
        let word = [0u32];
        done(call(libc::SYS_futex, [word.as_ptr() as usize, 6, 0, 0, 0, 0]))
    }),
    #[cfg(target_arch = "x86_64")]
    ("calls_of_32_bits", |_| done(crate::sys::getpid_of_32_bits())),
    #[cfg(target_arch = "x86_64")]
    ("calls_of_x32", |_| done(call(X32 | libc::SYS_getpid, []))),
    #[cfg(target_arch = "x86_64")]
    ("socket_of_x32", |_| done(call(X32 | libc::SYS_socket, [libc::AF_UNIX as usize, 1, 0]))),
    #[cfg(target_arch = "x86_64")]
    ("ports", |_| asked(libc::SYS_iopl, [4])),
    #[cfg(target_arch = "x86_64")]
    ("segments", |_| {
        let buffer = [0u8; 16];
        done(call(libc::SYS_modify_ldt, [0, buffer.as_ptr() as usize, 16]))
    }),
];

fn mapping(rights: i32, more: i32) -> [usize; 6] {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | more;
    [0, 4096, rights as usize, flags as usize, usize::MAX, 0]
}

fn map(rights: i32, flags: i32) -> Outcome {
    done(call(libc::SYS_mmap, [0, 4096, rights as usize, flags as usize, usize::MAX, 0]))
}

/// A call with arguments that nothing can come of. Errors that only somebody gets who is let in count as success; the call
/// itself must do no harm where nothing is confined.
fn asked<const COUNT: usize>(number: libc::c_long, arguments: [usize; COUNT]) -> Outcome {
    match call(number, arguments) {
        Err(Errno::EFAULT | Errno::EINVAL | Errno::EBADF | Errno::ENOKEY | Errno::E2BIG) => {
            Ok("asked".to_owned())
        }
        other => done(other),
    }
}
