//! Where the built programs are: beside the program that runs now, or in the folder that a variable names.

use std::env;
use std::path::PathBuf;

/// Names the folder. Not `AISIX_…`: every such variable is configuration of the gateway.
pub const FOLDER_VARIABLE: &str = "GATEWAY_BIN_DIR";

/// A program that was not built, or not here.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} does not exist; build the programs first with `cargo build --workspace --locked`, or name their folder in {FOLDER_VARIABLE}",
    path.display()
)]
pub struct NotBuilt {
    path: PathBuf,
}

/// The built program of that name.
pub fn find(name: &str) -> Result<PathBuf, NotBuilt> {
    let folder = env::var_os(FOLDER_VARIABLE).map(PathBuf::from).unwrap_or_else(own_folder);
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(NotBuilt { path }) }
}

/// `target/<profile>`: test programs lie in `deps` below it.
fn own_folder() -> PathBuf {
    let mut folder = env::current_exe().unwrap_or_default();
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder
}
