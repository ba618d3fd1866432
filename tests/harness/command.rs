//! The command line of `aisix`, as an operator types it.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::{Gateway, binaries};

/// A command with no configuration from the environment.
///
/// # Panics
/// If the program is not built.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::find("aisix").expect("aisix is built"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AISIX_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a command does.
///
/// # Panics
/// If it cannot be started.
pub async fn aisix(arguments: &[&str]) -> Output {
    command(arguments).output().await.expect("aisix runs")
}

/// Everything that it has said.
pub fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

impl Gateway {
    /// What a command does that is told the configuration of this gateway.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn aisix(&self, arguments: &[&str]) -> Output {
        let config = self.folder().join("config.managed.yaml");
        let config = config.to_str().expect("a path of Unicode");
        aisix(&[arguments, &["--config", config]].concat()).await
    }

    /// What `aisix status --json` tells.
    ///
    /// # Panics
    /// If that is no JSON.
    pub async fn told_status(&self) -> Value {
        let output = self.aisix(&["status", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
    }
}
