//! `aisix-demo`: the managed gateway on this machine alone, and the five checks of the managed guide over it.
//!
//! Starts a local Cloud and a small model upstream, has a certificate bundle issued, starts `aisix` as the guide says, and
//! looks: started, heartbeat, resources, a live request, its usage. Then it stays up until Ctrl-C, or leaves with `ONCE=1`.

mod checks;
mod parts;
mod screen;
mod settings;
mod site;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use checks::Visit;
use screen::Screen;
use settings::Settings;
use site::{Site, SiteError};

/// The guide's checks, in its order.
const CHECKS: [&str; 5] = [
    "the gateway started, without certificate or trust-chain errors",
    "the Cloud shows the heartbeat of the expected environment",
    "the projected resources have reached the gateway",
    "a live request through the gateway is answered",
    "the usage of that request has arrived at the Cloud",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let screen = Screen::new();
    match run(&screen).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.trouble(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Whether every check holds.
async fn run(screen: &Screen) -> Result<bool, SiteError> {
    let settings = Settings::from_environment()?;
    screen.title("A managed gateway, on this machine alone");
    let mut site = Site::build(settings, screen).await?;
    let all_hold = walk(&mut site, screen).await;
    if !all_hold || site.settings.once {
        site.leave().await;
        return Ok(all_hold);
    }
    site.invite(screen);
    let was_asked = stay(&mut site, screen).await;
    site.leave().await;
    Ok(was_asked)
}

/// The five checks; the first that fails is the last that is tried, since each builds on those before it.
async fn walk(site: &mut Site, screen: &Screen) -> bool {
    screen.title("The five checks of the managed guide");
    let mut visit = Visit::default();
    for (index, name) in CHECKS.iter().enumerate() {
        let number = index + 1;
        let outcome = match number {
            1 => checks::started(site).await,
            2 => checks::heartbeat(site).await,
            3 => checks::resources(site).await,
            4 => checks::live_request(site, &mut visit).await,
            _ => checks::usage(site, &visit).await,
        };
        match outcome {
            Ok(evidence) => screen.tick(number, name, &evidence),
            Err(seen) => {
                screen.cross(number, name, &seen);
                screen.note(&format!("the gateway's log: {}", site.path("gateway.log").display()));
                CHECKS.iter().enumerate().skip(number).for_each(|(index, name)| {
                    screen.not_tried(index + 1, name);
                });
                return false;
            }
        }
    }
    true
}

/// Until Ctrl-C, SIGTERM, or the end of a process that should not end; `false` for the last.
async fn stay(site: &mut Site, screen: &Screen) -> bool {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return false;
    };
    tokio::select! {
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
        ended = site.first_end() => {
            screen.trouble(&ended.to_string());
            false
        }
    }
}
