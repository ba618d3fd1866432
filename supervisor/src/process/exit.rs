//! The end of a worker process: noticed without polling, told in words.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use shared::descriptor;

/// Status with which a worker leaves that made a forbidden system call: the shell's for this signal.
const FORBIDDEN_CALL: i32 = 128 + Signal::SIGSYS as i32;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(Signal),
    /// Somebody else collected its status.
    Unknown,
}

impl Exit {
    /// Whether it left on purpose and without fault.
    pub fn is_success(self) -> bool {
        self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Told by the worker itself, in the line before.
            Self::Status(FORBIDDEN_CALL) => {
                write!(formatter, "exit status {FORBIDDEN_CALL}, after a forbidden system call")
            }
            Self::Status(status) => write!(formatter, "exit status {status}"),
            Self::Signal(Signal::SIGSYS) => formatter.write_str("signal SIGSYS, call unknown"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
            Self::Unknown => formatter.write_str("unknown status"),
        }
    }
}

/// Waits for the process behind `process` to end, and collects its status.
pub async fn wait(process: &OwnedFd) -> io::Result<Exit> {
    let process = descriptor::watched(process.try_clone()?)?;
    loop {
        let mut ready = process.readable().await?;
        let id = Id::PIDFd(process.get_ref().as_fd());
        match waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(Exit::Status(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Exit::Signal(signal)),
            Ok(_) => ready.clear_ready(),
            Err(nix::errno::Errno::ECHILD) => return Ok(Exit::Unknown),
            Err(error) => return Err(error.into()),
        }
    }
}
