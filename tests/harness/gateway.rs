//! The gateway under test as it runs: `aisix`, its listeners, its workers, its log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::exposition::Exposition;
use crate::process::Process;
use crate::worker::{self, Worker};
use crate::{Caller, client, projection, wait};

/// A running gateway. Dropped, it is killed with all its workers.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) process: Process,
    pub(crate) proxy: SocketAddr,
    pub(crate) status: SocketAddr,
    pub(crate) folder: TempDir,
    /// Workers that it had when it was killed: they serve on.
    pub(crate) orphans: Vec<Worker>,
}

impl Gateway {
    /// Waits until its health route answers.
    ///
    /// # Panics
    /// If the gateway ends before.
    pub async fn wait_until_alive(&mut self) {
        self.wait_for(self.proxy, "/livez").await;
    }

    /// Waits until every worker serves configuration.
    ///
    /// # Panics
    /// If the gateway ends before.
    pub async fn wait_until_ready(&mut self) {
        self.wait_for(self.proxy, "/readyz").await;
        self.wait_for(self.status, "/status/ready").await;
        // One worker may be ahead of the others.
        wait::until("every proxy worker serves", async || {
            let up = self.metrics().await.sum("aisix_workers_up", &[("role", "proxy")]);
            let started = self.proxies().len();
            if up >= started as f64 { Ok(()) } else { Err(format!("{up} of {started}")) }
        })
        .await;
    }

    async fn wait_for(&mut self, address: SocketAddr, path: &str) {
        let process = &mut self.process;
        wait::until(&format!("{path} answers with 200"), async || {
            if let Some(status) = process.ended() {
                panic!("aisix ended ({status}):\n{}", process.log_tail());
            }
            let answer = client::fetch(address, path).await.map_err(|error| error.to_string())?;
            let status = answer.status;
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    /// The proxy listener.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The metrics and status listener.
    pub fn status(&self) -> SocketAddr {
        self.status
    }

    /// The caller `k-1` of [`crate::Projection::of`].
    pub fn caller(&self) -> Caller {
        self.caller_with(projection::CALLER_KEY)
    }

    /// A caller with another key.
    pub fn caller_with(&self, key: &str) -> Caller {
        Caller { address: self.proxy, key: key.to_owned() }
    }

    /// The supervisor's process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its workers.
    pub fn workers(&self) -> Vec<Worker> {
        worker::of(self.pid())
    }

    /// Its proxy workers.
    pub fn proxies(&self) -> Vec<Worker> {
        self.workers().into_iter().filter(|worker| worker.role == "proxy").collect()
    }

    /// The metrics as they are now.
    pub async fn metrics(&self) -> Exposition {
        let answer = client::fetch(self.status, "/metrics").await.expect("metrics are served");
        assert_eq!(answer.status, 200);
        Exposition::parse(&answer.text().await.expect("metrics are served"))
    }

    /// `/status/config` as it is now.
    pub async fn status_config(&self) -> Value {
        let answer = client::fetch(self.status, "/status/config").await.expect("status is served");
        let status = answer.status;
        let text = answer.text().await.expect("status is served");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// `/status/managed` as it is now.
    pub async fn status_managed(&self) -> Value {
        let answer = client::fetch(self.status, "/status/managed").await.expect("status is served");
        answer.json().await.expect("status is JSON")
    }

    /// What is told about a topic on `/status/managed`; empty if nothing is.
    pub async fn finding(&self, topic: &str) -> String {
        let managed = self.status_managed().await;
        let findings = managed["findings"].as_array().cloned().unwrap_or_default();
        let found = findings.iter().find(|finding| finding["topic"] == topic);
        found.and_then(|finding| finding["text"].as_str()).unwrap_or_default().to_owned()
    }

    /// Waits until the snapshot on disk is of that revision or a later one, and the generation before it is there.
    pub async fn wait_until_kept(&self, revision: i64) {
        wait::until(&format!("revision {revision} is on disk"), async || {
            let snapshot = self.status_managed().await["snapshot"].clone();
            let kept = snapshot["revision"].as_i64().is_some_and(|kept| kept >= revision);
            let before = snapshot["previous_generation"].as_u64() > Some(0);
            if kept && before { Ok(()) } else { Err(snapshot) }
        })
        .await;
    }

    /// Kills it with all its workers, as a power cut would.
    pub async fn kill_at_once(&mut self) {
        let workers = self.workers();
        self.signal(Signal::SIGKILL);
        workers.iter().for_each(Worker::kill);
        self.end().await;
    }

    /// Sends SIGTERM.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&mut self, signal: Signal) {
        // What ends it at once leaves workers that nobody else will end.
        if matches!(signal, Signal::SIGKILL | Signal::SIGABRT) {
            self.orphans.extend(self.workers());
        }
        self.process.signal(signal);
    }

    /// How it ends.
    pub async fn end(&mut self) -> ExitStatus {
        self.process.end().await
    }

    /// The workers it had when it was killed.
    pub fn orphans(&self) -> &[Worker] {
        &self.orphans
    }

    /// A folder for what a test writes beside it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let workers = self.workers();
        self.process.kill();
        // Proxy workers serve on when the supervisor is killed.
        workers.iter().chain(&self.orphans).for_each(Worker::kill);
    }
}
