//! What `aisix --version` says: the version (see `shared/src/version.rs`), and the commit that the program is built from:
//! `BUILD_COMMIT`, else what git says, else none.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo::rerun-if-env-changed=BUILD_VERSION");
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let version = variable("BUILD_VERSION").or_else(|| variable("CARGO_PKG_VERSION"));
    let commit = variable("BUILD_COMMIT").or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    let commit = commit.unwrap_or_else(|| "of no known commit".to_owned());
    println!("cargo::rustc-env=COMMIT={commit}");
    println!("cargo::rustc-env=FULL_VERSION={} ({commit})", version.unwrap_or_default());
    // Grows with every commit. A path that is not there would have everything built anew each time.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(log) = log.filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What git answers, of the checkout that this file is in; nothing where there is no git or no checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned()).filter(|said| !said.is_empty())
}
