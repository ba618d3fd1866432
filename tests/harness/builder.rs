//! How a gateway is started: its configuration file, its variables, its folders and ports.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cloud::{Bundle, ENVIRONMENT};
use crate::process::Process;
use crate::{Cloud, Etcd, Gateway, binaries, port};

/// Proxy workers of a gateway under test, unless it says otherwise: two, so that they can differ.
pub const WORKERS: usize = 2;

/// The configuration file.
const FILE_NAME: &str = "config.managed.yaml";

/// How a gateway is to be started.
#[derive(Debug)]
pub struct Builder {
    folder: TempDir,
    proxy: SocketAddr,
    status: SocketAddr,
    configuration: Value,
    environment: Vec<(String, String)>,
    arguments: Option<Vec<String>>,
    /// Where the programs are, if not where they were built.
    programs: Option<PathBuf>,
    /// What starts the program, which comes behind it with its arguments.
    starter: Vec<String>,
    user: Option<u32>,
    /// Who owns its folders, if not who runs it.
    owner: Option<u32>,
}

impl Builder {
    /// A gateway managed by that Cloud, with a bundle as files, as the guide says.
    pub fn managed(cloud: &Cloud) -> Self {
        Self::managed_with(cloud, &cloud.issue(ENVIRONMENT))
    }

    /// The same with a bundle of one's own.
    pub fn managed_with(cloud: &Cloud, bundle: &Bundle) -> Self {
        Self::managed_at(&cloud.url(), bundle)
    }

    /// A gateway managed by whatever is at that URL.
    pub fn managed_at(url: &str, bundle: &Bundle) -> Self {
        Self::unprovisioned_at(url)
            .env("AISIX_MANAGED__CP_CERT_FILE", &bundle.certificate.to_string_lossy())
            .env("AISIX_MANAGED__CP_KEY_FILE", &bundle.key.to_string_lossy())
            .env("AISIX_MANAGED__CP_CA_FILE", &bundle.issuers.to_string_lossy())
    }

    /// A gateway managed by that Cloud, without any bundle.
    pub fn unprovisioned(cloud: &Cloud) -> Self {
        Self::unprovisioned_at(&cloud.url())
    }

    /// A gateway in the state directory that a former one has left, with no bundle but the one in there.
    pub fn after(former: &Gateway, cloud: &Cloud) -> Self {
        let state = former.state();
        Self::unprovisioned(cloud)
            .set("/managed/mtls_dir", json!(state.join("mtls")))
            .set("/managed/dp_id_file", json!(state.join("dp_id")))
            .set("/managed/snapshot_cache_path", json!(state.join("config_cache.json")))
    }

    fn unprovisioned_at(url: &str) -> Self {
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
        builder.env("AISIX_MANAGED__CP_BASE_URL", url)
    }

    /// A gateway that reads a plain etcd below `prefix`, without a Cloud.
    pub fn standalone(etcd: &Etcd, prefix: &str) -> Self {
        let mut builder = Self::new();
        builder.configuration["etcd"] = json!({"endpoints": [etcd.url()], "prefix": prefix});
        builder.configuration["managed"] = json!({"enabled": false});
        builder
    }

    /// A gateway that reads its resources from a file.
    pub fn from_file(resources: &Path) -> Self {
        let mut builder = Self::new();
        builder.configuration["resources_file"] = json!(resources);
        builder
    }

    fn new() -> Self {
        let (proxy, status) = (port::reserve(), port::reserve());
        let configuration = json!({
            "proxy": {"addr": proxy, "workers": WORKERS},
            // The tests read text, wherever they run.
            "observability": {"log_format": "text", "metrics": {"prometheus": {"addr": status}}},
            "shutdown": {"min_drain_secs": 0},
        });
        let folder = tempfile::tempdir().expect("a folder for the gateway");
        fs::create_dir(folder.path().join("state")).expect("a state directory");
        Self {
            folder,
            proxy,
            status,
            configuration,
            environment: Vec::new(),
            arguments: None,
            programs: None,
            starter: Vec::new(),
            user: None,
            owner: None,
        }
    }

    /// With programs that were copied there.
    #[must_use]
    pub fn programs(mut self, folder: &Path) -> Self {
        self.programs = Some(folder.to_owned());
        self
    }

    /// Started by another program, which is followed by ours and its arguments.
    #[must_use]
    pub fn started_by(mut self, starter: &[&str]) -> Self {
        self.starter = starter.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Started by that behind what starts it already.
    #[must_use]
    pub fn then_by(mut self, starter: &[&str]) -> Self {
        self.starter.extend(starter.iter().map(|&word| word.to_owned()));
        self
    }

    /// At the addresses of a former one.
    #[must_use]
    pub fn in_place_of(mut self, former: &Gateway) -> Self {
        (self.proxy, self.status) = (former.proxy, former.status);
        let (proxy, status) = (json!(former.proxy), json!(former.status));
        self.set("/proxy/addr", proxy).set("/observability/metrics/prometheus/addr", status)
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

    /// Run by that user, who owns its folders. Only root can do that.
    #[must_use]
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Its folders are owned by that user, whom what starts it makes it. Only root can do that.
    #[must_use]
    pub fn owned_by(mut self, user: u32) -> Self {
        self.owner = Some(user);
        self
    }

    /// With its proxy listener at that address.
    #[must_use]
    pub fn at(mut self, proxy: SocketAddr) -> Self {
        self.proxy = proxy;
        self.set("/proxy/addr", json!(proxy))
    }

    /// `aisix validate` of the same configuration, as it would be started with.
    pub fn validating(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the check");
        let path = folder.path().join(FILE_NAME);
        let arguments = match self.arguments.as_deref() {
            Some(arguments) => arguments.to_vec(),
            None => vec!["--config".to_owned(), path.display().to_string()],
        };
        Self {
            folder,
            proxy: self.proxy,
            status: self.status,
            configuration: self.configuration.clone(),
            environment: self.environment.clone(),
            arguments: Some([vec!["validate".to_owned()], arguments].concat()),
            programs: self.programs.clone(),
            starter: Vec::new(),
            user: self.user,
            owner: self.owner,
        }
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
            ("AISIX_OBSERVABILITY__LOG_FORMAT", "text".to_owned()),
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
        self.folder.path().join(FILE_NAME)
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The proxy listener that it will have.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// The status listener that it will have.
    pub fn status(&self) -> SocketAddr {
        self.status
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(self) -> Gateway {
        // JSON is YAML.
        let configuration = self.configuration.to_string();
        fs::write(self.configuration_path(), configuration).expect("the configuration is written");
        let program = match &self.programs {
            Some(folder) => folder.join("aisix"),
            None => binaries::find("aisix").unwrap_or_else(|error| panic!("{error}")),
        };
        let mut command = match self.starter.split_first() {
            Some((starter, words)) => {
                let mut command = Command::new(starter);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
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
        if let Some(user) = self.owner.or(self.user) {
            for path in [self.folder.path(), &self.folder.path().join("state")] {
                chown(path, Some(user), Some(user)).expect("only root tests with other users");
            }
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let log = self.folder.path().join("gateway.log");
        let process = Process::spawn("aisix", command, &log).expect("aisix starts");
        let (proxy, status, folder) = (self.proxy, self.status, self.folder);
        Gateway { process, proxy, status, folder, orphans: Vec::new() }
    }

    /// Starts it, and waits until its health route answers.
    pub async fn start_alive(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.wait_until_alive().await;
        gateway
    }

    /// Starts it, and waits until every worker serves configuration.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.wait_until_ready().await;
        gateway
    }
}
