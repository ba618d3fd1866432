//! The note beside the identity that says which generations were written last, so that an older file that is put back
//! alone shows.
//!
//! ```text
//! <mtls_dir>/generation    current 00000000000000000042
//!                          previous 00000000000000000040
//! ```
//!
//! Written after the file that it speaks of: one that is newer than its note was interrupted in between, and is fine.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::state::modes;

/// Name of the file.
pub const NAME: &str = "generation";

/// The last generations known to be on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// Of the file in force; 0 = none.
    pub current: u64,
    /// Of the one kept beside it; 0 = none.
    pub previous: u64,
}

impl Generations {
    /// What is noted at `path`; `None` if nothing is, or nothing of this form.
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let (current, previous) = text.trim_end().split_once('\n')?;
        let number = |line: &str, name| line.strip_prefix(name)?.parse().ok();
        Some(Self {
            current: number(current, "current ")?,
            previous: number(previous, "previous ")?,
        })
    }

    /// Notes them, durably. One small write in place: always the same bytes in number.
    pub fn write(self, path: &Path) -> io::Result<()> {
        let Self { current, previous } = self;
        let text = format!("current {current:020}\nprevious {previous:020}\n");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).mode(modes::FILE).open(path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_anything_else_is_no_note() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert_eq!(Generations::read(&path), None);
        for (current, previous) in [(u64::MAX, 7), (3, 2)] {
            let noted = Generations { current, previous };
            noted.write(&path).unwrap();
            assert_eq!(Generations::read(&path), Some(noted));
        }
        for text in ["", "current 1\n", "current x\nprevious 1\n", "previous 1\ncurrent 2\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Generations::read(&path), None, "{text:?}");
        }
    }
}
