//! The snapshot of the published data plane: JSON in clear, taken over once and then gone.
//!
//! It is kept until what it holds is sealed on disk. Then its content is removed, for it holds the providers' secrets, and
//! an empty `<path>.published` says that it was there.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use shared::secret::Secret;
use zeroize::Zeroizing;

use super::record::Record;
use crate::projection::document::{Refusal, RefusalKind};
use crate::projection::last_good::{Kept, Rejection};

/// The only version there is.
const VERSION: u64 = 1;
/// A snapshot of more bytes is not ours to read.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

#[derive(Deserialize)]
struct Published {
    version: u64,
    revision: i64,
    entries: Vec<Row>,
    #[serde(default)]
    stale: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    key: String,
    value_b64: Secret64,
    since_unix_secs: Option<i64>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Secret64(String);

impl Drop for Secret64 {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// What was found.
#[derive(Debug)]
pub struct Import {
    /// Its revision.
    pub revision: i64,
    /// Documents by full key, in the same form as those of our own.
    pub documents: BTreeMap<Vec<u8>, Record>,
    /// How many keys are of another environment, and left out.
    pub foreign: usize,
}

/// Reads the published snapshot at `path`. Keys must begin with `prefix`. The error says nothing of the content.
pub fn read(path: &Path, prefix: &str, now: i64) -> Result<Import, String> {
    let failed = |error: io::Error| format!("cannot be read ({error})");
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = fs::read(path).map(Zeroizing::new).map_err(failed)?;
    let published: Published = serde_json::from_slice(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("is not a snapshot of the published data plane (line {line}, column {column})")
    })?;
    if published.version != VERSION {
        return Err(format!("has the version {}, only {VERSION} is known", published.version));
    }
    let mut import =
        Import { revision: published.revision, documents: BTreeMap::new(), foreign: 0 };
    for row in &published.entries {
        let kept = Kept { observed: decode(row)?.into(), older: None, rejection: None };
        import.take(row, prefix, kept);
    }
    for row in &published.stale {
        let older = std::sync::Arc::new(decode(row)?);
        // What was refused is not in the file, unless as an entry.
        let refused =
            import.documents.remove(row.key.as_bytes()).map(|record| record.kept.observed);
        let since = row.since_unix_secs.unwrap_or(now);
        let refusal = Refusal {
            kind: RefusalKind::SchemaFailed,
            error: "refused before the published data plane was replaced".to_owned(),
        };
        let rejection =
            Rejection { refusal, first_seen: since, last_seen: since, stale_since: Some(since) };
        let kept = Kept {
            observed: refused.unwrap_or_else(|| older.clone()),
            older: Some(older),
            rejection: Some(rejection),
        };
        import.take(row, prefix, kept);
    }
    if import.documents.is_empty() && import.foreign > 0 {
        return Err(format!(
            "holds {} keys of another environment and none of this one",
            import.foreign
        ));
    }
    Ok(import)
}

impl Import {
    fn take(&mut self, row: &Row, prefix: &str, kept: Kept) {
        if row.key.starts_with(prefix) {
            self.documents.insert(row.key.clone().into_bytes(), Record { kept, read: None });
        } else {
            self.foreign += 1;
        }
    }
}

fn decode(row: &Row) -> Result<Secret<Vec<u8>>, String> {
    let value = STANDARD.decode(&row.value_b64.0);
    value.map(Secret::new).map_err(|_| "holds a value that is not base64".to_owned())
}

/// Where it is moved.
pub fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".published");
    name.into()
}

/// Overwrites and empties a file that was moved aside. One that is not there, or is empty, is left alone.
pub fn wipe(path: &Path) -> io::Result<()> {
    let size = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => return Ok(()),
    };
    if size == 0 {
        return Ok(());
    }
    let mut file = OpenOptions::new().write(true).open(path)?;
    // In place: most file systems write to the same blocks. Where they do not, the blocks are at least free.
    let zeros = [0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        file.write_all(zeros.get(..now as usize).unwrap_or(&zeros))?;
        left -= now;
    }
    file.sync_all()?;
    file.set_len(0)?;
    file.sync_all()
}
