//! The crate's only unsafe code: what the kernel tells by number becomes owned, what is owned is watched for readiness, and
//! memory of fixed size becomes words.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};
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

/// Maps memory as `count` words that are shared with whoever else maps it, for the rest of the process's life.
pub fn mapped(memory: &File, count: usize) -> io::Result<&'static [AtomicU64]> {
    // Asked by reading, which a sandbox permits anyway, since a word behind the end would kill the process.
    let bytes = count.saturating_mul(size_of::<AtomicU64>());
    memory.read_exact_at(&mut [0; 8], (bytes as u64).saturating_sub(8))?;
    let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, of a valid descriptor, touches nothing that exists.
    let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, memory, 0)? };
    // SAFETY: the mapping is page-aligned, `count` words long and never unmapped. Any bits are a valid `AtomicU64`, and
    // every access within this process goes through atomics.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr().cast(), count) })
}
