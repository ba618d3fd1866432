//! `aisix status`, `log`, `reload`, `rotate` and `upgrade`: the gateway that runs is asked, and its answer told.

use std::env;
use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::control::client::{self, Target};
use crate::control::print::{self, Colour};
use crate::control::status::Status;
use crate::control::{Answer, Order};
use crate::settings::control;

/// Exit status of `aisix status` for a gateway that runs and is not ready. 2 is a usage error.
const NOT_READY: u8 = 3;
/// A gateway that is not known to be ready after this time is not.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

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
    /// Only whether it is ready, in a line.
    pub check: bool,
    /// The control socket, if it was named.
    pub socket: Option<PathBuf>,
    /// The configuration file of the gateway, if one is known; not known to exist.
    pub config: Option<PathBuf>,
}

impl Question {
    /// Asks and prints. Status 0: done, or ready; 1: nobody answers, or it was refused; 3: the gateway is not ready.
    pub fn ask(&self) -> ExitCode {
        if self.check {
            return self.check();
        }
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

    /// For health checks. Status 0: ready; 1: anything else, since container runtimes keep 2 for themselves and know no
    /// other. What hangs, be it a supervisor whose backlog is full or the file system of the configuration, hangs a thread
    /// that ends with this process.
    fn check(&self) -> ExitCode {
        let (found, outcome) = mpsc::channel();
        let (socket, config) = (self.socket.clone(), self.config.clone());
        let asking = thread::Builder::new().spawn(move || {
            let (target, note) = target(socket.as_deref(), config.as_deref());
            let answer = client::ask_within(&target, Order::Status, None, CHECK_LIMIT);
            let told = match answer {
                Ok(Answer { ok: true, status: Some(status), .. }) => readiness(&status),
                Ok(answer) => Err(answer.error.unwrap_or_else(|| "no reason given".to_owned())),
                Err(error) => Err(format!("{error}{}", note.unwrap_or_default())),
            };
            // Nobody waits any longer if it took too long.
            let _ = found.send(told);
        });
        let readiness = match asking {
            Ok(_) => outcome.recv_timeout(CHECK_LIMIT).unwrap_or_else(|_| {
                Err(format!("no answer within {} s: the gateway hangs", CHECK_LIMIT.as_secs()))
            }),
            Err(error) => Err(format!("cannot start a thread: {error}")),
        };
        let (text, code) = match readiness {
            Ok(()) => ("ready\n".to_owned(), ExitCode::SUCCESS),
            Err(why) => (format!("not ready: {}\n", print::line(&why)), ExitCode::FAILURE),
        };
        let _ = stdout().write_all(text.as_bytes());
        code
    }

    fn once(&self) -> ExitCode {
        let (target, note) = target(self.socket.as_deref(), self.config.as_deref());
        match client::ask(&target, self.order, self.argument.as_deref()) {
            Ok(answer) => {
                if self.order == Order::Upgrade && answer.ok {
                    // Whoever asks next gets an answer.
                    client::wait_for_successor(&target);
                }
                self.tell(&answer)
            }
            Err(error) => {
                eprintln!("Error: {error}{}", note.unwrap_or_default());
                ExitCode::FAILURE
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

/// Whether the gateway is ready, else why not.
fn readiness(status: &Status) -> Result<(), String> {
    if status.ready {
        return Ok(());
    }
    let evidence = |name: &str| {
        let check = status.checks.iter().find(|check| check.name == name);
        check.map(|check| format!(": {}", check.evidence)).unwrap_or_default()
    };
    Err(match status.state.as_str() {
        "waiting" => format!("waiting{}", evidence("resources")),
        "ending" => "ending".to_owned(),
        state => format!("{state}{}", evidence("started")),
    })
}

/// Where to ask, with the socket or else the configuration that is named; and a remark, if that did not help to find it.
pub fn target(socket: Option<&Path>, config: Option<&Path>) -> (Target, Option<String>) {
    if let Some(socket) = socket {
        return (Target::at(socket), None);
    }
    let Some(config) = config else { return (Target::unknown(), None) };
    match control::target(config, env::vars_os()) {
        Ok(target) => (target, None),
        Err(error) => {
            let note =
                format!(" (the usual place, since the configuration cannot be read: {error})");
            (Target::unknown(), Some(note))
        }
    }
}

/// Colour for a terminal, unless `NO_COLOR` is set to anything.
pub fn colour() -> Colour {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stdout().is_terminal() && !unwanted { Colour::On } else { Colour::Off }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::Check;

    #[test]
    fn a_health_check_says_why_the_gateway_is_not_ready() {
        let check = |name: &str, evidence: &str| Check {
            name: name.to_owned(),
            evidence: evidence.to_owned(),
            ..Check::default()
        };
        let checks =
            vec![check("started", "1 of 3 workers do not serve"), check("resources", "none")];
        let status = |state: &str| Status {
            state: state.to_owned(),
            ready: state == "ready",
            checks: checks.clone(),
            ..Status::default()
        };
        assert_eq!(readiness(&status("ready")), Ok(()));
        for (state, told) in [
            ("starting", "starting: 1 of 3 workers do not serve"),
            ("degraded", "degraded: 1 of 3 workers do not serve"),
            ("waiting", "waiting: none"),
            ("ending", "ending"),
        ] {
            assert_eq!(readiness(&status(state)), Err(told.to_owned()));
        }
    }
}
