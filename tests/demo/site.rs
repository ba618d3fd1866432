//! Everything the demo runs: the local Cloud, the upstream, the gateway, and their files in `.demo`.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::binaries::{self, NotBuilt};
use harness::process::Process;
use harness::provider::behaviour;
use harness::{wait, worker};
use nix::sys::signal::Signal;

use crate::screen::Screen;
use crate::settings::{Port, SettingError, Settings};

/// The environment of the demo.
pub const ENVIRONMENT: &str = "11111111-2222-3333-4444-555555555555";
/// The caller's key.
pub const CALLER_KEY: &str = "sk-demo";
/// The model's name for callers.
pub const MODEL: &str = "demo-chat";
/// How long a process may take to start, or to leave.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the demo cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A variable is wrong.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A program is missing.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// Somebody else listens there.
    #[error(
        "port {} is taken, and {} needs it; stop what listens there, or choose another: make demo {}={}",
        port.address.port(), port.purpose, port.variable, port.address.port().wrapping_add(10_000)
    )]
    PortTaken {
        /// The port.
        port: Port,
    },
    /// A file or folder cannot be made.
    #[error("cannot {attempted} {}: {source}", path.display())]
    File {
        /// What was tried.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A process does not start.
    #[error("{0}")]
    Start(#[from] io::Error),
    /// A process ended that should run.
    #[error("{name} has ended; its last words:\n{log}")]
    Ended {
        /// Which one.
        name: &'static str,
        /// The end of its log.
        log: String,
    },
    /// The bundle was not issued.
    #[error("aisix-cloud did not issue a bundle:\n{0}")]
    Issue(String),
}

/// What runs.
#[derive(Debug)]
pub struct Site {
    /// What was chosen.
    pub settings: Settings,
    /// The gateway.
    pub gateway: Process,
    /// When it was started.
    pub started: Instant,
    folder: PathBuf,
    cloud: Process,
    upstream: Option<Process>,
}

impl Site {
    /// Sets everything up, from nothing.
    pub async fn build(settings: Settings, screen: &Screen) -> Result<Self, SiteError> {
        for port in settings.ports() {
            TcpListener::bind(port.address).map_err(|_| SiteError::PortTaken { port })?;
        }
        let folder = fresh_folder()?;
        write_resources(&settings, &folder)?;
        let cloud = start_cloud(&settings, &folder).await?;
        let (manager, view) = (settings.manager.address, settings.view.address);
        screen.done("local Cloud", &format!("https://{manager}, to be seen on http://{view}"));
        let upstream = start_upstream(&settings, &folder)?;
        screen.done("model upstream", &upstream_url(&settings));
        issue(&folder)?;
        let bundle = folder.join("bundle");
        screen.done(
            "certificate bundle",
            &format!("{}, environment {ENVIRONMENT}", bundle.display()),
        );
        let (command, words) = gateway_command(&settings, &folder)?;
        screen.done("gateway", "started as the managed guide says:");
        words.iter().for_each(|line| screen.note(line));
        if !nix::unistd::geteuid().is_root() {
            screen.note("not root: the workers share your user; every other lock is on (sudo make demo has all)");
        }
        let started = Instant::now();
        let gateway = Process::spawn("aisix", command, &folder.join("gateway.log"))?;
        Ok(Self { settings, gateway, started, folder, cloud, upstream })
    }

    /// A file of the demo.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The first process that ends although it should run.
    pub async fn first_end(&mut self) -> SiteError {
        loop {
            let processes = [
                ("aisix", Some(&mut self.gateway)),
                ("aisix-cloud", Some(&mut self.cloud)),
                ("aisix-upstream", self.upstream.as_mut()),
            ];
            for (name, process) in processes {
                if let Some(process) = process
                    && process.ended().is_some()
                {
                    return SiteError::Ended { name, log: process.log_tail() };
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends the gateway in order; what it used is told to the Cloud before. The others end when this is dropped.
    pub async fn leave(&mut self) {
        self.gateway.signal(Signal::SIGTERM);
        let gateway = &mut self.gateway;
        // If it does not leave it is killed when it is dropped.
        let _ = wait::up_to(PATIENCE, async || gateway.ended().ok_or(())).await;
    }

    /// What to try next.
    pub fn invite(&self, screen: &Screen) {
        let Settings { proxy, status, view, .. } = &self.settings;
        let (proxy, status, view) = (proxy.address, status.address, view.address);
        screen.title("It stays up until Ctrl-C. What to try next");
        screen.command(
            "any OpenAI client",
            &format!(
                "OPENAI_BASE_URL=http://{proxy}/v1 OPENAI_API_KEY={CALLER_KEY} python my_program.py"
            ),
        );
        screen.command("what the Cloud knows", &format!("curl http://{view}/heartbeats; curl http://{view}/usage; curl http://{view}/usage/totals"));
        screen.command(
            "metrics, and the configuration in force",
            &format!("curl http://{status}/metrics; curl http://{status}/status/config"),
        );
        let resources = self.path("resources.yaml");
        screen.command(
            "change resources: in force in every worker as soon as the file is saved",
            &format!("$EDITOR {}", resources.display()),
        );
        let pids: Vec<_> = worker::of(self.gateway.pid())
            .into_iter()
            .filter(|worker| worker.role == "proxy")
            .map(|worker| worker.pid.to_string())
            .collect();
        screen.command(
            "kill a worker: the port stays open, another one comes",
            &format!("kill -9 {}", pids.first().map_or("", String::as_str)),
        );
        screen.command(
            "the gateway's log",
            &format!("tail -f {}", self.path("gateway.log").display()),
        );
        if self.settings.provider.is_none() {
            screen.command("a real provider", "make demo UPSTREAM_URL=https://api.openai.com/v1 UPSTREAM_KEY=… UPSTREAM_MODEL=gpt-4o-mini");
            screen.note(&format!(
                "the upstream here plays by the model's name: {}",
                behaviour::NAMES.join(", ")
            ));
        }
    }
}

/// `.demo` of the project, empty. Only called when nobody listens on our ports, so no other demo is using it.
fn fresh_folder() -> Result<PathBuf, SiteError> {
    let folder = project().join(".demo");
    let failed = |attempted| {
        let path = folder.clone();
        move |source| SiteError::File { attempted, path, source }
    };
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("empty")(error));
        }
        _ => {}
    }
    fs::create_dir_all(folder.join("state")).map_err(failed("make"))?;
    Ok(folder)
}

/// The root of the project that this program was built from.
fn project() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The resources file of the local Cloud: one provider, one model, one caller.
fn write_resources(settings: &Settings, folder: &Path) -> Result<(), SiteError> {
    use std::os::unix::fs::OpenOptionsExt;

    // JSON's way to write a text is YAML's, too.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let model = settings.provider.as_ref().map_or("small-1", |provider| provider.model.as_str());
    let text = format!(
        "# What the local Cloud projects to the gateway. Save it, and it is in force.\n\
         environments:\n  {ENVIRONMENT}:\n    provider_keys:\n      pk-1:\n        \
         display_name: upstream\n        provider: openai\n        adapter: openai\n        \
         api_base: {}\n        api_key: {}\n    models:\n      m-1:\n        display_name: {MODEL}\n        \
         provider: openai\n        model_name: {}\n        provider_key_id: pk-1\n    api_keys:\n      k-1:\n        \
         key: {CALLER_KEY}\n        allowed_models: [\"*\"]\n",
        quoted(&upstream_url(settings)),
        quoted(&settings.provider_key()),
        quoted(model),
    );
    let path = folder.join("resources.yaml");
    let mut options = fs::OpenOptions::new();
    // It holds the provider's key.
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|source| SiteError::File { attempted: "write", path, source })
}

fn upstream_url(settings: &Settings) -> String {
    match &settings.provider {
        Some(provider) => provider.url.clone(),
        None => format!("http://{}/v1", settings.upstream.address),
    }
}

async fn start_cloud(settings: &Settings, folder: &Path) -> Result<Process, SiteError> {
    let mut command = Command::new(binaries::find("aisix-cloud")?);
    command.arg("serve").arg("--data").arg(folder.join("cloud"));
    command.args(["--listen", &settings.manager.address.to_string()]);
    command.args(["--view", &settings.view.address.to_string()]);
    command.arg("--resources").arg(folder.join("resources.yaml"));
    let mut process = Process::spawn("aisix-cloud", command, &folder.join("cloud.log"))?;
    let ready = folder.join("cloud/addresses.json");
    let is_ready = wait::up_to(PATIENCE, async || {
        if ready.exists() || process.ended().is_some() { Ok(()) } else { Err(()) }
    });
    let _ = is_ready.await;
    if ready.exists() {
        return Ok(process);
    }
    Err(SiteError::Ended { name: "aisix-cloud", log: process.log_tail() })
}

fn start_upstream(settings: &Settings, folder: &Path) -> Result<Option<Process>, SiteError> {
    if settings.provider.is_some() {
        return Ok(None);
    }
    let mut command = Command::new(binaries::find("aisix-upstream")?);
    command.args(["--listen", &settings.upstream.address.to_string()]);
    Ok(Some(Process::spawn("aisix-upstream", command, &folder.join("upstream.log"))?))
}

fn issue(folder: &Path) -> Result<(), SiteError> {
    let output = Command::new(binaries::find("aisix-cloud")?)
        .args(["issue", "--env", ENVIRONMENT])
        .arg("--data")
        .arg(folder.join("cloud"))
        .arg("--out")
        .arg(folder.join("bundle"))
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(SiteError::Issue(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// The guide's command, with a state directory and ports of the demo; and the words for it.
fn gateway_command(
    settings: &Settings,
    folder: &Path,
) -> Result<(Command, Vec<String>), SiteError> {
    let configuration = project().join("packaging/config.managed.yaml");
    let path = |name: &str| folder.join(name).display().to_string();
    let variables = [
        ("AISIX_MANAGED__CP_BASE_URL", format!("https://{}", settings.manager.address)),
        ("AISIX_MANAGED__CP_CERT_FILE", path("bundle/client.crt")),
        ("AISIX_MANAGED__CP_KEY_FILE", path("bundle/client.key")),
        ("AISIX_MANAGED__CP_CA_FILE", path("bundle/ca.crt")),
        ("AISIX_MANAGED__MTLS_DIR", path("state/mtls")),
        ("AISIX_MANAGED__DP_ID_FILE", path("state/dp_id")),
        ("AISIX_MANAGED__SNAPSHOT_CACHE_PATH", path("state/config_cache.json")),
        ("AISIX_MANAGED__HEARTBEAT_INTERVAL_SECS", "5".to_owned()),
        ("AISIX_PROXY__ADDR", settings.proxy.address.to_string()),
        ("AISIX_OBSERVABILITY__METRICS__PROMETHEUS__ADDR", settings.status.address.to_string()),
        ("AISIX_SHUTDOWN__MIN_DRAIN_SECS", "0".to_owned()),
    ];
    let mut command = Command::new(binaries::find("aisix")?);
    command.arg("--config").arg(&configuration);
    let mut words: Vec<_> =
        variables.iter().map(|(name, value)| format!("{name}={value} \\")).collect();
    words.push(format!("aisix --config {}", configuration.display()));
    command.envs(variables);
    Ok((command, words))
}
