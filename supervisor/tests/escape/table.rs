//! What must come of each attempt, per role.

use shared::id::Role;

/// What must come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The call is unknown: `ENOSYS`.
    Unknown,
    /// The worker ends, and its log names this call.
    Ends(libc::c_long),
    /// The kernel ends the worker with this signal.
    Killed(&'static str),
    /// It works: it is what the role is for.
    Allowed,
    /// It works up to a limit.
    Bounded,
    /// Landlock denies it; where the kernel has no such rule it works.
    Landlock,
    /// The role lacks what is attempted on.
    Absent,
}

use Expected::{Absent, Allowed, Bounded, Ends, Killed, Landlock, Unknown};

/// An attempt, and what must come of it in the roles proxy, status, egress, signer, cache, export.
type Row = (&'static str, [Expected; 6]);

const fn all(name: &'static str, expected: Expected) -> Row {
    (name, [expected; 6])
}

/// For egress alone: the first is everybody else's.
const fn egress(name: &'static str, others: Expected, egress: Expected) -> Row {
    (name, [others, others, egress, others, others, others])
}

/// On the listener, which two roles have.
const fn listener(name: &'static str, expected: Expected) -> Row {
    (name, [expected, expected, Absent, Absent, Absent, Absent])
}

/// Connecting, which is for egress alone.
const CONNECTING: &[Row] = &[
    egress("tcp", Unknown, Allowed),
    egress("tcp6", Unknown, Allowed),
    egress("udp", Unknown, Allowed),
    egress("fast_open", Unknown, Ends(libc::SYS_sendto)),
    egress("fast_open_message", Unknown, Ends(libc::SYS_sendmsg)),
    egress("name_a_receiver", Unknown, Allowed),
    egress("bind", Unknown, Landlock),
    egress("listen", Unknown, Ends(libc::SYS_listen)),
    egress("descriptors_socket", Unknown, Bounded),
];

const ROWS: &[Row] = &[
    // files.rs
    all("read_key", Unknown),
    all("read_state_directory", Unknown),
    all("read_passwd", Unknown),
    all("read_own_maps", Unknown),
    all("write_own_memory", Unknown),
    all("read_supervisor_environment", Unknown),
    all("read_supervisor_memory", Unknown),
    all("read_sibling_environment", Unknown),
    all("read_sibling_memory", Unknown),
    all("open_path_only", Unknown),
    all("openat2", Unknown),
    #[cfg(target_arch = "x86_64")]
    all("open_old", Unknown),
    all("open_by_handle", Ends(libc::SYS_open_by_handle_at)),
    all("stat", Unknown),
    all("create_file", Unknown),
    all("remove_file", Unknown),
    all("rename_file", Unknown),
    all("memory_file", Unknown),
    all("secret_memory", Unknown),
    all("resize_ring", Unknown),
    all("resize_metrics", Unknown),
    ("write_behind_ring", [Killed("SIGXFSZ"), Unknown, Unknown, Unknown, Unknown, Unknown]),
    all("write_far_behind_ring", Unknown),
    all("write_metrics_at", Unknown),
    all("terminal_input", Unknown),
    // network.rs
    all("mptcp", Unknown),
    all("fast_open_old_socket", Ends(libc::SYS_sendto)),
    all("unix_path", Unknown),
    all("unix_abstract", Unknown),
    all("unix_pair", Unknown),
    all("vsock", Unknown),
    all("netlink", Unknown),
    all("raw", Unknown),
    all("packet", Unknown),
    all("crypto_socket", Unknown),
    all("accept_from_control", Unknown),
    all("supervisor_descriptor_by_socket", Unknown),
    all("program_on_socket", Unknown),
    // Egress hands connections to its clients; the supervisor ends whoever sends it a descriptor.
    egress("descriptor_to_supervisor", Unknown, Allowed),
    // listener.rs
    listener("listener_shutdown", Ends(libc::SYS_shutdown)),
    listener("listener_listen", Ends(libc::SYS_listen)),
    listener("listener_connect", Ends(libc::SYS_connect)),
    listener("listener_bind", Ends(libc::SYS_bind)),
    listener("listener_option", Ends(libc::SYS_setsockopt)),
    listener("listener_flags", Ends(libc::SYS_fcntl)),
    listener("listener_ioctl", Ends(libc::SYS_ioctl)),
    listener("listener_dup", Unknown),
    listener("listener_dup3", Unknown),
    listener("listener_dup_by_fcntl", Unknown),
    listener("listener_handed_over", Unknown),
    // processes.rs
    all("exec", Ends(libc::SYS_execve)),
    all("exec_at", Ends(libc::SYS_execveat)),
    all("exec_with_the_signal_blocked", Killed("SIGSYS")),
    #[cfg(target_arch = "x86_64")]
    all("fork", Ends(libc::SYS_fork)),
    #[cfg(target_arch = "x86_64")]
    all("vfork", Ends(libc::SYS_vfork)),
    all("clone", Ends(libc::SYS_clone)),
    all("clone3", Unknown),
    // The library blocks all signals meanwhile.
    all("thread", Killed("SIGSYS")),
    all("trace_supervisor", Ends(libc::SYS_ptrace)),
    all("trace_sibling", Ends(libc::SYS_ptrace)),
    all("read_supervisor_by_call", Ends(libc::SYS_process_vm_readv)),
    all("write_supervisor_by_call", Ends(libc::SYS_process_vm_writev)),
    all("supervisor_descriptor", Ends(libc::SYS_pidfd_open)),
    all("descriptor_of_supervisor", Ends(libc::SYS_pidfd_getfd)),
    all("signal_supervisor", Ends(libc::SYS_kill)),
    all("signal_sibling", Ends(libc::SYS_kill)),
    all("signal_supervisor_thread", Unknown),
    all("signal_supervisor_old", Ends(libc::SYS_tkill)),
    all("signal_supervisor_queued", Ends(libc::SYS_rt_sigqueueinfo)),
    all("signal_by_descriptor", Ends(libc::SYS_pidfd_send_signal)),
    all("limits_of_supervisor", Unknown),
    all("slow_supervisor", Unknown),
    all("own_user", Ends(libc::SYS_setuid)),
    all("own_users", Ends(libc::SYS_setresuid)),
    all("own_groups", Ends(libc::SYS_setgroups)),
    all("own_capabilities", Ends(libc::SYS_capset)),
    all("own_dumps", Unknown),
    all("own_signal_handler", Unknown),
    all("own_personality", Ends(libc::SYS_personality)),
    all("user_namespace", Ends(libc::SYS_unshare)),
    all("network_namespace", Ends(libc::SYS_unshare)),
    all("enter_namespace", Ends(libc::SYS_setns)),
    // kernel.rs
    all("io_uring", Ends(libc::SYS_io_uring_setup)),
    all("io_uring_enter", Ends(libc::SYS_io_uring_enter)),
    all("async_io", Unknown),
    all("bpf", Ends(libc::SYS_bpf)),
    all("perf", Ends(libc::SYS_perf_event_open)),
    all("page_faults", Ends(libc::SYS_userfaultfd)),
    all("keys", Ends(libc::SYS_keyctl)),
    all("add_key", Ends(libc::SYS_add_key)),
    all("request_key", Ends(libc::SYS_request_key)),
    all("module", Ends(libc::SYS_init_module)),
    all("module_file", Ends(libc::SYS_finit_module)),
    all("kexec", Ends(libc::SYS_kexec_load)),
    all("reboot", Ends(libc::SYS_reboot)),
    all("swap", Ends(libc::SYS_swapon)),
    all("accounting", Ends(libc::SYS_acct)),
    all("clock", Ends(libc::SYS_clock_settime)),
    all("host_name", Ends(libc::SYS_sethostname)),
    all("mount", Ends(libc::SYS_mount)),
    all("mount_new", Ends(libc::SYS_fsopen)),
    all("mount_tree", Ends(libc::SYS_open_tree)),
    all("unmount", Ends(libc::SYS_umount2)),
    all("pivot_root", Ends(libc::SYS_pivot_root)),
    all("chroot", Ends(libc::SYS_chroot)),
    all("code_new", Ends(libc::SYS_mmap)),
    all("code_made_from_data", Ends(libc::SYS_mprotect)),
    all("memory_in_place", Unknown),
    all("memory_shared", Unknown),
    all("ring_mapped", Unknown),
    all("memory_locked", Unknown),
    all("lock_of_others", Unknown),
    #[cfg(target_arch = "x86_64")]
    all("calls_of_32_bits", Killed("SIGSYS")),
    #[cfg(target_arch = "x86_64")]
    all("calls_of_x32", Unknown),
    #[cfg(target_arch = "x86_64")]
    all("socket_of_x32", Unknown),
    #[cfg(target_arch = "x86_64")]
    all("ports", Ends(libc::SYS_iopl)),
    #[cfg(target_arch = "x86_64")]
    all("segments", Ends(libc::SYS_modify_ldt)),
    // exhaust.rs
    all("descriptors_dup", Unknown),
    all("descriptors_pair", Unknown),
    all("descriptors_pipe", Unknown),
    all("descriptors_event", Unknown),
    all("descriptors_epoll", Unknown),
    all("descriptors_timer", Unknown),
    all("descriptors_watch", Unknown),
    all("memory", Bounded),
    all("queue_of_supervisor", Bounded),
    all("queue_of_log", Bounded),
    all("message_queue", Unknown),
    all("semaphores", Unknown),
    all("shared_memory", Unknown),
    all("timers", Unknown),
];

/// Every attempt, and what must come of it in that role.
pub fn expected(role: Role) -> Vec<(&'static str, Expected)> {
    let column = match role {
        Role::Proxy => 0,
        Role::Status => 1,
        Role::Egress => 2,
        Role::Signer => 3,
        Role::Cache => 4,
        Role::Export => 5,
    };
    let of = |rows: &'static [Row], column: usize| {
        rows.iter().map(move |(name, expected)| (*name, expected[column]))
    };
    of(CONNECTING, column).chain(of(ROWS, column)).collect()
}

/// What works wherever nothing confines a process of root (but that it has no capability): an attempt that failed there too
/// would prove nothing.
pub const WORKS_UNCONFINED: &[&str] = &[
    "read_key",
    "read_state_directory",
    "read_passwd",
    "read_own_maps",
    "read_sibling_environment",
    "open_path_only",
    "stat",
    "create_file",
    "remove_file",
    "memory_file",
    "resize_ring",
    "tcp",
    "udp",
    "fast_open",
    "unix_path",
    "unix_abstract",
    "unix_pair",
    "netlink",
    "bind",
    "listen",
    "program_on_socket",
    "descriptor_to_supervisor",
    "listener_shutdown",
    "listener_listen",
    "listener_option",
    "listener_flags",
    "listener_dup",
    "listener_handed_over",
    "exec",
    "clone",
    "thread",
    "signal_supervisor",
    "signal_sibling",
    "own_dumps",
    "own_signal_handler",
    "code_new",
    "code_made_from_data",
    "memory_in_place",
    "memory_shared",
    "descriptors_dup",
    "descriptors_socket",
    "descriptors_pipe",
    "descriptors_event",
    "timers",
];
