//! The crate's only unsafe code: what happens between fork and exec of a worker, the descriptor of a process, locked memory, and
//! pages of the program that were needed only once.
//!
//! Between the two the child may only make system calls: another thread of ours may have held any lock at the fork.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{getrlimit, setrlimit};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid, setsid};
use shared::{descriptor, turns};

use super::limits::Limits;

/// The last of the descriptor numbers that a worker knows by heart.
const LAST_FIXED: RawFd = descriptor::ADOPTION;

/// What is handed to the next image has no lower number: it may know more numbers by heart than this one.
const FIRST_PASSED: RawFd = 64;

/// Highest capability number to try; the kernel answers EINVAL past its own last.
const CAPABILITIES: libc::c_ulong = 63;

/// Occupies the descriptor numbers that workers know by heart, so that nothing of ours ever has one of them and each can
/// be set in a child without overwriting another. To be called first thing.
pub fn reserve_descriptors() -> io::Result<Vec<File>> {
    let mut reserved = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        let number = file.as_raw_fd();
        if number > LAST_FIXED {
            return Ok(reserved);
        }
        reserved.push(file);
    }
}

/// A copy of a descriptor that stays open over an `execve`.
pub fn pass_on(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD(FIRST_PASSED))?;
    // SAFETY: a new descriptor of this call, that nothing else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets a descriptor stay open over an `execve`.
pub fn keep_over_exec(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(Into::into)
}

/// Takes over a descriptor that the image before has left open for us under this number, and lets it go no further. To be
/// called once for each number, before anything else is opened.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= LAST_FIXED {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    own(number)
}

/// Takes over what the service manager has left open for us, from the number 3 on, and moves it away from the numbers that
/// workers know by heart. To be called first thing.
pub fn inherited_from_manager(count: RawFd) -> Vec<io::Result<OwnedFd>> {
    let first = descriptor::CONTROL;
    (first..first.saturating_add(count))
        .map(|number| {
            let given = own(number)?;
            let moved = fcntl(given.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_PASSED))?;
            // SAFETY: a new descriptor of this call, that nothing else knows of.
            Ok(unsafe { OwnedFd::from_raw_fd(moved) })
        })
        .collect()
}

/// The version of Landlock in this kernel; an error says that there is none, or that it is kept from us.
pub fn landlock_version() -> io::Result<i64> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no ruleset, and answers a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0,
            VERSION,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn own(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD changes a flag of a descriptor of ours; on a closed number it fails.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open; whoever started this image has left it to us, and it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What a child becomes before it executes the worker.
#[derive(Clone, Debug)]
pub struct Child {
    /// Descriptors of ours and the numbers they get. Ours lie above the fixed numbers.
    pub descriptors: Vec<(RawFd, RawFd)>,
    /// User and group, where we may choose.
    pub user: Option<(Uid, Gid)>,
    /// What it may use at most.
    pub limits: Limits,
    /// Where it sends its files below `/proc`, see [`received_files`].
    pub witness: RawFd,
}

/// What a process tells of itself below `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnFile {
    Status,
    Limits,
    Stat,
    OutOfMemoryScore,
    Descriptors,
}

impl OwnFile {
    /// Its name there.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Limits => "limits",
            Self::Stat => "stat",
            Self::OutOfMemoryScore => "oom_score_adj",
            Self::Descriptors => "fd",
        }
    }
}

/// Those that a child sends, in this order.
pub const OWN_FILES: [(OwnFile, &CStr); 5] = [
    (OwnFile::Status, c"/proc/self/status"),
    (OwnFile::Limits, c"/proc/self/limits"),
    (OwnFile::Stat, c"/proc/self/stat"),
    (OwnFile::OutOfMemoryScore, c"/proc/self/oom_score_adj"),
    (OwnFile::Descriptors, c"/proc/self/fd"),
];

