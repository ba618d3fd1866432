//! The gateway under test: `aisix` with its configuration, its state directory and its workers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cloud::Bundle;
use crate::process::Process;
use crate::worker::{self, Worker};
use crate::{Caller, Cloud, binaries, client, port, projection, wait};

/// Proxy workers of a gateway under test, unless it says otherwise: two, so that they can differ.
pub const WORKERS: usize = 2;

/// How a gateway is to be started.
#[derive(Debug)]
pub struct Builder {
    folder: TempDir,
    proxy: SocketAddr,
    status: SocketAddr,
    configuration: Value,
    environment: Vec<(String, String)>,
    arguments: Option<Vec<String>>,
}

/// A running gateway. Dropped, it is killed with all its workers.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    proxy: SocketAddr,
    status: SocketAddr,
    folder: TempDir,
}

impl Builder {
    /// A gateway managed by that Cloud, with a bundle as files, as the guide says.
    pub fn managed(cloud: &Cloud) -> Self {
        Self::managed_with(cloud, &cloud.issue(crate::cloud::ENVIRONMENT))
    }

    /// The same with a bundle of one's own.
    pub fn managed_with(cloud: &Cloud, bundle: &Bundle) -> Self {
        Self::unprovisioned(cloud)
            .env("AISIX_MANAGED__CP_CERT_FILE", &bundle.certificate.to_string_lossy())
            .env("AISIX_MANAGED__CP_KEY_FILE", &bundle.key.to_string_lossy())
            .env("AISIX_MANAGED__CP_CA_FILE", &bundle.issuers.to_string_lossy())
    }

    /// The same without any bundle.
    pub fn unprovisioned(cloud: &Cloud) -> Self {
        let mut builder = Self::new();
        let state = builder.state();
        // What the published configuration file for managed gateways says, with paths and ports of our own.
        builder.configuration["etcd"] =
            json!({"endpoints": ["http://127.0.0.1:2379"], "prefix": "/aisix"});
        builder.configuration["managed"] = json!({
            "enabled": true,
            "mtls_dir": state.join("mtls"),
            "dp_id_file": state.join("dp_id"),
            "snapshot_cache_path": state.join("config_cache.json"),
            "heartbeat_interval_secs": 5,
        });
        builder.env("AISIX_MANAGED__CP_BASE_URL", &cloud.url())
    }

    /// A gateway that reads a plain etcd below `prefix`, without a Cloud.
    pub fn standalone(etcd: &crate::Etcd, prefix: &str) -> Self {
        let mut builder = Self::new();
        builder.configuration["etcd"] = json!({"endpoints": [etcd.url()], "prefix": prefix});
        builder.configuration["managed"] = json!({"enabled": false});
        builder
    }

    fn new() -> Self {
        let (proxy, status) = (port::reserve(), port::reserve());
        let configuration = json!({
            "proxy": {"addr": proxy, "workers": WORKERS},
            "observability": {"metrics": {"prometheus": {"addr": status}}},
            "shutdown": {"min_drain_secs": 0},
        });
        let folder = tempfile::tempdir().expect("a folder for the gateway");
        fs::create_dir(folder.path().join("state")).expect("a state directory");
        Self { folder, proxy, status, configuration, environment: Vec::new(), arguments: None }
    }

    /// With a setting, named by its JSON pointer, in the configuration file.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.configuration;
        for key in pointer.split('/').skip(1) {
            at = &mut at[key];
        }
        *at = value;
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these arguments instead of `--config FILE`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = Some(arguments.iter().map(|&argument| argument.to_owned()).collect());
        self
    }

    /// With a configuration file that is there already: what is our own comes by variables.
    #[must_use]
    pub fn with_file(mut self, path: &str) -> Self {
        let state = self.state();
        let path_of = |name: &str| state.join(name).display().to_string();
        let variables = [
            ("AISIX_PROXY__ADDR", self.proxy.to_string()),
            ("AISIX_PROXY__WORKERS", WORKERS.to_string()),
            ("AISIX_OBSERVABILITY__METRICS__PROMETHEUS__ADDR", self.status.to_string()),
            ("AISIX_MANAGED__MTLS_DIR", path_of("mtls")),
            ("AISIX_MANAGED__DP_ID_FILE", path_of("dp_id")),
            ("AISIX_MANAGED__SNAPSHOT_CACHE_PATH", path_of("config_cache.json")),
            ("AISIX_MANAGED__HEARTBEAT_INTERVAL_SECS", "5".to_owned()),
        ];
        self.environment.extend(variables.map(|(name, value)| (name.to_owned(), value)));
        self.arguments(&["--config", path])
    }

    /// Where the configuration file will be.
    pub fn configuration_path(&self) -> PathBuf {
        self.folder.path().join("config.managed.yaml")
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The proxy listener that it will have.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(self) -> Gateway {
        // JSON is YAML.
        let configuration = self.configuration.to_string();
        fs::write(self.configuration_path(), configuration).expect("the configuration is written");
        let program = binaries::find("aisix").unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new(program);
        match &self.arguments {
            Some(arguments) => command.args(arguments),
            None => command.arg("--config").arg(self.configuration_path()),
        };
        // A variable of the caller's shell must not decide a test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AISIX_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment);
        let log = self.folder.path().join("gateway.log");
        let process = Process::spawn("aisix", command, &log).expect("aisix starts");
        Gateway { process, proxy: self.proxy, status: self.status, folder: self.folder }
    }

    /// Starts it, and waits until its health route answers.
    pub async fn start_alive(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.wait_for(gateway.proxy, "/livez").await;
        gateway
    }

    /// Starts it, and waits until every worker serves configuration.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.wait_until_ready().await;
        gateway
    }
}

impl Gateway {
    /// Waits until every worker serves configuration.
    ///
    /// # Panics
    /// If the gateway ends before.
    pub async fn wait_until_ready(&mut self) {
        self.wait_for(self.proxy, "/readyz").await;
        // One worker may be ahead of the others; this route waits for all of them.
        self.wait_for(self.status, "/status/ready").await;
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
    pub async fn metrics(&self) -> crate::exposition::Exposition {
        let answer = client::fetch(self.status, "/metrics").await.expect("metrics are served");
        assert_eq!(answer.status, 200);
        crate::exposition::Exposition::parse(&answer.text().await.expect("metrics are served"))
    }

    /// `/status/config` as it is now.
    pub async fn status_config(&self) -> Value {
        let answer = client::fetch(self.status, "/status/config").await.expect("status is served");
        let status = answer.status;
        let text = answer.text().await.expect("status is served");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Sends SIGTERM.
    pub fn terminate(&mut self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// How it ends.
    pub async fn end(&mut self) -> ExitStatus {
        self.process.end().await
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
        // Workers leave by themselves when the supervisor is gone; not every test is a place to rely on it.
        workers.iter().for_each(Worker::kill);
    }
}
