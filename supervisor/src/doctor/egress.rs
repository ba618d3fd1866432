//! An egress worker of the doctor's own, for a gateway that is down: the same program, user and confinement, the same table
//! of destinations and files of the resolver, so that what works here works there.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::geteuid;
use shared::channel::{self, Channel};
use shared::egress::client::{self, EgressDial};
use shared::egress::table;
use shared::id::{Role, WorkerId};
use shared::message::{self, Client, ToSupervisor, ToWorker};
use shared::version::{PROTOCOLS, VERSION};
use tokio::time::timeout;

use crate::broker::{Builds, settle};
use crate::destinations::Destinations;
use crate::fleet::Sandbox;
use crate::handover::exec::Own;
use crate::metrics;
use crate::process::identity::Users;
use crate::process::launch::{Launch, Program};
use crate::process::{self, View, inspect};
use crate::resolver_files;
use crate::settings::Settings;
use crate::{worker_log, worker_settings};

/// The worker has to serve within this time.
const LIMIT: Duration = Duration::from_secs(2);
/// What it logs: the doctor tells what is wrong.
const LOG_FILTER: &str = "error";

type ToEgress = Channel<ToWorker, ToSupervisor>;

/// A running egress worker. Dropped, it is ended.
pub struct OwnEgress {
    /// Makes connections through it.
    pub dial: EgressDial,
    process: OwnedFd,
}

impl Drop for OwnEgress {
    fn drop(&mut self) {
        // One that cannot be killed ends by itself when its channel is closed.
        let _ = process::kill(&self.process);
    }
}

impl OwnEgress {
    /// Starts one, within a `LocalSet`. The reason, if it cannot serve, is a sentence.
    pub async fn start(settings: &Settings) -> Result<Self, String> {
        let program =
            Program::open(settings.workers.program.as_deref(), &Own::of_this_process().program)
                .map_err(|error| error.to_string())?;
        let metrics = metrics::new_memory().map_err(|error| format!("memory for it: {error}"))?;
        let launch = Launch {
            role: Role::Egress,
            id: WorkerId(0),
            policy: settings.workers.sandbox.name(),
            user: Users::choose(settings.workers.uid_base, &[]).of(Role::Egress),
            tls: false,
            listener: None,
            metrics: metrics.as_fd(),
            usage: None,
            adoption: None,
        };
        let launched = program.launch(&launch).map_err(|error| error.to_string())?;
        tokio::task::spawn_local(worker_log::forward(
            WorkerId(0),
            Role::Egress,
            launched.pid,
            launched.log,
        ));
        let (dial, driver) = client::new(Duration::from_millis(500));
        let own = Self { dial, process: launched.process };
        let talk = async {
            let channel = ToEgress::new(launched.control).map_err(|error| error.to_string())?;
            greet(&channel, launched.pid, &launched.view, settings).await?;
            let (ours, theirs) = channel::pair().map_err(|error| error.to_string())?;
            tell(&channel, ToWorker::Client(Client::Supervisor), Some(theirs)).await?;
            own.dial.reached_over(ours);
            // The worker ends with this channel; what it says meanwhile is of no interest.
            tokio::task::spawn_local(async move { while channel.receive().await.is_ok() {} });
            Ok::<_, String>(())
        };
        match timeout(LIMIT, talk).await {
            Ok(done) => done?,
            Err(_) => return Err(format!("it does not serve within {} s", LIMIT.as_secs())),
        }
        tokio::task::spawn_local(driver.run());
        Ok(own)
    }
}

/// Checks the hello, and tells the worker everything that it works with.
async fn greet(
    channel: &ToEgress,
    pid: nix::unistd::Pid,
    view: &View,
    settings: &Settings,
) -> Result<(), String> {
    let ToSupervisor::Hello(hello) = hear(channel).await? else {
        return Err("it does not say hello first".to_owned());
    };
    channel.agree(settle(&hello, PROTOCOLS, Builds::Same(VERSION))?);
    let observed = inspect::observe(view).map_err(|error| format!("process {pid}: {error}"))?;
    let mut missing = observed.missing(geteuid().as_raw());
    missing.extend(hello.confinement.missing);
    if settings.workers.sandbox == Sandbox::Required && !missing.is_empty() {
        return Err(format!(
            "it is not confined as supervisor.sandbox requires: {}",
            missing.join("; ")
        ));
    }
    let sealed = |error: std::io::Error| format!("memory for it: {error}");
    let told = message::welcome(&worker_settings::egress(settings, LOG_FILTER)).map_err(sealed)?;
    tell(channel, ToWorker::Welcome, Some(told)).await?;
    let files = resolver_files::read().seal().map_err(sealed)?;
    tell(channel, ToWorker::Resolver, Some(files)).await?;
    let destinations =
        Destinations::new(&settings.source, &settings.redis, settings.observability.otlp.as_ref());
    let destinations = table(&destinations.whole()).map_err(sealed)?;
    tell(channel, ToWorker::Destinations { whole: true }, Some(destinations)).await?;
    tell(channel, ToWorker::Activate, None).await?;
    while hear(channel).await? != ToSupervisor::Ready {}
    Ok(())
}

async fn tell(channel: &ToEgress, message: ToWorker, with: Option<OwnedFd>) -> Result<(), String> {
    let sent = channel.send(&message, 0, with.as_ref().map(AsFd::as_fd)).await;
    sent.map_err(|error| format!("it cannot be told what to do: {error}"))
}

async fn hear(channel: &ToEgress) -> Result<ToSupervisor, String> {
    let received = channel.receive().await;
    received
        .map(|it| it.message)
        .map_err(|error| format!("it has ended, or breaks the protocol: {error}"))
}
