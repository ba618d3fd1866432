//! Where a gateway with these settings has its control socket.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::environment::{self, Environment};
use super::error::{Problem, SettingsError};
use super::file;
use super::raw::Raw;
use crate::control::client::Target;
use crate::control::place::PATH_BYTES_MAX;

const KEY: &str = "supervisor.control_socket";

/// The path that is set, if one is, absolute.
pub(super) fn socket(raw: &Raw) -> Result<Option<PathBuf>, Problem> {
    let Some(path) = raw.path(KEY) else { return Ok(None) };
    let path = std::path::absolute(path).map_err(|error| raw.problem(KEY, error))?;
    match path.as_os_str().len() {
        0..=PATH_BYTES_MAX => Ok(Some(path)),
        bytes => Err(raw.problem(
            KEY,
            format!("the path is {bytes} bytes long, a socket's may have {PATH_BYTES_MAX}: choose a shorter one"),
        )),
    }
}

/// What is written in this file and these variables, right or wrong: what cannot be read as its key wants is left out.
pub fn as_written(
    path: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Raw, SettingsError> {
    let environment: Environment = environment.into_iter().collect();
    let mut raw = Raw::defaults();
    file::read(path, &file::text(path)?, &mut raw)?;
    environment::read(&environment, &mut raw);
    Ok(raw)
}

/// Where to look for the gateway that runs with this file and these variables. Settings that matter to the gateway only are
/// not checked: it may have secrets in its environment that we do not have.
pub fn target(
    path: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Target, SettingsError> {
    let environment: Environment = environment.into_iter().collect();
    let raw = match as_written(path, environment.clone()) {
        Ok(raw) => raw,
        Err(error) => {
            // A variable goes before the file, whatever is wrong with that: a reload finds the gateway that has to refuse it.
            let mut raw = Raw::defaults();
            environment::read(&environment, &mut raw);
            return match socket(&raw) {
                Ok(Some(path)) => Ok(Target::of(Some(&path), None)),
                Ok(None) | Err(_) => Err(error),
            };
        }
    };
    let socket = socket(&raw).map_err(|problem| SettingsError::Invalid(vec![problem]))?;
    let managed = raw.flag("managed.enabled");
    let identity = raw.path("managed.mtls_dir").filter(|_| managed);
    Ok(Target::of(socket.as_deref(), identity.as_deref().and_then(Path::parent)))
}
