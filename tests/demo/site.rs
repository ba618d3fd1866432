//! Everything the demo runs: the local Cloud, the upstream, the gateway, and their files in `.demo`.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::binaries::NotBuilt;
use harness::process::Process;
use harness::provider::behaviour;
use harness::{wait, worker};
use nix::sys::signal::Signal;

use crate::parts;
use crate::screen::Screen;
use crate::settings::{Port, SettingError, Settings};

/// The environment of the demo.
pub const ENVIRONMENT: &str = "11111111-2222-3333-4444-555555555555";
/// The caller's key.
pub const CALLER_KEY: &str = "sk-demo";
/// The model's name for callers.
pub const MODEL: &str = "demo-chat";
/// How long a process may take to start, or to leave.
pub const PATIENCE: Duration = Duration::from_secs(30);

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
        let folder = parts::fresh_folder()?;
        parts::write_resources(&settings, &folder)?;
        let cloud = parts::start_cloud(&settings, &folder).await?;
        let (manager, view) = (settings.manager.address, settings.view.address);
        screen.done("local Cloud", &format!("https://{manager}, to be seen on http://{view}"));
        let upstream = parts::start_upstream(&settings, &folder)?;
        screen.done("model upstream", &parts::upstream_url(&settings));
        parts::issue(&folder)?;
        let bundle = folder.join("bundle");
        screen.done(
            "certificate bundle",
            &format!("{}, environment {ENVIRONMENT}", bundle.display()),
        );
        let (command, words) = parts::gateway_command(&settings, &folder)?;
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
