//! `aisix bundle-report`: what a support case needs, in one archive, without secrets.

use std::io;
use std::path::PathBuf;

/// What to gather, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file to write; `None` = one with the time in its name, in the current folder.
    pub output: Option<PathBuf>,
    /// The control socket, if it was named.
    pub socket: Option<PathBuf>,
    /// The configuration file of the gateway, if one is known; not known to exist.
    pub config: Option<PathBuf>,
}

/// Writes the archive.
pub fn run(_options: &Options) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
