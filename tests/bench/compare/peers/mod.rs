//! Who is compared: each is started on the gateways' core, and stands between the load and the one upstream.
//!
//! The work is the same for all but `direct`: the caller's key is checked (401 without), the provider's takes its place, the
//! request gets an id, connections to the upstream are kept, and a line of the access log goes to a file.

pub mod aisix;
mod other;
mod relays;

use std::error::Error;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::process::Process;
use harness::{Cloud, Etcd, Gateway};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cpu;
use crate::load::{self, Target};
use crate::upstream;
use crate::usage::{Counts, Usage};

pub use aisix::{governed, off};
pub use other::{CONVENTION, Other};
pub use relays::{haproxy, nginx};

/// The governed gateway as it is built without a profile of its use.
pub const PLAIN: &str = "aisix-plain";
/// The key of callers.
pub const CALLER_KEY: &str = "sk-caller-of-the-bench";
/// How long it may take until the first request is answered.
const START_MAX: Duration = Duration::from_secs(60);
/// Lines of a log that are told with an error.
const WARNINGS_MAX: usize = 5;
/// How long no usage event comes when all have come: far more than the delivery of one takes.
const CALM: Duration = Duration::from_millis(500);

/// One of those that are compared.
#[derive(Debug)]
pub struct Peer {
    /// Its name in the report.
    pub name: String,
    /// Where and how it is asked.
    pub target: Target,
    /// The first of its processes; `direct` has none.
    root: Option<Pid>,
    /// Who counts its usage events, if it tells any.
    usage: Option<Usage>,
    /// Files that grow with the requests.
    logs: Vec<PathBuf>,
    running: Running,
}

/// What ends with it.
#[derive(Debug)]
enum Running {
    Nothing,
    Tree(Tree),
    Gateway(#[expect(dead_code, reason = "ends when dropped")] Box<(Gateway, TempDir)>),
    Managed(#[expect(dead_code, reason = "ends when dropped")] Box<(Gateway, Cloud, Etcd)>),
}

/// A program with all that it has started and a folder for its files.
#[derive(Debug)]
struct Tree {
    process: Process,
    folder: TempDir,
}

/// What is known of a peer when it begins to be measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    used: Duration,
    used_by_threads: Duration,
    usage: Counts,
}

impl Peer {
    /// The upstream itself.
    pub fn direct(upstream: SocketAddr) -> Self {
        let target = Target { address: upstream, key: upstream::KEY.to_owned() };
        Self {
            name: "direct".into(),
            target,
            root: None,
            usage: None,
            logs: Vec::new(),
            running: Running::Nothing,
        }
    }

    /// Waits until it answers a request with 200, sees that a stranger is refused, and waits until nothing more is told of these.
    pub fn wait_until_served(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        while let Err(error) = load::whole(&self.target, 1, Duration::ZERO) {
            let ended = match &mut self.running {
                Running::Tree(tree) => tree.process.ended(),
                _ => None,
            };
            if ended.is_some() || begin.elapsed() > START_MAX {
                let logs = self.logs.iter().filter_map(|log| fs::read_to_string(log).ok());
                let logs: String = logs.collect();
                let why = ended.map_or(error, |status| format!("it has ended ({status})"));
                return Err(format!("{} does not serve: {why}; its log:\n{logs}", self.name));
            }
            thread::sleep(Duration::from_millis(50));
        }
        let stranger = Target { key: "sk-nobody".into(), ..self.target.clone() };
        match load::whole(&stranger, 1, Duration::ZERO) {
            Err(refused) if refused.contains(" 401") || refused.contains(" 403") => {}
            Err(other) => return Err(format!("{} tells a stranger: {other}", self.name)),
            Ok(_) => return Err(format!("{} serves who has no key", self.name)),
        }
        let Some(usage) = &self.usage else { return Ok(()) };
        let mut last = Counts::default();
        loop {
            thread::sleep(CALM);
            let now = usage.counts().map_err(|error| format!("the counter of usage: {error}"))?;
            if now == last && now.events > 0 {
                return Ok(());
            }
            if begin.elapsed() > START_MAX {
                return Err(format!("{} tells no usage of its first request", self.name));
            }
            last = now;
        }
    }

    /// Notes what is known before a measurement, for which its logs are emptied.
    pub fn before(&self) -> Result<Before, String> {
        for log in &self.logs {
            // Everybody appends: who writes next writes at the beginning.
            let _ = File::options().write(true).truncate(true).open(log);
        }
        let usage = match &self.usage {
            Some(usage) => {
                usage.counts().map_err(|error| format!("the counter of usage: {error}"))?
            }
            None => Counts::default(),
        };
        let used_by_threads = self.root.map(cpu::used_by_threads).unwrap_or_default();
        Ok(Before { used: self.used(), used_by_threads, usage })
    }

    /// Waits until everything is done that the requests since then have made it do.
    pub fn settle(&self, before: Before, requests: u64) -> Result<(), String> {
        let Some(usage) = &self.usage else { return Ok(()) };
        let delivered = usage.wait_for(before.usage, requests);
        delivered.map_err(|error| format!("{error}; its log warns of: {}", self.warnings()))
    }

    /// The last lines of its logs, since they were emptied, that say something is wrong.
    fn warnings(&self) -> String {
        let logs = self.logs.iter().filter_map(|log| fs::read_to_string(log).ok());
        let logs: String = logs.collect();
        let lines = logs.lines().rev();
        let wrong = lines.filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        let last: Vec<_> = wrong.take(WARNINGS_MAX).collect();
        if last.is_empty() { "nothing".into() } else { last.join(" | ") }
    }

    /// Usage events of those requests that have not come yet.
    pub fn behind(&self, before: Before, requests: u64) -> u64 {
        let counts = self.usage.as_ref().and_then(|usage| usage.counts().ok());
        counts.map_or(0, |now| requests.saturating_sub(now.events - before.usage.events))
    }

    /// Processor time of all its processes since then.
    pub fn used_since(&self, before: Before) -> Duration {
        self.used().saturating_sub(before.used)
    }

    /// The same as the threads tell that there are now.
    pub fn used_by_threads_since(&self, before: Before) -> Duration {
        let now = self.root.map(cpu::used_by_threads).unwrap_or_default();
        now.saturating_sub(before.used_by_threads)
    }

    /// Processor time of all its processes.
    pub fn used(&self) -> Duration {
        self.root.map(cpu::used_by).unwrap_or_default()
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<Pid> {
        self.root.map(cpu::tree).unwrap_or_default()
    }
}

impl Tree {
    /// Starts a program on the gateways' core, with what it prints in `log` of the folder.
    fn start(name: &str, command: Command, folder: TempDir) -> Result<Self, Box<dyn Error>> {
        let log = folder.path().join("log");
        let process = cpu::pinned(cpu::GATEWAY, || Process::spawn(name, command, &log))??;
        Ok(Self { process, folder })
    }

    fn into_peer(self, name: &str, address: SocketAddr) -> Peer {
        let logs = fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let logs = logs.map(|file| file.path()).filter(|path| path.ends_with("log"));
        Peer {
            name: name.to_owned(),
            target: Target { address, key: CALLER_KEY.to_owned() },
            root: Some(self.process.pid()),
            usage: None,
            logs: logs.collect(),
            running: Running::Tree(self),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Workers outlive a master that is killed.
        for pid in cpu::tree(self.process.pid()).into_iter().skip(1) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
