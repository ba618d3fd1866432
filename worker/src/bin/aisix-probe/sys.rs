//! System calls by number, past every library, which is how somebody who has taken a worker over makes them.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

use libc::c_long;
use nix::errno::Errno;

/// Makes a system call. What it gives is not looked at, unless it is an error.
pub fn call<const COUNT: usize>(number: c_long, arguments: [usize; COUNT]) -> Result<usize, Errno> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: pointers among the arguments are those of values that live until the call returns, as each attempt sees to.
    // What else the call does to this process is what is being tried; the process ends right after it.
    let result = unsafe {
        libc::syscall(
            number,
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )
    };
    usize::try_from(result).map_err(|_| Errno::last())
}

/// The same for a call that returns twice. The second time it leaves.
pub fn call_and_leave<const COUNT: usize>(
    number: c_long,
    arguments: [usize; COUNT],
) -> Result<usize, Errno> {
    let result = call(number, arguments);
    if result == Ok(0) {
        // SAFETY: ends the new process.
        unsafe { libc::_exit(0) };
    }
    result
}

/// `vfork`, whose child leaves without touching the stack that it shares with us.
#[cfg(target_arch = "x86_64")]
pub fn vfork() -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the child, in which the first call gives 0, makes one more system call and is gone.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rax, 60",
            "xor rdi, rdi",
            "syscall",
            "2:",
            inlateout("rax") libc::SYS_vfork as isize => result,
            out("rdi") _,
            out("rcx") _,
            out("r11") _,
        );
    }
    usize::try_from(result).map_err(|_| Errno::from_raw(i32::try_from(-result).unwrap_or(0)))
}

/// `getpid` by the entry for programs of 32 bits.
#[cfg(target_arch = "x86_64")]
pub fn getpid_of_32_bits() -> Result<usize, Errno> {
    let result: i32;
    // SAFETY: the call takes no argument. The entry keeps all registers but those named.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") 20 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    usize::try_from(result).map_err(|_| Errno::from_raw(-result))
}

/// Waits until there is something to read. Only before the process is locked in.
pub fn wait_readable(descriptor: RawFd, limit: Duration) -> bool {
    let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry that lives until the call returns.
    unsafe { libc::poll(&raw mut entry, 1, milliseconds) == 1 }
}
