//! Whether another build can take over, found out without giving anything up: it is executed beside us and tries.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use shared::version::VERSION;

use super::exec::{self, Own};
use super::record::{RecordError, State};
use crate::process::launch::{Program, ProgramError};

/// What our own program is called with.
pub const FLAG: &str = "--check-handover";
/// How long it may take, on a machine that swaps.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a worker's program may take to say its version.
const WORKER_LIMIT: Duration = Duration::from_secs(5);
/// How long between two looks at a process.
const INTERVAL: Duration = Duration::from_millis(10);
/// How much of what it says is told.
const WORDS_CHARS_MAX: usize = 500;

/// Why there is no upgrade. Everything goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is nothing that could be executed.
    #[error("{program} cannot be executed: {source}")]
    Execute {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It does not answer.
    #[error("{program} did not say within {} s whether it can take over", LIMIT.as_secs())]
    Silent {
        /// The program.
        program: String,
    },
    /// It says no.
    #[error("{program} cannot take over ({status}): {words}")]
    No {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
}

/// Another build that can take over.
#[derive(Debug)]
pub struct Successor {
    /// Its program, open: what was tried is what will be executed, whoever replaces the file meanwhile.
    pub program: OwnedFd,
    /// The version that it said it is of.
    pub version: String,
}

/// Executes what is at our own path with the state that it would be handed. Blocks.
pub fn run(own: &Own, state: OwnedFd) -> Result<Successor, Refused> {
    let name = || own.program.display().to_string();
    let cannot = |source| Refused::Execute { program: name(), source };
    let program = exec::open(&own.program).map_err(cannot)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command
        .arg0(&own.program)
        .args(&own.arguments)
        .arg(FLAG)
        .stdin(Stdio::from(state))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot)?;
    let status = wait(&mut child, LIMIT).map_err(cannot)?;
    let (said, complained) = (words(child.stdout.take()), words(child.stderr.take()));
    match status {
        None => Err(Refused::Silent { program: name() }),
        Some(status) if status.success() => {
            // Said last; builds before it may say less.
            let version =
                said.rsplit_once("version ").map_or(said.as_str(), |(_, version)| version);
            Ok(Successor { program, version: version.to_owned() })
        }
        Some(status) => Err(Refused::No { program: name(), status, words: complained }),
    }
}

/// Why this build cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The state is of no use.
    #[error(transparent)]
    State(#[from] RecordError),
    /// There is no worker.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The worker is of another build.
    #[error("{path} is of version {found:?}, aisix is {VERSION:?}; install both from one package")]
    Worker {
        /// The worker's program.
        path: String,
        /// What it said.
        found: String,
    },
    /// Something failed.
    #[error("cannot try the worker's program: {0}")]
    Io(#[from] io::Error),
}

/// The other side: whether the state on standard input could be taken over, and with which worker.
pub fn check(worker: Option<&Path>) -> Result<(), CheckError> {
    State::read(io::stdin().as_fd().try_clone_to_owned()?)?;
    let program = Program::open(worker, &Own::of_this_process().program)?;
    let found = version_of(&program)?;
    if found != VERSION {
        let path = program.path.display().to_string();
        return Err(CheckError::Worker { path, found });
    }
    let _ = writeln!(io::stdout(), "version {VERSION}");
    Ok(())
}

/// What the worker's program says of itself; empty if it does not end.
pub fn version_of(program: &Program) -> io::Result<String> {
    let mut child = Command::new(format!("/proc/self/fd/{}", program.descriptor().as_raw_fd()))
        .arg0("aisix-worker")
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let ended = wait(&mut child, WORKER_LIMIT)?;
    let said = words(child.stdout.take());
    let version = said.strip_prefix("aisix-worker ").unwrap_or(&said).to_owned();
    Ok(if ended.is_some() { version } else { String::new() })
}

/// How a child ends; `None` if it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(INTERVAL);
    }
}

/// What was said, on one line. Whoever says more than a pipe holds waits for us and runs into the limit.
fn words(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // Somebody may have inherited the other end and hold it for ever: what is there is enough.
        let _ = pipe.take(4096).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|it| !it.is_control()).take(WORDS_CHARS_MAX).collect()
}
