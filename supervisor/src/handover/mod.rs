//! The upgrade in place: this process executes another build of its own program and goes on under the same process id,
//! with its listeners, its workers and its lock.
//!
//! 1. Nothing is given up before the other build has shown that it can go on: it is executed beside us first
//!    (`preflight.rs`) and reads the state, the configuration, the bundle and its own worker's version.
//! 2. No socket is closed, no worker is told anything, the state directory is never free: descriptors and children stay
//!    what they are over an `execve` (`exec.rs`), and what is not a descriptor is written down (`record.rs`).
//! 3. Until the other build is in order it keeps our two programs open, as files that may have lost their names. If it
//!    cannot start, or is not in order at its deadline, it executes ours again, which goes on with the same workers.
//! 4. A build that dies outright takes this process with it: whoever has started us starts us again.
//!
//! ```text
//! SIGUSR2 ─► preflight ─► nothing more is read from workers ─► spool, snapshot, budgets written ─► state written ─► execve
//!    ▲           │ no                                                                                                │
//!    └── reason ─┘      workers serve all the time       ◄─ old ones drain ◄─ new ones serve ◄─ adopted ◄─ state read ┘
//! ```

pub mod exec;
pub mod listeners;
pub mod orphans;
pub mod preflight;
pub mod record;
pub mod taken;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use self::listeners::{Listeners, Origin};
use self::orphans::Orphan;
use self::taken::Taken;
use crate::process::pass_on;
use crate::systemd;

/// Descriptors on their way to the next image: copies that stay open over an `execve`.
#[derive(Debug, Default)]
pub struct Passing {
    /// `None` writes down numbers without copying anything, to show what a state looks like.
    copies: Option<Vec<OwnedFd>>,
}

impl Passing {
    /// For the real thing.
    pub fn begin() -> Self {
        Self { copies: Some(Vec::new()) }
    }

    /// Says under which number the next image finds it.
    pub fn pass(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<i32> {
        let Some(copies) = &mut self.copies else { return Ok(descriptor.as_raw_fd()) };
        let copy = pass_on(descriptor)?;
        let number = copy.as_raw_fd();
        copies.push(copy);
        Ok(number)
    }
}

/// What stands before a role's name in a state, beside the listener of that name, if a socket unit keeps it. A build that
/// does not know it finds a second socket there, and closes it.
const OF_UNIT: &str = "socket-unit.";

/// The entry that says so.
pub fn of_unit(role: &str) -> String {
    format!("{OF_UNIT}{role}")
}

/// Everything that listens already when we start, and the workers that serve without a supervisor.
pub fn before(
    taken: Option<&Taken>,
    stored: Vec<(String, OwnedFd)>,
    folders: &[PathBuf],
) -> (Listeners, Vec<Orphan>) {
    let mut listeners = Listeners::default();
    let Some(taken) = taken else {
        for (name, descriptor) in stored {
            let origin = if systemd::is_of_store(&name) { Origin::Store } else { Origin::Unit };
            listeners.add(&name, descriptor, origin);
        }
        let orphans = orphans::find(folders, &mut listeners);
        return (listeners, orphans);
    };
    let of_units: Vec<_> =
        taken.state.listeners.iter().filter_map(|(name, _)| name.strip_prefix(OF_UNIT)).collect();
    let roles = taken.state.listeners.iter().filter(|(name, _)| !name.starts_with(OF_UNIT));
    for (name, number) in roles {
        let is_of_unit = of_units.contains(&name.as_str());
        let origin = if is_of_unit { Origin::ImageOfUnit } else { Origin::Image };
        // One that cannot be had is bound anew, as at a first start.
        if let Ok(descriptor) = taken.descriptor(*number) {
            listeners.add(name, descriptor, origin);
        }
    }
    (listeners, Vec::new())
}
