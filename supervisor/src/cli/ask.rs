//! `aisix status`, `log`, `reload`, `rotate` and `upgrade`: the gateway that runs is asked, and its answer told.

use std::env;
use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::control::client::{self, Target};
use crate::control::print::{self, Colour};
use crate::control::{Answer, Order};
use crate::settings::control;

/// Exit status of `aisix status` for a gateway that runs and is not ready. 2 is a usage error.
const NOT_READY: u8 = 3;

/// What to ask, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What to ask.
    pub order: Order,
    /// What goes with it: the directives of `log`.
    pub argument: Option<String>,
    /// The answer is printed as JSON.
    pub json: bool,
    /// Ask again after this time, until interrupted.
    pub watch: Option<Duration>,
    /// The control socket, if it was named.
    pub socket: Option<PathBuf>,
    /// The configuration file of the gateway, if one is known; not known to exist.
    pub config: Option<PathBuf>,
}

impl Question {
    /// Asks and prints. Status 0: done, or ready; 1: nobody answers, or it was refused; 3: the gateway is not ready.
    pub fn ask(&self) -> ExitCode {
        let Some(pause) = self.watch else { return self.once() };
        // Until interrupted, or nobody reads any more.
        loop {
            if stdout().is_terminal() {
                // The cursor goes home, and what is below goes away.
                let _ = stdout().write_all(b"\x1b[H\x1b[2J");
            }
            self.once();
            if stdout().write_all(b"\n").and_then(|()| stdout().flush()).is_err() {
                return ExitCode::SUCCESS;
            }
            thread::sleep(pause);
        }
    }

    fn once(&self) -> ExitCode {
        let (target, note) = self.target();
        match client::ask(&target, self.order, self.argument.as_deref()) {
            Ok(answer) => self.tell(&answer),
            Err(error) => {
                eprintln!("Error: {error}{}", note.unwrap_or_default());
                ExitCode::FAILURE
            }
        }
    }

    /// Where to ask; and a remark, if the configuration did not help to find it.
    fn target(&self) -> (Target, Option<String>) {
        if let Some(socket) = &self.socket {
            return (Target::at(socket), None);
        }
        let Some(config) = &self.config else { return (Target::unknown(), None) };
        match control::target(config, env::vars_os()) {
            Ok(target) => (target, None),
            Err(error) => {
                let note =
                    format!(" (the usual place, since the configuration cannot be read: {error})");
                (Target::unknown(), Some(note))
            }
        }
    }

    fn tell(&self, answer: &Answer) -> ExitCode {
        let (text, code) = match answer {
            Answer { ok: true, status: Some(status), .. } => {
                let code = if status.ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) };
                let text = if self.json && self.watch.is_some() {
                    // A line each, for whoever reads them one by one.
                    serde_json::to_string(status).unwrap_or_default()
                } else if self.json {
                    serde_json::to_string_pretty(status).unwrap_or_default() + "\n"
                } else {
                    print::text(status, colour())
                };
                (text, code)
            }
            Answer { ok: true, message, .. } => {
                (message.clone().unwrap_or_default() + "\n", ExitCode::SUCCESS)
            }
            Answer { error, .. } => {
                let error = error.as_deref().unwrap_or("no reason given");
                eprintln!("Error: the gateway does not {}: {error}", self.order.name());
                return ExitCode::FAILURE;
            }
        };
        // Not `println!`: a reader that has seen enough is no reason to panic.
        let _ = stdout().write_all(text.as_bytes());
        code
    }
}

/// Colour for a terminal, unless `NO_COLOR` is set to anything.
fn colour() -> Colour {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stdout().is_terminal() && !unwanted { Colour::On } else { Colour::Off }
}
