//! Attempts at an escape, by name. Each returns what it achieved, or the kernel's error.

mod exhaust;
mod files;
mod kernel;
mod listener;
mod network;
mod processes;

use nix::errno::Errno;

use crate::stage::{Outcome, Stage};

/// What an attempt does.
pub type Attempt = fn(&Stage) -> Outcome;

/// Every attempt.
const ALL: &[&[(&str, Attempt)]] = &[
    files::ATTEMPTS,
    network::ATTEMPTS,
    listener::ATTEMPTS,
    processes::ATTEMPTS,
    kernel::ATTEMPTS,
    exhaust::ATTEMPTS,
];

/// The attempt of that name. `list` names all of them.
pub fn find(name: &str) -> Attempt {
    let all = ALL.iter().copied().flatten();
    all.clone().find(|(it, _)| *it == name).map_or(list, |(_, attempt)| *attempt)
}

fn list(stage: &Stage) -> Outcome {
    if stage.text("attempt") != "list" {
        return Err(Errno::EINVAL);
    }
    let names: Vec<_> = ALL.iter().copied().flatten().map(|(name, _)| *name).collect();
    Ok(names.join(" "))
}

/// What is said where success needs no words.
fn done(result: Result<usize, Errno>) -> Outcome {
    result.map(|value| format!("{value}"))
}
