//! The worker processes of a gateway, as the kernel shows them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Connection;

/// One worker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its process id.
    pub pid: Pid,
    /// What it is for, as its first argument says.
    pub role: String,
    /// Its number among the workers of this gateway.
    pub id: String,
}

/// The workers that are children of a supervisor, by pid.
pub fn of(supervisor: Pid) -> Vec<Worker> {
    let Ok(threads) = fs::read_dir(format!("/proc/{supervisor}/task")) else { return Vec::new() };
    let mut workers: Vec<_> = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|children| {
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .filter_map(|pid| Worker::at(Pid::from_raw(pid)))
        .collect();
    workers.sort_by_key(|worker| worker.pid);
    workers
}

impl Worker {
    /// The worker with that pid, if that is what it is.
    pub fn at(pid: Pid) -> Option<Self> {
        let command_line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = command_line.split('\0');
        let program = words.next()?;
        let (role, id) = (words.next()?.to_owned(), words.next()?.to_owned());
        program.ends_with("aisix-worker").then_some(Self { pid, role, id })
    }

    /// A file of its folder below `/proc`.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        Self::at(self.pid).as_ref() == Some(self)
    }

    /// What its descriptors are, by number, as the kernel names them. Empty if we may not look: that needs root.
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        let Ok(entries) = fs::read_dir(self.proc("fd")) else { return BTreeMap::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Whether it holds the other end of a loopback connection. Never, unless we are root.
    pub fn holds(&self, connection: &Connection) -> bool {
        self.holds_between(connection.address(), connection.local())
    }

    /// The same for the connection between a listener and a caller.
    pub fn holds_between(&self, listener: SocketAddr, caller: SocketAddr) -> bool {
        let Some(inode) = inode(listener, caller) else { return false };
        let socket = format!("socket:[{inode}]");
        self.descriptors().into_values().any(|target| target == socket)
    }

    /// `kill -9`.
    pub fn kill(&self) {
        if self.runs() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// The socket at `own` of its connection with `peer`, in `/proc/net/tcp`.
fn inode(own: SocketAddr, peer: SocketAddr) -> Option<u64> {
    let loopback = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let (own, peer) = (loopback(own), loopback(peer));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let is_it = columns.get(1)? == &own && columns.get(2)? == &peer;
        is_it.then(|| columns.get(9)?.parse().ok())?
    })
}
