//! The variables that the gateway has: its own, where one runs and we may look; else ours, with those of the service unit and
//! its file of variables where the installed configuration is meant.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::look::{Environment, Places};
use crate::control::status::Status;

/// The service unit, below where units are.
const UNIT: &str = "aisix.service";
/// Where an administrator's units are, below `/etc`.
const OWN_UNITS: &str = "systemd/system";
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
            let (of_unit, left_out) = in_units(&unit_texts(places));
            variables.extend(of_unit);
            uncertain = left_out;
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

/// The text of the unit, and of what is dropped into it, in the order in which systemd reads them: the administrator's unit is
/// in the place of the package's, files of drop-ins go by name.
fn unit_texts(places: &Places) -> Vec<String> {
    let folders = [places.etc.join(OWN_UNITS), places.units.clone()];
    let mut texts: Vec<_> = folders
        .iter()
        .find_map(|folder| fs::read_to_string(folder.join(UNIT)).ok())
        .into_iter()
        .collect();
    let mut dropped: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in folders.iter().rev() {
        let entries = fs::read_dir(folder.join(format!("{UNIT}.d"))).into_iter().flatten();
        let files =
            entries.flatten().filter(|it| it.path().extension() == Some(OsStr::new("conf")));
        dropped.extend(files.map(|file| (file.file_name(), file.path())));
    }
    texts.extend(dropped.values().filter_map(|path| fs::read_to_string(path).ok()));
    texts
}

/// What `Environment=` sets, see systemd.exec(5), and why that may not be all: a value in which systemd would replace
/// something is not known here.
fn in_units(texts: &[String]) -> (BTreeMap<OsString, OsString>, Option<String>) {
    let mut variables = BTreeMap::new();
    let mut left_out = None;
    let lines = texts.iter().flat_map(|text| text.lines());
    for assignments in lines.filter_map(|line| line.trim().strip_prefix("Environment=")) {
        if assignments.trim().is_empty() {
            variables.clear();
        }
        // One variable a line, as the units that are shipped have it; several are told apart where no value has a blank.
        let quoted = assignments.contains(['"', '\'']);
        let parts = if quoted {
            vec![assignments.trim()]
        } else {
            assignments.split_whitespace().collect()
        };
        let parts = parts.into_iter().map(|part| part.trim_matches(['"', '\'']));
        for (name, value) in parts.flat_map(in_file) {
            if value.as_bytes().contains(&b'%') {
                let name = name.to_string_lossy();
                left_out = Some(format!("{name} of {UNIT} is only known to the service manager"));
                variables.remove(OsStr::new(&*name));
            } else {
                variables.insert(name, value);
            }
        }
    }
    (variables, left_out)
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
    fn what_a_unit_sets_is_known_and_what_is_dropped_into_it_wins() {
        let unit =
            "[Service]\nEnvironment=A=b\nEnvironment=C=d E=f\n #Environment=G=h\n".to_owned();
        let dropped = "[Service]\nEnvironment=\"C=x y\"\nEnvironment=A=%d/client.crt\n".to_owned();
        let (variables, left_out) = in_units(std::slice::from_ref(&unit));
        let expected = [("A", "b"), ("C", "d"), ("E", "f")];
        let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        assert_eq!((pairs(variables.into_iter().collect()), left_out), (owned(&expected), None));
        let (variables, left_out) = in_units(&[unit.clone(), dropped]);
        assert_eq!(pairs(variables.into_iter().collect()), owned(&[("C", "x y"), ("E", "f")]));
        assert!(left_out.unwrap().contains("A of aisix.service"));
        let (variables, _) = in_units(&[unit, "Environment=\nEnvironment=I=j\n".to_owned()]);
        assert_eq!(pairs(variables.into_iter().collect()), owned(&[("I", "j")]));
    }

    #[test]
    fn the_variables_of_a_process_are_taken_apart_at_the_first_sign() {
        let found = pairs(in_process(b"A=b=c\0B=\0nothing\0=x\0"));
        let expected = [("A", "b=c"), ("B", ""), ("", "x")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
