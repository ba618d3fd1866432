//! `aisix export`: what an etcd holds, as a resources file.
//!
//! ```text
//! etcd ─► the checks of a gateway ─► ids become names, secrets become ${VARIABLE} (document) ─► YAML (yaml)
//! ```
//!
//! Promises:
//! 1. no secret leaves unless that is asked for;
//! 2. what is written is read back before it is called complete: where something of the etcd is missing in it, the file is
//!    written for inspection and the command fails.

mod document;
mod yaml;

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::dial::DirectDial;
use crate::projection::{self, Source, connect};
use crate::resources;
use document::Exported;

/// How often the etcd is tried, and the pause between. As published.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A page of the etcd may take this long.
const PAGE_LIMIT: Duration = Duration::from_secs(60);

/// What to export, and to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// URLs of the etcd, tried in turn.
    pub etcd: Vec<String>,
    /// Keys begin with this.
    pub prefix: String,
    /// Whether secrets are written as they are.
    pub reveal_secrets: bool,
    /// The file; `None` = standard output.
    pub output: Option<PathBuf>,
}

/// Why there is no complete export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The etcd could not be read.
    #[error("cannot read the etcd at {urls}: {reason}")]
    Etcd {
        /// Where.
        urls: String,
        /// Why the last try failed.
        reason: String,
    },
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something of the etcd is not in the file, or the file could not be read back.
    #[error("the export is not complete: {}", .0.join("; "))]
    Incomplete(Vec<String>),
    /// Not even begun.
    #[error("cannot export: {0}")]
    System(#[source] io::Error),
}

/// Exports. Says on standard error what the file needs.
pub fn run(options: &Options) -> Result<(), ExportError> {
    let prefix = format!("{}/", options.prefix.trim_end_matches('/'));
    let entries = fetch(&options.etcd, &prefix)?;
    let exported = document::export(&prefix, entries, options.reveal_secrets);
    let text = yaml::file(&exported.lists);
    write(options.output.as_deref(), &text)?;
    let count: usize = exported.lists.iter().map(|(_, entries)| entries.len()).sum();
    let to =
        options.output.as_ref().map_or("standard output".into(), |path| path.to_string_lossy());
    eprintln!("exported {count} resource(s) to {to}");
    tell(&exported, options.reveal_secrets);
    let mut problems = exported.problems;
    // Read back as a gateway would, whatever the variables will hold.
    if let Err(told) = resources::read(&text, &|_| Some("placeholder".to_owned())) {
        problems.extend(told);
    }
    if problems.is_empty() { Ok(()) } else { Err(ExportError::Incomplete(problems)) }
}

fn tell(exported: &Exported, reveal_secrets: bool) {
    if reveal_secrets {
        eprintln!("note: the output holds secrets as they are");
    }
    if !exported.variables.is_empty() {
        eprintln!("secrets were replaced; set these variables before the file is used:");
        for (variable, what) in &exported.variables {
            eprintln!("  {variable}  {what}");
        }
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn fetch(urls: &[String], prefix: &str) -> Result<Entries, ExportError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExportError::System)?;
    let source = Source {
        endpoints: urls.to_vec(),
        prefix: prefix.to_owned(),
        tls: None,
        user: None,
        dial_limit: CONNECT_LIMIT,
        request_limit: PAGE_LIMIT,
    };
    let dial = DirectDial::new(CONNECT_LIMIT);
    let mut reason = "no URL is given".to_owned();
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(PAUSE);
        }
        for url in urls {
            let loaded = runtime.block_on(async {
                let client = connect::connect(&source, url, &dial).await;
                let client = client.map_err(|error| error.to_string())?;
                projection::load(&client, prefix, PAGE_LIMIT)
                    .await
                    .map_err(|error| error.to_string())
            });
            match loaded {
                Ok(loaded) => {
                    let entries = loaded.entries.into_iter();
                    return Ok(entries.map(|entry| (entry.key, entry.value)).collect());
                }
                Err(error) => reason = error.replace(url, &without_credentials(url)),
            }
        }
    }
    let urls: Vec<_> = urls.iter().map(|url| without_credentials(url)).collect();
    Err(ExportError::Etcd { urls: urls.join(", "), reason })
}

/// The URL without what stands before its host.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A password may hold what ends an authority: then all of it is left out.
    let host = match (authority.rfind('@'), path.rfind('@')) {
        (_, Some(at)) => path.get(at + 1..).unwrap_or_default().to_owned(),
        (Some(at), None) => format!("{}{path}", authority.get(at + 1..).unwrap_or_default()),
        (None, None) => return url.to_owned(),
    };
    if scheme.is_empty() { host } else { format!("{scheme}://{host}") }
}

/// The file is its owner's alone, also where it was there before.
fn write(path: Option<&Path>, text: &str) -> Result<(), ExportError> {
    let Some(path) = path else {
        let written = io::stdout().lock().write_all(text.as_bytes());
        return written.map_err(ExportError::System);
    };
    let open = || -> io::Result<()> {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())
    };
    open().map_err(|source| ExportError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_told_without_its_credentials() {
        for (url, told) in [
            ("http://root:pass@e:2379/x", "http://e:2379/x"),
            ("http://root:p/a@ss@e:2379", "http://e:2379"),
            ("root:pass@e:2379", "e:2379"),
            ("http://e:2379", "http://e:2379"),
        ] {
            assert_eq!(without_credentials(url), told);
        }
    }
}
