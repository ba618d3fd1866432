//! The descriptors that a worker is born with, by number. Fixed, so that its system call filter can name them; every
//! other descriptor is closed before the worker's program starts.
//!
//! ```text
//! 0  /dev/null
//! 1  log pipe (lines, read by the supervisor)
//! 2  log pipe (the same one)
//! 3  control socket (SOCK_SEQPACKET)
//! 4  metric slots (sealed in size, shared with the supervisor, which only reads)
//! 5  usage ring (proxy role only; written here, read by the supervisor)
//! 6  the connection of the next supervisor (proxy role only; /dev/null until it comes)
//! 8  the listening socket of the role
//! 9  where the next supervisor asks for the listening socket, if this one dies (proxy role, see `orphan.rs`)
//! ```

use std::os::fd::RawFd;

pub use crate::sys::watched;

/// Where log lines go.
pub const LOG: RawFd = 1;
/// The socket to the supervisor.
pub const CONTROL: RawFd = 3;
/// The slots in which this worker counts.
pub const METRICS: RawFd = 4;
/// The ring of usage events, in the proxy role.
pub const USAGE: RawFd = 5;
/// The connection of the next supervisor, in the proxy role; occupied by /dev/null until then. The one descriptor over which
/// that role may hand over another.
pub const ADOPTED: RawFd = 6;
/// The listening socket of the role.
pub const LISTENER: RawFd = 8;
/// Where the next supervisor connects to if this one dies, in the proxy role.
pub const ADOPTION: RawFd = 9;
