//! The crate's only unsafe code: what the kernel tells by number becomes owned, and what is owned is watched for readiness.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

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
