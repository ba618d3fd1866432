//! The crate's only unsafe code: what the kernel tells by number becomes owned, what is owned is watched for readiness,
//! memory of fixed size becomes words, a file is written to without a call for each piece, and turns on a core have a length.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use tokio::io::unix::AsyncFd;

/// Takes ownership of descriptors that `recvmsg` has installed in this process.
pub fn received(numbers: &[RawFd]) -> Vec<OwnedFd> {
    numbers
        .iter()
        // SAFETY: the numbers come from the SCM_RIGHTS of a `recvmsg` call that has just returned; the kernel
        // installed these descriptors for this call alone, so nothing else in the process owns them.
        .map(|number| unsafe { OwnedFd::from_raw_fd(*number) })
        .collect()
}

/// Watches a descriptor for readiness, within a runtime.
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is valid, always answers the same number, and stays open until it is dropped, which the
    // `AsyncFd` that owns it does after it has taken the registration back.
    unsafe { AsyncFd::register(descriptor) }.map_err(Into::into)
}

/// Asks for turns of so many nanoseconds for this thread; 0 leaves it to the kernel. See sched_setattr(2): `sched_runtime` of
/// an ordinary thread.
pub fn ask_for_turns_of(nanoseconds: u64) {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default();
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes, which the value has; 0 is the calling thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    // Whoever has started us with another policy has chosen.
    let is_ordinary = attributes.sched_policy == libc::SCHED_OTHER.unsigned_abs();
    if known == 0 && is_ordinary {
        attributes.sched_runtime = nanoseconds;
        // SAFETY: the kernel reads `size` bytes, which the value has.
        let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

/// Maps memory as `count` words that are shared with whoever else maps it, for the rest of the process's life.
pub fn mapped(memory: &File, count: usize) -> io::Result<&'static [AtomicU64]> {
    // Asked by reading, which a sandbox permits anyway, since a word behind the end would kill the process.
    let bytes = count.saturating_mul(size_of::<AtomicU64>());
    memory.read_exact_at(&mut [0; 8], (bytes as u64).saturating_sub(8))?;
    let start = map(memory, bytes)?;
    // SAFETY: the mapping is page-aligned, `count` words long and never unmapped. Any bits are a valid `AtomicU64`, and
    // every access within this process goes through atomics.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr().cast(), count) })
}

fn map(file: &File, bytes: usize) -> io::Result<NonNull<u8>> {
    let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, of a valid descriptor, touches nothing that exists.
    let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0)? };
    Ok(start.cast())
}

/// The first bytes of a file, to be written to. What is written is the file's at once, as if a call had written it.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is the whole process's, and only its owner has the address.
unsafe impl Send for MappedFile {}

impl MappedFile {
    /// Maps `bytes` bytes of `file`, which is open for reading and writing. A place that the file has no block for and gets
    /// none for, or that it is cut off before, ends the process when it is written to.
    pub fn new(file: &File, bytes: usize) -> io::Result<Self> {
        Ok(Self { start: map(file, bytes)?, bytes })
    }

    /// Writes at `offset`. All of it must be within what is mapped.
    pub fn write(&mut self, bytes: &[u8], offset: usize) -> io::Result<()> {
        let end = offset.checked_add(bytes.len()).filter(|end| *end <= self.bytes);
        end.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: from `offset` on there are as many bytes of the mapping, which we alone have the address of, so that
        // `bytes` is elsewhere and nobody has a reference to what is written. The kernel may read it for others meanwhile.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len());
        }
        Ok(())
    }

    /// Forgets where its pages are, so that they count as the file's alone until they are written to again.
    pub fn rest(&mut self) {
        // SAFETY: within the mapping; of a shared mapping of a file nothing is lost.
        let _ = unsafe { madvise(self.start.cast(), self.bytes, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: ours, as long as this, and never used again.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}
