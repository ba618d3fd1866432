//! What a start finds: the file in force, or the generation before it, or what the published data plane has left.
//!
//! A file is used as a whole or not at all. One that is damaged, older than noted or unreadable is moved aside as
//! `<path>.damaged`; one of another environment as `<path>.<its env_id>`, one of another `etcd.prefix` as
//! `<path>.other-prefix`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use shared::secret::Secret;

use super::Place;
use super::file::{self, Contents, DECISIONS, Moment, ReadError, Writer};
use super::generation::Generations;
use super::published;
use super::record::{self, Record};

/// What comes back from the run before.
#[derive(Debug)]
pub struct Restored {
    /// Where it was found.
    pub from: From,
    /// What it belongs to.
    pub moment: Moment,
    /// Documents by full key, ascending.
    pub documents: BTreeMap<Vec<u8>, Record>,
}

/// Where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The file in force.
    Current,
    /// The generation before it.
    Previous,
    /// What the published data plane has left. Its revision may be the middle of a transaction.
    Published,
}

impl From {
    /// Its name on the status page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Published => "published",
        }
    }
}

/// Budget decisions by api key id.
pub type Decisions = BTreeMap<String, Secret<Vec<u8>>>;

/// What a start finds.
#[derive(Debug, Default)]
pub struct Opened {
    /// To be served, if there is anything.
    pub restored: Option<Restored>,
    /// Budget decisions.
    pub decisions: Decisions,
    /// Goes on writing the file in force; `None` = it has to be written anew.
    pub writer: Option<Writer>,
    /// What of the file counts, about.
    pub needed_bytes: u64,
    /// What was noted, or is known from the files.
    pub noted: Generations,
    /// What was wrong, and what was done about it.
    pub troubles: Vec<String>,
}

/// Looks for the best there is. Moves aside what must not be used.
pub fn open(place: &Place, now: i64) -> Opened {
    let noted = Generations::read(&place.note);
    let mut opened = Opened { noted: noted.unwrap_or_default(), ..Opened::default() };
    let aside = published::aside(&place.path);
    if !place.path.exists() && fs::metadata(&aside).is_ok_and(|left| left.len() > 0) {
        // Interrupted between the two renames of a take-over.
        opened.import(&aside, place, now);
    }
    let noted_as = |noted: fn(Generations) -> u64| move |g: Option<Generations>| g.map(noted);
    let candidates = [
        (From::Current, &place.path, noted_as(|noted| noted.current)(noted)),
        (From::Previous, &place.previous, noted_as(|noted| noted.previous)(noted)),
    ];
    for (from, path, least) in candidates {
        if opened.restored.is_some() {
            break;
        }
        match file::read(path, &place.key, &place.env_id, &place.prefix) {
            Ok(contents) => opened.take(from, path, contents, least, place),
            Err(ReadError::Absent) => {
                if least.is_some_and(|least| least > 0) && from == From::Current {
                    opened.troubles.push(format!(
                        "the snapshot {} is gone; the one before it is looked for, and it is written anew",
                        path.display()
                    ));
                }
            }
            Err(ReadError::OtherEnvironment(other)) => {
                let to = set_aside(path, &printable(&other));
                opened.troubles.push(format!(
                    "the snapshot {} belongs to environment {other}, this gateway to {}; it is not used, and kept as {}",
                    path.display(), place.env_id, to.display()
                ));
            }
            Err(error @ ReadError::OtherPrefix(_)) => {
                let to = set_aside(path, "other-prefix");
                opened.troubles.push(format!(
                    "the snapshot {} {error}, this gateway reads {:?}; it is not used, kept as {}, and written anew: is managed.etcd.prefix right?",
                    path.display(), place.prefix, to.display()
                ));
            }
            Err(ReadError::Foreign) if from == From::Current => opened.import(path, place, now),
            Err(error @ ReadError::Io(_)) => {
                opened.troubles.push(format!("the snapshot {} {error}", path.display()));
            }
            Err(error) => opened.refuse(path, &error.to_string()),
        }
    }
    opened
}

