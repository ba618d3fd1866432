//! Calls that only somebody who has taken a worker over would make. They end it.

use libc::c_long;
use shared::descriptor::LISTENER;
use shared::id::Role;

use super::table::Argument::{Is, With};
use super::table::{Call, any};

/// What ends a worker of that role.
pub const fn forbidden(role: Role) -> &'static [&'static [Call]] {
    if role.listens() {
        &[PROCESSES, MEMORY, KERNEL, NAMESPACES, IDENTITY, SOCKETS, THE_LISTENER]
    } else {
        &[PROCESSES, MEMORY, KERNEL, NAMESPACES, IDENTITY, SOCKETS]
    }
}

/// Other programs, other processes, and other threads. `clone3` is unknown instead, since its flags cannot be looked at
/// and libraries then try `clone`.
const PROCESSES: &[Call] = &[
    any(libc::SYS_execve),
    any(libc::SYS_execveat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_fork),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_vfork),
    any(libc::SYS_clone),
    any(libc::SYS_ptrace),
    any(libc::SYS_process_vm_readv),
    any(libc::SYS_process_vm_writev),
    any(SYS_PROCESS_MADVISE),
    any(libc::SYS_pidfd_open),
    any(libc::SYS_pidfd_getfd),
    any(libc::SYS_pidfd_send_signal),
    any(libc::SYS_kill),
    any(libc::SYS_tkill),
    any(libc::SYS_rt_sigqueueinfo),
    any(libc::SYS_rt_tgsigqueueinfo),
    any(libc::SYS_kcmp),
];
/// The same number everywhere; the library names it for one architecture only.
const SYS_PROCESS_MADVISE: c_long = 440;

/// Code that was not in the program.
const MEMORY: &[Call] = &[
    Call(libc::SYS_mmap, &[With(2, libc::PROT_EXEC as u64)]),
    Call(libc::SYS_mprotect, &[With(2, libc::PROT_EXEC as u64)]),
    Call(libc::SYS_pkey_mprotect, &[With(2, libc::PROT_EXEC as u64)]),
    any(libc::SYS_personality),
    any(libc::SYS_userfaultfd),
];

/// Parts of the kernel with a wide surface, and what only an administrator asks for.
const KERNEL: &[Call] = &[
    any(libc::SYS_bpf),
    any(libc::SYS_io_uring_setup),
    any(libc::SYS_io_uring_enter),
    any(libc::SYS_io_uring_register),
    any(libc::SYS_perf_event_open),
    any(libc::SYS_keyctl),
    any(libc::SYS_add_key),
    any(libc::SYS_request_key),
    any(libc::SYS_init_module),
    any(libc::SYS_finit_module),
    any(libc::SYS_delete_module),
    any(libc::SYS_kexec_load),
    any(libc::SYS_kexec_file_load),
    any(libc::SYS_reboot),
    any(libc::SYS_swapon),
    any(libc::SYS_swapoff),
    any(libc::SYS_acct),
    any(libc::SYS_settimeofday),
    any(libc::SYS_clock_settime),
    any(libc::SYS_adjtimex),
    any(libc::SYS_clock_adjtime),
    any(libc::SYS_sethostname),
    any(libc::SYS_setdomainname),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_ioperm),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_modify_ldt),
];

/// Another view of the file system or of the machine.
const NAMESPACES: &[Call] = &[
    any(libc::SYS_mount),
    any(libc::SYS_umount2),
    any(libc::SYS_pivot_root),
    any(libc::SYS_chroot),
    any(libc::SYS_unshare),
    any(libc::SYS_setns),
    any(libc::SYS_open_tree),
    any(libc::SYS_move_mount),
    any(libc::SYS_fsopen),
    any(libc::SYS_fsconfig),
    any(libc::SYS_fsmount),
    any(libc::SYS_fspick),
    any(libc::SYS_mount_setattr),
    any(libc::SYS_open_by_handle_at),
];

/// Another user, more capabilities.
const IDENTITY: &[Call] = &[
    any(libc::SYS_setuid),
    any(libc::SYS_setgid),
    any(libc::SYS_setreuid),
    any(libc::SYS_setregid),
    any(libc::SYS_setresuid),
    any(libc::SYS_setresgid),
    any(libc::SYS_setfsuid),
    any(libc::SYS_setfsgid),
    any(libc::SYS_setgroups),
    any(libc::SYS_capset),
];

/// A port of one's own, or a connection in disguise.
const SOCKETS: &[Call] = &[
    any(libc::SYS_listen),
    Call(libc::SYS_sendto, &[With(3, libc::MSG_FASTOPEN as u64)]),
    Call(libc::SYS_sendmsg, &[With(2, libc::MSG_FASTOPEN as u64)]),
];

/// What would end or change the listener that all workers share.
const THE_LISTENER: &[Call] = &[
    Call(libc::SYS_shutdown, &[Is(0, LISTENER as u64)]),
    Call(libc::SYS_connect, &[Is(0, LISTENER as u64)]),
    Call(libc::SYS_bind, &[Is(0, LISTENER as u64)]),
    Call(libc::SYS_setsockopt, &[Is(0, LISTENER as u64)]),
    Call(libc::SYS_fcntl, &[Is(0, LISTENER as u64), Is(1, libc::F_SETFL as u64)]),
    Call(libc::SYS_ioctl, &[Is(0, LISTENER as u64)]),
];
