//! Dead letters: usage events that the Cloud will not accept, one JSON object a line, for people to look at.
//!
//! `dead_letters.jsonl` is synced before the event leaves the spool. Past [`BYTES_MAX`] it becomes `dead_letters.jsonl.1`,
//! which replaces the one before.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::Serialize;
use shared::usage::UsageEvent;

/// Size at which the file makes room for a new one.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One event, and why it is here.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    /// What the Cloud said.
    pub reason: String,
    /// The event as it was sent.
    pub event: UsageEvent,
}

#[derive(Serialize)]
struct Line<'a> {
    at: &'a str,
    #[serde(flatten)]
    letter: &'a DeadLetter,
}

/// The file.
#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    bytes_max: u64,
}

impl DeadLetters {
    /// The file at `path`, made when it is needed.
    pub fn at(path: PathBuf) -> Self {
        Self { path, bytes_max: BYTES_MAX }
    }

    /// Adds letters. They are on disk when this returns.
    pub fn write(&self, letters: &[DeadLetter], at: &str) -> io::Result<()> {
        let full = fs::metadata(&self.path).is_ok_and(|file| file.len() >= self.bytes_max);
        if full {
            fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&self.path)?;
        let mut lines = Vec::new();
        for letter in letters {
            serde_json::to_writer(&mut lines, &Line { at, letter })?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_all()
    }

    /// Where they are.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn letters_are_private_lines_and_the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead_letters.jsonl");
        let letters = DeadLetters { path: path.clone(), bytes_max: 100 };
        let letter = |id: &str| DeadLetter {
            reason: "status 400".to_owned(),
            event: UsageEvent { event_id: id.to_owned(), ..UsageEvent::default() },
        };
        letters.write(&[letter("a"), letter("b")], "now").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&first["at"], &first["event"]["event_id"]), (&"now".into(), &"a".into()));
        assert_eq!(text.lines().count(), 2);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        letters.write(&[letter("c")], "now").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        let old = fs::read_to_string(folder.path().join("dead_letters.jsonl.1")).unwrap();
        assert_eq!(old, text);
    }
}