impl Opened {
    fn take(
        &mut self,
        from: From,
        path: &Path,
        contents: Contents,
        least: Option<u64>,
        place: &Place,
    ) {
        let number = contents.number;
        match least {
            Some(least) if number < least && contents.strange_end => {
                return self.refuse(path, &ReadError::Damaged(contents.bytes).to_string());
            }
            Some(least) if number < least => {
                let reason = format!(
                    "is older than it was: it ends at generation {number}, and {least} was written; it was put back from a copy, cut off, or changed at its end"
                );
                return self.refuse(path, &reason);
            }
            // Nothing says how far it went: then only a clean end, or one that an interrupted write explains, will do.
            None if contents.strange_end => {
                return self.refuse(path, &ReadError::Damaged(contents.bytes).to_string());
            }
            _ => {}
        }
        let moment = contents.moment;
        let writer = (from == From::Current)
            .then(|| Writer::go_on(path, &contents, &place.key, &place.env_id, &place.build));
        let Some((documents, decisions, needed_bytes)) = sum(contents, &place.build) else {
            return self.refuse(path, "is written in a form that this build does not know");
        };
        // A disk that cannot be written to shows at the first write.
        self.writer = writer.and_then(Result::ok);
        self.noted.current = self.noted.current.max(number);
        if from == From::Previous {
            self.noted.previous = self.noted.previous.max(number);
        }
        self.needed_bytes = needed_bytes;
        self.decisions = decisions;
        self.restored = Some(Restored { from, moment, documents });
    }

    fn refuse(&mut self, path: &Path, reason: &str) {
        let to = set_aside(path, "damaged");
        self.troubles.push(format!(
            "the snapshot {} {reason}; it is not used, and kept as {}; the generation before it is used where there is one, and it is written anew: look for who or what has changed the file",
            path.display(), to.display()
        ));
    }

    /// A file that is not ours: the published data plane's, or nothing of use.
    fn import(&mut self, path: &Path, place: &Place, now: i64) {
        match published::read(path, &place.prefix, now) {
            Ok(import) => {
                if import.foreign > 0 {
                    self.troubles.push(format!(
                        "{}: {} keys of another environment are left out",
                        path.display(),
                        import.foreign
                    ));
                }
                let moment = Moment { revision: import.revision, observed_at: now, store: None };
                let documents = import.documents;
                self.restored = Some(Restored { from: From::Published, moment, documents });
            }
            Err(reason) => {
                let aside = published::aside(&place.path);
                if path != aside {
                    // On a disk that cannot be written to it stays, and is ignored all the same.
                    let _ = fs::rename(path, &aside);
                }
                let _ = published::wipe(&aside);
                self.troubles.push(format!(
                    "{} {reason}; it is ignored, its content is removed, and {} is left in its place",
                    path.display(), aside.display()
                ));
            }
        }
    }
}

/// The sum of all runs, and how many bytes it has. `None` if an entry cannot be read.
fn sum(contents: Contents, build: &str) -> Option<(BTreeMap<Vec<u8>, Record>, Decisions, u64)> {
    let mut latest = BTreeMap::new();
    let mut decisions = Decisions::new();
    for (written_by, entries) in contents.runs {
        let same_build = written_by == build;
        for (table, key, value) in entries {
            if table == DECISIONS {
                let id = String::from_utf8(key).ok()?;
                match value {
                    Some(value) => decisions.insert(id, value),
                    None => decisions.remove(&id),
                };
            } else if let Some(value) = value {
                latest.insert(key, (value, same_build));
            } else {
                latest.remove(&key);
            }
        }
    }
    let mut documents = BTreeMap::new();
    let mut bytes = 0;
    for (key, (value, same_build)) in latest {
        bytes += (key.len() + value.expose().len()) as u64;
        documents.insert(key, record::decode(value.expose(), same_build).ok()?);
    }
    Some((documents, decisions, bytes))
}

/// Moves a file aside, and says where it is. Where that cannot be done it stays, and is ignored all the same.
fn set_aside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    let to = PathBuf::from(name);
    match fs::rename(path, &to) {
        Ok(()) => to,
        Err(_) => path.to_owned(),
    }
}

/// An id that was not checked, as part of a file's name.
fn printable(id: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    id.chars().take(64).map(safe).collect()
}
