//! `aisix-cloud`: the local Cloud, for evaluation and tests. It is the other end of a managed gateway
//! for people without a Cloud account: it issues certificate bundles, serves the manager API and the
//! etcd API over mutual TLS on one port, projects resources from a YAML file or from a real etcd, and
//! keeps what gateways report.
//!
//! ```text
//! cli -> issue                          a bundle on disk
//!     -> serve -> listener --ALPN h2--> etcd/     Range and Watch, each environment behind its fence
//!                          --http/1.1-> manager/  heartbeat, telemetry, budget_check, rotate-cert
//!              -> reload                resources.rs: YAML file -> one revision per change
//!              -> view                  what was reported, as JSON on loopback
//! ```

mod authority;
mod cli;
mod cloud;
mod connections;
mod durable;
mod environment;
mod etcd;
mod faults;
mod identity;
mod issue;
mod ledger;
mod listener;
mod manager;
mod query;
mod reload;
mod reply;
mod resources;
mod serve;
mod view;

use std::{error::Error, process::ExitCode};

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    match run(cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aisix-cloud: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: cli::Command) -> Result<(), Box<dyn Error>> {
    match command {
        cli::Command::Issue(args) => Ok(issue::run(&args)?),
        cli::Command::Serve(args) => Ok(serve::run(args)?),
    }
}

/// An error and what led to it, on one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
