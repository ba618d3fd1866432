//! The state directory, listed: names, modes, owners, sizes and times, no content.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Case, report::Report};
use crate::bundle::check::date;
use crate::settings::control;

/// Further entries are left out.
const ENTRIES_MAX: usize = 2_000;
/// Folders within folders.
const DEPTH_MAX: usize = 6;

/// Adds the list.
pub fn add(case: &Case<'_>, report: &mut Report) {
    let Some(folder) = folder(case) else {
        return report.missing("state-directory.txt", "no state directory is known");
    };
    let mut list = List::default();
    let listed = list.add(&folder, DEPTH_MAX).map(|()| list.text.clone());
    if list.entries >= ENTRIES_MAX {
        report.missing("state-directory.txt", format!("cut after {ENTRIES_MAX} entries"));
    }
    report.take("state-directory.txt", listed);
}

/// Where it is: as the gateway says, or as is written.
fn folder(case: &Case<'_>) -> Option<PathBuf> {
    let told = case.status.as_ref().and_then(|status| status.state_dir.as_ref());
    if let Some(told) = told {
        return Some(told.into());
    }
    let variables = case.environment.variables.iter().cloned();
    let raw = control::as_written(case.options.config.as_deref()?, variables).ok()?;
    let identity = raw.path("managed.mtls_dir").filter(|_| raw.flag("managed.enabled"))?;
    identity.parent().map(Path::to_owned)
}

#[derive(Default)]
struct List {
    text: String,
    entries: usize,
}

impl List {
    fn add(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let about = fs::symlink_metadata(path)?;
        self.entries += 1;
        // Writing to a text cannot fail.
        let _ = writeln!(
            self.text,
            "{:06o} {}:{} {:>12} {} {}",
            about.mode(),
            about.uid(),
            about.gid(),
            about.size(),
            date(about.mtime()),
            path.display()
        );
        if !about.is_dir() || depth == 0 {
            return Ok(());
        }
        let mut entries: Vec<_> = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) => {
                let _ = writeln!(self.text, "{}: {error}", path.display());
                return Ok(());
            }
        };
        entries.sort_unstable();
        for entry in entries {
            if self.entries >= ENTRIES_MAX {
                break;
            }
            // One that is gone meanwhile is no entry.
            let _ = self.add(&entry, depth - 1);
        }
        Ok(())
    }
}
