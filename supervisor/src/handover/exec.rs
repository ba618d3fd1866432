//! Which program this process runs, and the call that puts another in its place.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::fexecve;

use super::Passing;
use super::record::{RecordError, State};
use crate::metrics::KeptSeries;
use crate::process::{pass_on, signals};

/// The program that runs, by a name that lasts as long as the process does.
const SELF: &str = "/proc/self/exe";
/// What our own arguments begin with.
const HANDOVER: &str = "--handover";
/// Variables that speak of descriptors that this process was started with, and not of those of the next image.
const NOT_PASSED: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Own {
    /// Where our program is found, by the name that it was started with: a package puts its successor there.
    pub program: PathBuf,
    /// What it was started with, without what is about a handover.
    pub arguments: Vec<OsString>,
}

impl Own {
    /// What the kernel and the arguments say.
    pub fn of_this_process() -> Self {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let is_handover =
            |argument: &OsString| argument.as_bytes().starts_with(HANDOVER.as_bytes());
        let (handed_over, arguments): (Vec<_>, Vec<_>) = arguments.partition(is_handover);
        // Written by the image before; what is at that path now may be another program than the one that runs.
        let program = match Path::new(&name) {
            path if path.is_absolute() && !handed_over.is_empty() => path.to_owned(),
            _ => program(&name),
        };
        Self { program, arguments }
    }
}

/// The path that `name` stands for, if that leads to what runs; else what the kernel calls it.
fn program(name: &OsStr) -> PathBuf {
    let named = if name.as_bytes().contains(&b'/') {
        vec![PathBuf::from(name)]
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|folder| folder.join(name)).collect()
    };
    let identity = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    let running = identity(Path::new(SELF));
    let found = named.into_iter().find(|path| running.is_some() && identity(path) == running);
    found
        .and_then(|path| std::path::absolute(path).ok())
        .or_else(|| env::current_exe().ok())
        .unwrap_or_default()
}

/// Opens a program to be executed, and nothing else.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    Ok(file.into())
}

/// The program that runs, whether or not its file still has a name.
pub fn running() -> io::Result<OwnedFd> {
    open(Path::new(SELF))
}

/// All that is needed to put another image in this one's place.
#[derive(Debug)]
pub struct Prepared {
    program: OwnedFd,
    /// The program that runs: what is executed if the other cannot be.
    running: OwnedFd,
    own: Own,
    memory: OwnedFd,
    /// Why the way leads back, if it does.
    failed: Option<String>,
    _passing: Passing,
}

impl Prepared {
    /// Writes the state down. `passing` holds what it names.
    pub fn new(
        program: OwnedFd,
        own: Own,
        failed: Option<String>,
        state: &State,
        series: &[KeptSeries],
        passing: Passing,
    ) -> Result<Self, RecordError> {
        let memory = pass_on(state.write(series)?.as_fd())?;
        Ok(Self { program, running: running()?, own, memory, failed, _passing: passing })
    }

    /// Puts the other image in this one's place. If it cannot be executed, ours is, once more; returns only if that fails
    /// too.
    pub fn execute(self) -> io::Error {
        let (own, memory) = (&self.own, self.memory.as_fd());
        let error = execute(self.program.as_fd(), own, memory, self.failed.as_deref());
        let reason = format!("{} cannot be executed: {error}", own.program.display());
        execute(self.running.as_fd(), own, memory, Some(&reason))
    }
}

/// Executes a program with the state in `memory`. Every other thread ends. Returns only if that fails.
pub fn execute(
    program: BorrowedFd<'_>,
    own: &Own,
    memory: BorrowedFd<'_>,
    failed: Option<&str>,
) -> io::Error {
    // A signal that comes before the next program listens would end it.
    signals::hold();
    match try_execute(program, own, memory, failed) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute(
    program: BorrowedFd<'_>,
    own: &Own,
    memory: BorrowedFd<'_>,
    failed: Option<&str>,
) -> io::Result<Infallible> {
    let handover = OsString::from(format!("{HANDOVER}={}", memory.as_raw_fd()));
    let failed = failed.map(|reason| OsString::from(format!("{HANDOVER}-failed={reason}")));
    let arguments = [own.program.clone().into_os_string()]
        .into_iter()
        .chain(own.arguments.iter().cloned())
        .chain([handover])
        .chain(failed);
    let arguments = arguments.map(c_string).collect::<Result<Vec<_>, _>>()?;
    let variables = env::vars_os().filter(|(name, _)| NOT_PASSED.iter().all(|it| name != it));
    let variables = variables.map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        c_string(variable)
    });
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    Ok(fexecve(program, &arguments, &variables)?)
}

fn c_string(text: OsString) -> io::Result<CString> {
    // A reason may hold anything; what ends a string ends it.
    let bytes: Vec<u8> = text.into_vec().into_iter().filter(|byte| *byte != 0).collect();
    CString::new(bytes).map_err(io::Error::other)
}
