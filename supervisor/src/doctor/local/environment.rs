//! The variables that the gateway has: its own, where one runs and we may look; else ours, with those of the service's file
//! of variables where the installed configuration is meant.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::look::{Environment, Places};
use crate::control::status::Status;

/// What the unit that is shipped reads variables from, below `/etc`.
const FILE: &str = "aisix/aisix.env";
/// The configuration that the unit starts the gateway with, below `/etc`.
const INSTALLED: &str = "aisix/config.managed.yaml";

/// The variables of the gateway that runs, or would.
pub fn of_gateway(gateway: Option<&Status>, config: Option<&Path>, places: &Places) -> Environment {
    let ours = || env::vars_os().collect::<Vec<_>>();
    let Some(gateway) = gateway.filter(|gateway| gateway.pid != std::process::id()) else {
        let mut variables = BTreeMap::new();
        let mut uncertain = None;
        if config.is_some_and(|config| config == places.etc.join(INSTALLED)) {
            let file = places.etc.join(FILE);
            match fs::read_to_string(&file) {
                Ok(text) => variables.extend(in_file(&text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => uncertain = Some(format!("{}: {error}", file.display())),
            }
        }
        variables.extend(ours());
        return Environment { variables: variables.into_iter().collect(), uncertain };
    };
    match fs::read(places.proc.join(gateway.pid.to_string()).join("environ")) {
        Ok(bytes) if !bytes.is_empty() => {
            Environment { variables: in_process(&bytes), uncertain: None }
        }
        other => {
            let why = other.map_or_else(|error| error.to_string(), |_| "it is empty".to_owned());
            let why = format!("the variables of process {}: {why}", gateway.pid);
            Environment { variables: ours(), uncertain: Some(why) }
        }
    }
}

/// `NAME=VALUE` with zeros in between.
fn in_process(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let entries = bytes.split(|byte| *byte == 0);
    entries
        .filter_map(|entry| {
            let end = entry.iter().position(|byte| *byte == b'=')?;
            let (name, value) = entry.split_at_checked(end)?;
            let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Some((text(name), text(value.get(1..)?)))
        })
        .collect()
}

/// The lines of a service's file of variables, see `EnvironmentFile` in systemd.exec(5); continued lines are not known here.
fn in_file(text: &str) -> Vec<(OsString, OsString)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    lines
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            let value = value.trim();
            let quoted = ['"', '\''].into_iter().find_map(|quote| {
                value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote))
            });
            let text = |text: &str| OsStr::from_bytes(text.as_bytes()).to_owned();
            Some((text(name.trim()), text(quoted.unwrap_or(value))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(found: Vec<(OsString, OsString)>) -> Vec<(String, String)> {
        let text = |text: OsString| text.into_string().unwrap();
        found.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn a_file_of_variables_is_read_as_the_service_manager_does() {
        let found = pairs(in_file("# a comment\nA=b\n B = 'c d'\nC=\"e=f\"\nnothing\n;x=y\nD=\n"));
        let expected = [("A", "b"), ("B", "c d"), ("C", "e=f"), ("D", "")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_variables_of_a_process_are_taken_apart_at_the_first_sign() {
        let found = pairs(in_process(b"A=b=c\0B=\0nothing\0=x\0"));
        let expected = [("A", "b=c"), ("B", ""), ("", "x")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
