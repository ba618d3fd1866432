//! The crate's only unsafe code: descriptors that are known by number only, the handler of forbidden system calls, and the
//! allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{SockFlag, accept4};
use shared::descriptor;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Highest descriptor a worker is born with.
const BORN_MAX: usize = 16;

/// Takes over a descriptor that this process was started with. `None` if there is none, or if it was taken before.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    static TAKEN: [AtomicBool; BORN_MAX] = [const { AtomicBool::new(false) }; BORN_MAX];
    let taken = TAKEN.get(usize::try_from(number).ok()?)?;
    // SAFETY: F_GETFD only reads the descriptor table; on a closed number it fails.
    let is_open = unsafe { libc::fcntl(number, libc::F_GETFD) } != -1;
    if !is_open || taken.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the number is open, was so before this program opened anything (it is one of the fixed numbers that the
    // supervisor set up), and is given out once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The listening socket, by the number that it keeps for as long as this process lives.
pub fn listener() -> BorrowedFd<'static> {
    // SAFETY: in the roles that listen the number is open from the birth of the process, and whoever serves it closes it
    // only when the process is about to leave.
    unsafe { BorrowedFd::borrow_raw(descriptor::LISTENER) }
}

/// The user that this process runs as. Asked before the sandbox closes, and answered from memory after it.
pub fn born_user() -> u32 {
    static USER: OnceLock<u32> = OnceLock::new();
    *USER.get_or_init(|| nix::unistd::geteuid().as_raw())
}

/// How many descriptors this process may have. Asked before the sandbox closes, and answered from memory after it.
pub fn files_max() -> usize {
    static FILES: OnceLock<usize> = OnceLock::new();
    *FILES.get_or_init(|| {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
        usize::try_from(soft).unwrap_or(usize::MAX)
    })
}

/// Hands memory that is free back to the system, which the allocator otherwise keeps for what comes next.
pub fn give_back_memory() {
    unsafe extern "C" {
        /// Of mimalloc, the allocator of this program; the crate for it has it only with a dependency more.
        safe fn mi_collect(force: bool);
    }
    mi_collect(true);
}

/// mimalloc, asked in the words that cost it least: its crate names an alignment each time, even one that every piece has.
#[derive(Debug)]
pub struct Allocator;

/// Every piece of mimalloc's is aligned to a word.
const ALIGNED_ANYWAY: usize = align_of::<usize>();

unsafe extern "C" {
    fn mi_malloc(size: usize) -> *mut libc::c_void;
    fn mi_zalloc(size: usize) -> *mut libc::c_void;
    fn mi_realloc(piece: *mut libc::c_void, size: usize) -> *mut libc::c_void;
}

// SAFETY: mimalloc keeps the contract of malloc(3): a piece of at least that size, aligned to a word, until it is freed, or null.
// Its crate does the rest, on the same pieces.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNED_ANYWAY {
            // SAFETY: asks for nothing but memory.
            return unsafe { mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNED_ANYWAY {
            // SAFETY: asks for nothing but memory.
            return unsafe { mi_zalloc(layout.size()) }.cast();
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on: it is one of ours.
        unsafe { mimalloc::MiMalloc.dealloc(piece, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGNED_ANYWAY {
            // SAFETY: the caller promises that the piece is one of ours.
            return unsafe { mi_realloc(piece.cast(), size) }.cast();
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { mimalloc::MiMalloc.realloc(piece, layout, size) }
    }
}

/// Is told when there is something to take or to read.
pub fn watched(socket: Rc<OwnedFd>) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
    // SAFETY: its reference keeps the descriptor open for as long, and nobody can change what a shared one refers to.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}

/// Takes a connection.
pub fn accept(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let number = accept4(socket.as_raw_fd(), flags)?;
    // SAFETY: a new descriptor of this call, that nothing else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// From now on a forbidden system call writes its number to the log and ends the process.
pub fn report_forbidden_calls() {
    let handler = SigHandler::SigAction(forbidden_call);
    let action =
        SigAction::new(handler, SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER, SigSet::empty());
    // SAFETY: the handler calls only `write` and `_exit`, which are async-signal-safe, and touches no shared state.
    // Where it cannot be installed the signal's own action ends the process all the same.
    let _ = unsafe { sigaction(Signal::SIGSYS, &action) };
}

/// Exit status of a worker that made a forbidden call.
const FORBIDDEN_CALL_STATUS: i32 = 128 + libc::SIGSYS;

extern "C" fn forbidden_call(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// The kernel's layout of `siginfo_t` for SIGSYS, see sigaction(2).
    #[repr(C)]
    struct SysInfo {
        signal: libc::c_int,
        errno: libc::c_int,
        code: libc::c_int,
        call_address: *mut libc::c_void,
        number: libc::c_int,
    }
    // SAFETY: the kernel passes a valid siginfo_t, which for SIGSYS holds these fields.
    let number = unsafe { (*info.cast::<SysInfo>()).number };
    let mut line = *b"forbidden system call 0000\n";
    let mut rest = number.unsigned_abs();
    for digit in line.iter_mut().rev().skip(1).take(4) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // SAFETY: writes a buffer that lives on this stack and leaves without running any destructor.
    unsafe {
        libc::write(descriptor::LOG, line.as_ptr().cast(), line.len());
        libc::_exit(FORBIDDEN_CALL_STATUS);
    }
}
