//! Our own confinement: the supervisor keeps what it needs after its start, and nothing else.
//!
//! 1. no dump, no debugger and, where the limit of locked memory allows, no swap sees its secrets;
//! 2. no program that it executes can gain a privilege;
//! 3. the capabilities of [`capabilities`], in every set that counts;
//! 4. the system calls of [`calls`] fail, in every thread and in every process that comes of it. A worker's own filter is
//!    stricter, and the stricter answer counts.
//!
//! All of it lasts over an exec, so an upgrade in place finds it there and adds nothing. To be called before any other
//! thread is started.

mod calls;
mod capabilities;

use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use super::sys::lock_memory;

pub use self::capabilities::may_switch_user;

/// Files that the supervisor works with as long as it runs.
#[derive(Debug, Default)]
pub struct Files<'a> {
    /// Those that it reads again when they change.
    pub reads: Vec<&'a Path>,
    /// Folders and files that it keeps its state in.
    pub writes: Vec<&'a Path>,
}

/// Confines this process. What the host refuses is logged, and the rest holds.
pub fn confine(files: &Files<'_>) {
    let no_core = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // Workers inherit as many as we may have.
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    let done = [
        ("keep debuggers away", nix::sys::prctl::set_dumpable(false)),
        ("forbid core files", no_core),
        ("raise the number of open files", descriptors),
        ("set no_new_privs", nix::sys::prctl::set_no_new_privs()),
    ];
    for (what, result) in done {
        if let Err(error) = result {
            warn!(%error, "cannot {what}; the gateway runs without");
        }
    }
    keep_out_of_swap();
    match capabilities::reduce(files) {
        Ok(kept) => debug!(kept, "capabilities of the supervisor"),
        Err(error) => warn!(%error, "cannot give up capabilities; the gateway runs with them"),
    }
    match calls::deny() {
        Ok(()) => {}
        Err(error) => {
            warn!(%error, "cannot filter system calls of the supervisor; the gateway runs without");
        }
    }
}

/// Only without a limit: with one, an allocation beyond it would fail instead of being swapped.
fn keep_out_of_swap() {
    let locked = getrlimit(Resource::RLIMIT_MEMLOCK).map(|(_, hard)| hard == RLIM_INFINITY);
    if locked != Ok(true) {
        debug!("memory is not locked, since the limit of locked memory is not infinite");
        return;
    }
    let allowed = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    match allowed.map_err(std::io::Error::from).and_then(|()| lock_memory()) {
        Ok(()) => info!("memory of the supervisor is kept out of swap"),
        Err(error) => warn!(%error, "memory of the supervisor cannot be kept out of swap"),
    }
}