/// Lets `command` start its program as `child` says: fixed descriptors and no others, a session of its own, its limits,
/// its own user without a single capability, and no way to gain any.
pub fn confine(command: &mut Command, child: Child) {
    let prepare = move || {
        setsid()?;
        turns::ask_for(Duration::ZERO);
        // While there is room for descriptors. Without them the supervisor looks at the path.
        let _ = send_own_files(child.witness);
        close_on_exec(descriptor::CONTROL, RawFd::MAX)?;
        for (ours, number) in &child.descriptors {
            // Stays open over the exec.
            // SAFETY: dup2 on two descriptor numbers; `number` belongs to /dev/null (see `reserve_descriptors`).
            if unsafe { libc::dup2(*ours, *number) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        for (resource, limit) in &child.limits {
            let (_, ours) = getrlimit(*resource)?;
            let limit = ours.min(*limit);
            setrlimit(*resource, limit, limit)?;
        }
        drop_bounding_set();
        if let Some((user, group)) = child.user {
            setgroups(&[])?;
            setresgid(group, group, group)?;
            setresuid(user, user, user)?;
        }
        // Root as well, where no other user can be had: with `no_new_privs` the exec gives back none.
        drop_capabilities()?;
        nix::sys::prctl::set_no_new_privs()?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only, on values it owns; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
}

/// Not closed at once: the library's own pipe, on which a failed exec is reported, must last until the exec.
fn close_on_exec(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: changes a flag of descriptors of this (child) process only.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Fails where we lack the capability to do so; then there is nothing to drop for us either.
fn drop_bounding_set() {
    for capability in 0..=CAPABILITIES {
        // SAFETY: PR_CAPBSET_DROP takes one number and touches no memory.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

fn drop_capabilities() -> io::Result<()> {
    /// `struct __user_cap_header_struct` and `__user_cap_data_struct`, see capget(2).
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default, PartialEq)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;

    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes no pointer.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut has = [Data::default(); 2];
    // SAFETY: both point to values of the layout that version 3 asks for; the kernel writes the second one.
    let told = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, has.as_mut_ptr()) } == 0;
    // A service manager that gives none may forbid the call as well.
    if told && has == [Data::default(); 2] {
        return Ok(());
    }
    let none = [Data::default(); 2];
    // SAFETY: both point to values of the layout that version 3 asks for, which the kernel reads.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens this process's own files below `/proc` and sends them, in one message. Open files are closed by the exec.
fn send_own_files(socket: RawFd) -> io::Result<()> {
    /// `struct cmsghdr` and its data, see cmsg(3), which need no space in between.
    #[repr(C)]
    struct Rights {
        header: libc::cmsghdr,
        numbers: [RawFd; OWN_FILES.len()],
    }
    let mut numbers = [-1; OWN_FILES.len()];
    for (number, (which, path)) in numbers.iter_mut().zip(OWN_FILES) {
        // The folder is of interest by its size alone, and closed to whoever has changed the user.
        let access = if which == OwnFile::Descriptors { libc::O_PATH } else { libc::O_RDONLY };
        // SAFETY: the path is a string with its end.
        *number = unsafe { libc::open(path.as_ptr(), access | libc::O_CLOEXEC) };
        if *number == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    let mut byte = 0_u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: both are plain numbers and pointers, for which zero is a value.
    let (mut rights, mut message): (Rights, libc::msghdr) = unsafe { std::mem::zeroed() };
    rights.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of_val(&numbers)) as _;
    rights.header.cmsg_level = libc::SOL_SOCKET;
    rights.header.cmsg_type = libc::SCM_RIGHTS;
    rights.numbers = numbers;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = size_of::<Rights>() as _;
    // SAFETY: everything that the message points to lives here, and is as long as it says.
    if unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a child has sent through the other end before it executed its program, which it has: all of [`OWN_FILES`] or none.
pub fn received_files(socket: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let mut control = nix::cmsg_space!([RawFd; OWN_FILES.len()]);
    let mut byte = [0];
    let mut data = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let mut files = Vec::new();
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut control), flags);
    let Ok(received) = received else { return files };
    for message in received.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just opened these for us, and nothing else knows of them.
            files.extend(numbers.into_iter().map(|it| unsafe { OwnedFd::from_raw_fd(it) }));
        }
    }
    files
}

/// A descriptor that becomes readable when the child process ends.
pub fn process_descriptor(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers; a result that is not negative is a new descriptor, close-on-exec, that is ours alone.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let number = RawFd::try_from(number).map_err(|_| io::Error::last_os_error())?;
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Ends the process behind a descriptor of [`process_descriptor`]. Unlike its number, the descriptor can never come to mean
/// another process. One that has ended already is no error.
pub fn kill(process: &OwnedFd) -> io::Result<()> {
    let signal = libc::SIGKILL;
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes an open descriptor, two numbers, and a null pointer that stands for the default information.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_info, 0)
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// The code and constants of the program leave this process; what is used again comes back from the file, a few microseconds
/// for each piece. Most of it is of use only at the start, and would be most of what an idle supervisor takes.
pub fn forget_program() {
    unsafe extern "C" {
        // Set by the linker: the begin of the program, and the end of its code.
        safe static __executable_start: u8;
        safe static etext: u8;
    }
    let (begin, end) = (&raw const __executable_start, &raw const etext);
    let Some(length) = (end as usize).checked_sub(begin as usize) else { return };
    // SAFETY: between the two are only mappings of the program's file that nobody can write to, code and constants, so the
    // same bytes come back; what the dynamic loader has written lies behind them. Nothing in them is worth a lock.
    unsafe {
        libc::munlock(begin.cast(), length);
        libc::madvise(begin.cast_mut().cast(), length, libc::MADV_DONTNEED);
    }
}

/// Keeps every page of this process out of swap, from its first use on.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: takes flags; changes where pages may lie, not what they hold.
    let result =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A call that no kernel of today has, by which a system call filter of ours can be recognised: the error number that it
/// answers with.
pub fn retired_call() -> i32 {
    // SAFETY: the kernel does nothing at this number and takes no argument.
    if unsafe { libc::syscall(libc::SYS_nfsservctl) } == -1 {
        return io::Error::last_os_error().raw_os_error().unwrap_or_default();
    }
    0
}

/// What the kernel knows of a TCP connection, as far as it is needed here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFacts {
    /// Bytes that came in order, and could be read.
    pub bytes_in: u64,
    /// Segments with data that came, in whatever order.
    pub segments_in: u32,
    /// How often the oldest segment of ours was sent again.
    pub retransmits: u8,
}

/// The facts of a connection. The layout is the kernel's, which only ever appends (`struct tcp_info` in `linux/tcp.h`).
pub fn tcp_facts(socket: BorrowedFd<'_>) -> io::Result<TcpFacts> {
    const RETRANSMITS: usize = 2;
    const BYTES_IN: usize = 128;
    const SEGMENTS_IN: usize = 152;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, and how many into `length`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    // What an older kernel does not know stays 0.
    let field = |at: usize, size: usize| {
        let bytes = info.get(at..at.saturating_add(size)).unwrap_or_default();
        let mut whole = [0_u8; 8];
        whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(whole)
    };
    Ok(TcpFacts {
        bytes_in: field(BYTES_IN, 8),
        segments_in: u32::try_from(field(SEGMENTS_IN, 4)).unwrap_or(u32::MAX),
        retransmits: u8::try_from(field(RETRANSMITS, 1)).unwrap_or(u8::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_forgotten_takes_less_memory_and_runs_on() {
        let of_files = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        let before = of_files();
        forget_program();
        let left = of_files();
        assert!(left < before, "{left} of {before} KiB are left");
        assert_eq!(std::process::id().to_string().parse(), Ok(std::process::id()));
    }
}
