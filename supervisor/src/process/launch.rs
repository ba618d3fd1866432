//! Starts worker processes from one binary that is opened once.
//!
//! An upgrade halfway through replacing files can therefore never mix two builds. The worker is executed, never merely
//! forked, so it inherits nothing of our memory; its environment is empty.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Pid, Uid, pipe2};
use shared::channel;
use shared::descriptor;
use shared::id::{Role, WorkerId};

use super::limits;
use super::sys::{Child, confine, process_descriptor, received_files};
use super::view::View;

/// File name of the worker's program.
const PROGRAM: &str = "aisix-worker";
/// Where packages install it, if not beside our own.
const LIBEXEC: &str = "/usr/libexec/aisix/aisix-worker";

/// Why there is no program to start workers from.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot open the worker program; tried {tried}; install aisix-worker beside aisix or set supervisor.worker_path: {source}"
)]
pub struct ProgramError {
    tried: String,
    source: io::Error,
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a worker: {attempted}: {source}")]
pub struct LaunchError {
    attempted: &'static str,
    source: io::Error,
}

/// The worker's program, open.
#[derive(Debug)]
pub struct Program {
    file: File,
    /// Where it was found.
    pub path: PathBuf,
}

/// What one worker is started with.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub id: WorkerId,
    /// How strictly it must confine itself, as the configuration writes it.
    pub policy: &'a str,
    /// User and group, where we may choose.
    pub user: Option<(Uid, Gid)>,
    /// Whether callers speak TLS.
    pub tls: bool,
    /// The listening socket, if its role has one.
    pub listener: Option<BorrowedFd<'a>>,
    /// The memory it counts in.
    pub metrics: BorrowedFd<'a>,
    /// The ring of usage events, if its role has one.
    pub usage: Option<BorrowedFd<'a>>,
    /// Where the next supervisor finds it if we are killed.
    pub adoption: Option<BorrowedFd<'a>>,
}

/// A worker that was started.
#[derive(Debug)]
pub struct Launched {
    /// Its process id.
    pub pid: Pid,
    /// Becomes readable when it ends.
    pub process: OwnedFd,
    /// Our end of the control socket.
    pub control: OwnedFd,
    /// The reading end of its log.
    pub log: OwnedFd,
    /// How it is looked at.
    pub view: View,
}

impl Program {
    /// Opens the worker's program: the configured path, or beside our own program, which was started as `own`, or where
    /// packages put it.
    pub fn open(configured: Option<&Path>, own: &Path) -> Result<Self, ProgramError> {
        let candidates = match configured {
            Some(path) => vec![path.to_owned()],
            None => {
                // By the name that we were started with, and by what a link of that name leads to.
                let own = [Some(own.to_owned()), std::env::current_exe().ok()];
                let beside = own.iter().flatten();
                let beside = beside.filter_map(|own| Some(own.parent()?.join(PROGRAM)));
                beside.chain([PathBuf::from(LIBEXEC)]).collect()
            }
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in &candidates {
            // Only to be executed: neither read nor written through this descriptor.
            match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) {
                Ok(file) => return Ok(Self { file, path: path.clone() }),
                Err(error) => last = error,
            }
        }
        let tried: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
        Err(ProgramError { tried: tried.join(", "), source: last })
    }

    /// A program that is open already.
    pub fn from_descriptor(descriptor: OwnedFd, path: PathBuf) -> Self {
        Self { file: descriptor.into(), path }
    }

    /// To be executed, and nothing else.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Starts one worker.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<Launched, LaunchError> {
        let failed = |attempted| move |source: io::Error| LaunchError { attempted, source };
        let (control, workers_end) =
            channel::pair().map_err(failed("making the control socket"))?;
        let (log, log_writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(io::Error::from)
            .map_err(failed("making the log pipe"))?;
        let second_writer = log_writer.try_clone().map_err(failed("making the log pipe"))?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command
            .arg0(PROGRAM)
            .args([launch.role.name(), &launch.id.to_string(), launch.policy])
            .args(launch.tls.then_some("tls"))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log_writer)
            .stderr(second_writer);
        // A number for the connection of the next supervisor, which nothing else may get until it comes.
        let placeholder = (launch.role == Role::Proxy).then(|| File::open("/dev/null"));
        let placeholder = placeholder.transpose().map_err(failed("opening /dev/null"))?;
        let optional = [
            (launch.usage, descriptor::USAGE),
            (launch.listener, descriptor::LISTENER),
            (launch.adoption, descriptor::ADOPTION),
            (placeholder.as_ref().map(File::as_fd), descriptor::ADOPTED),
        ];
        let descriptors =
            [(workers_end.as_fd(), descriptor::CONTROL), (launch.metrics, descriptor::METRICS)]
                .into_iter()
                .chain(optional.into_iter().filter_map(|(ours, number)| Some((ours?, number))))
                .map(|(ours, number)| (ours.as_raw_fd(), number))
                .collect();
        let limits = limits::of(launch.role);
        let (witness, childs_end) =
            channel::pair().map_err(failed("making the socket for what it opens of itself"))?;
        let child_is =
            Child { descriptors, user: launch.user, limits, witness: childs_end.as_raw_fd() };
        confine(&mut command, child_is);
        let mut child = command.spawn().map_err(failed("executing aisix-worker"))?;
        let number = i32::try_from(child.id()).unwrap_or(i32::MAX);
        let pid = Pid::from_raw(number);
        let process = process_descriptor(pid).or_else(|error| {
            // Nobody would ever notice its end.
            child.kill()?;
            child.wait()?;
            Err(error)
        });
        let process = process.map_err(failed("watching the new process"))?;
        let view = View::of(pid, received_files(witness.as_fd()));
        Ok(Launched { pid, process, control, log, view })
    }
}
