//! What a worker may use at most of the machine, per role. Set before its program starts; a worker that wants more fails
//! or ends, and nobody else notices.

use nix::sys::resource::{Resource, rlim_t};
use nix::unistd::{SysconfVar, sysconf};
use shared::id::Role;
use shared::ring::RING_BYTES;

const MIB: u64 = 1024 * 1024;

/// A proxy worker with 100,000 resources takes some 200 MiB, twice that while all of them are told anew; the rest is room
/// for requests in flight.
const PROXY_BYTES_MIN: u64 = 1024 * MIB;
/// No worker needs more, however large the machine.
const PROXY_BYTES_MAX: u64 = 4096 * MIB;
/// Pages of metrics are as large as the labels that callers make up.
const STATUS_BYTES: u64 = 512 * MIB;
/// Helpers keep nothing but what is on its way through them.
const HELPER_BYTES: u64 = 256 * MIB;
/// What is kept (`worker/src/cache/store.rs` says how much that may be) and as much again for gaps in it.
const CACHE_BYTES: u64 = 512 * MIB;

/// What waits for exporters (`worker/src/export/` says how much that may be), and as much again on its way.
const EXPORT_BYTES: u64 = 512 * MIB;

/// Connections of scrapers and browsers.
const STATUS_FILES: u64 = 1024;
/// Connections that are being made, and questions to resolvers.
const EGRESS_FILES: u64 = 16 * 1024;
/// A channel to each proxy worker, also to those that are being replaced.
const CHANNEL_FILES: u64 = 4096;

/// Signals that may wait; the kernel's own always find room.
const SIGNALS: u64 = 16;

/// Each applies as far as our own is not lower.
pub type Limits = [(Resource, rlim_t); 8];

/// The limits of a worker of that role, on this machine.
pub fn of(role: Role) -> Limits {
    for_machine(role, machine_bytes())
}

fn for_machine(role: Role, machine_bytes: u64) -> Limits {
    let (bytes, files) = match role {
        // As many connections as we may have ourselves.
        Role::Proxy => ((machine_bytes / 2).clamp(PROXY_BYTES_MIN, PROXY_BYTES_MAX), rlim_t::MAX),
        Role::Status => (STATUS_BYTES, STATUS_FILES),
        Role::Egress => (HELPER_BYTES, EGRESS_FILES),
        Role::Signer => (HELPER_BYTES, CHANNEL_FILES),
        Role::Cache => (CACHE_BYTES, CHANNEL_FILES),
        Role::Export => (EXPORT_BYTES, CHANNEL_FILES),
    };
    [
        (Resource::RLIMIT_AS, bytes),
        (Resource::RLIMIT_NOFILE, files),
        (Resource::RLIMIT_CORE, 0),
        // The one file that a worker can write to is its ring.
        (Resource::RLIMIT_FSIZE, RING_BYTES),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_SIGPENDING, SIGNALS),
        (Resource::RLIMIT_RTPRIO, 0),
    ]
}

fn machine_bytes() -> u64 {
    let number = |variable| sysconf(variable).ok().flatten().and_then(|it| u64::try_from(it).ok());
    let pages = number(SysconfVar::_PHYS_PAGES).unwrap_or(0);
    pages.saturating_mul(number(SysconfVar::PAGE_SIZE).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_worker_gets_half_of_the_machine_within_bounds() {
        let bytes = |machine| for_machine(Role::Proxy, machine)[0].1;
        assert_eq!(bytes(512 * MIB), PROXY_BYTES_MIN);
        assert_eq!(bytes(4096 * MIB), 2048 * MIB);
        assert_eq!(bytes(1024 * 1024 * MIB), PROXY_BYTES_MAX);
    }

    #[test]
    fn every_role_is_limited_in_memory_and_makes_no_core_file() {
        for role in Role::ALL {
            let limits = of(role);
            assert!(limits.contains(&(Resource::RLIMIT_CORE, 0)), "{role}");
            assert_eq!(limits[0].0, Resource::RLIMIT_AS);
            assert!(limits[0].1 <= PROXY_BYTES_MAX, "{role}");
        }
    }
}
