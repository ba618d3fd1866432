//! The database and its troubles: opened, set aside where it is not ours to use, opened again after the disk has refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::Home;
use super::block::EVENTS_MAX;
use super::staged::{Additions, Staged};
use super::store::{Counts, End, Found, RingRow, Store, StoreError};
use crate::findings::{Findings, Topic};

/// Name of the database within the state directory.
const DATABASE: &str = "spool.redb";
/// The first and the longest pause before the disk is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the database told when it was opened for the first time.
#[derive(Debug, Default)]
pub struct Opened {
    /// How far rings had been read.
    pub rings: Vec<RingRow>,
    /// What waits to be paid for.
    pub spend: Vec<(String, u64)>,
}

/// The database of a home, or the wait for it.
#[derive(Debug)]
pub struct Disk {
    home: Home,
    path: PathBuf,
    store: Option<Store>,
    retry_at: Instant,
    pause: Duration,
    findings: Findings,
    /// A database was set aside: that finding stays.
    set_aside: Option<String>,
    has_failed: bool,
    /// What a commit that failed would have added: it may be on disk all the same.
    doubtful: Option<(u64, Additions)>,
}

impl Disk {
    /// A database that is opened at the first [`Disk::try_open`].
    pub fn new(home: Home, findings: Findings) -> Self {
        let path = home.state.join(DATABASE);
        let now = Instant::now();
        Self {
            home,
            path,
            store: None,
            retry_at: now,
            pause: PAUSES.0,
            findings,
            set_aside: None,
            has_failed: false,
            doubtful: None,
        }
    }

    /// Whether the database is open.
    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// When it is to be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        (!self.is_open()).then_some(self.retry_at)
    }

    /// How much may be kept.
    pub fn bytes_max(&self) -> u64 {
        self.home.bytes_max
    }

    /// What is in it, as far as is known.
    pub fn counts(&self) -> Counts {
        self.store.as_ref().map(Store::counts).unwrap_or_default()
    }

    /// Opens the database if it is time to. Says what it found, and the number that the next block may have.
    pub fn try_open(&mut self, now: Instant) -> Option<(Opened, u64)> {
        if self.is_open() || now < self.retry_at {
            return None;
        }
        match self.open() {
            Ok((store, found, next)) => {
                self.store = Some(store);
                if let Some(text) = &self.set_aside {
                    self.findings.found(Topic::Spool, text.clone());
                }
                Some((found, next))
            }
            Err(error) => {
                self.failed(&error, now);
                None
            }
        }
    }

    fn open(&mut self) -> Result<(Store, Opened, u64), StoreError> {
        match self.load() {
            Err(error @ (StoreError::Foreign(_) | StoreError::Damaged(_))) => {
                self.put_aside(&error)?;
                self.load()
            }
            result => result,
        }
    }

    /// Opens the database and reads every row that is added to later, so that none can stop a commit.
    fn load(&self) -> Result<(Store, Opened, u64), StoreError> {
        let store = Store::open(&self.path, &self.home.key, &self.home.env_id)?;
        store.check_totals()?;
        let found = Opened { rings: store.rings()?, spend: store.spend()? };
        let next = store.next_number()?;
        Ok((store, found, next))
    }

    /// Renames a database that is not ours to use; one of ours that was renamed before comes back.
    fn put_aside(&mut self, error: &StoreError) -> Result<(), StoreError> {
        let name = match error {
            StoreError::Foreign(env_id) => aside(env_id),
            StoreError::Damaged(_) | StoreError::Refused(_) => {
                format!("spool.damaged-{}.redb", unix(SystemTime::now()))
            }
        };
        let target = self.home.state.join(&name);
        let refused = |error: std::io::Error| StoreError::Refused(error.to_string());
        fs::rename(&self.path, &target).map_err(refused)?;
        let ours = self.home.state.join(aside(&self.home.env_id));
        if fs::rename(&ours, &self.path).is_ok() {
            info!("the spool of this environment is taken back from {}", ours.display());
        }
        let text = format!(
            "the spool {} was not used: {error}; it was set aside as {}, neither sent nor deleted: remove it, or put it back when it can be used",
            self.path.display(),
            target.display()
        );
        if matches!(error, StoreError::Foreign(_)) {
            // Nothing is wrong with that: it waits for its environment.
            warn!("{text}");
        } else {
            self.set_aside = Some(text);
        }
        Ok(())
    }

    /// Writes what is staged. Afterwards either it is on disk, or the database is closed.
    pub fn commit(&mut self, staged: &Staged, now: Instant) -> bool {
        let Some(store) = &mut self.store else { return false };
        let number = store.commits().saturating_add(1);
        match store.commit(staged, unix(SystemTime::now())) {
            Ok(()) => {
                self.works();
                true
            }
            Err(error) => {
                self.doubtful = Some((number, staged.additions()));
                self.failed(&error, now);
                false
            }
        }
    }

    /// After the database was opened again: what a failed commit has added after all.
    pub fn landed(&mut self) -> Option<Additions> {
        let (number, additions) = self.doubtful.take()?;
        let is_there = self.store.as_ref().is_some_and(|store| store.commits() == number);
        is_there.then_some(additions)
    }

    /// Blocks from one end; see [`Store::blocks`].
    pub fn blocks(&mut self, end: End, events_max: usize, skip: impl Fn(u64) -> bool) -> Found {
        let Some(store) = &self.store else { return Found::default() };
        let found = store.blocks(end, events_max, skip);
        found.unwrap_or_else(|error| {
            self.failed(&error, Instant::now());
            Found::default()
        })
    }

    /// Some totals, with their keys.
    pub fn totals(&mut self) -> Vec<([u8; 32], shared::usage_total::UsageTotal)> {
        let Some(store) = &self.store else { return Vec::new() };
        store.totals(EVENTS_MAX).unwrap_or_else(|error| {
            self.failed(&error, Instant::now());
            Vec::new()
        })
    }

    /// It takes what it is given: what was found about it before is over, unless something was set aside.
    fn works(&mut self) {
        self.pause = PAUSES.0;
        if std::mem::take(&mut self.has_failed) {
            match &self.set_aside {
                Some(text) => self.findings.found(Topic::Spool, text.clone()),
                None => self.findings.settled(Topic::Spool),
            }
        }
    }

    /// A failed write or sync is final for a database that is open: only opening it again tells what is on disk.
    fn failed(&mut self, error: &StoreError, now: Instant) {
        self.store = None;
        self.has_failed = true;
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
        self.findings.found(
            Topic::Spool,
            format!(
                "usage events cannot be kept in {}: {error}; they wait in memory, and are lost if this process is killed: make room on the disk, and the folder writable for the user that runs the gateway",
                self.path.display()
            ),
        );
    }

    /// Where dead letters go.
    pub fn state(&self) -> &Path {
        &self.home.state
    }
}

/// The name of another environment's spool, which must not lead anywhere else.
fn aside(env_id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let plain: String =
        env_id.chars().map(|c| if is_plain(c) { c } else { '_' }).take(80).collect();
    format!("spool.{plain}.redb")
}

/// Seconds since 1970.
pub fn unix(moment: SystemTime) -> u64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use redb::{Database, TableDefinition};

    use super::*;
    use crate::state::seal::DataKey;

    #[test]
    fn a_spool_with_a_sum_that_cannot_be_opened_is_set_aside() {
        for table in ["totals", "spend"] {
            let folder = tempfile::tempdir().unwrap();
            let key = DataKey::generate().unwrap();
            let path = folder.path().join(DATABASE);
            drop(Store::open(&path, &key, "e").unwrap());
            let database = Database::open(&path).unwrap();
            let write = database.begin_write().unwrap();
            let rows = TableDefinition::<&[u8], &[u8]>::new(table);
            write.open_table(rows).unwrap().insert(&[7; 32][..], &b"damaged"[..]).unwrap();
            write.commit().unwrap();
            drop(database);

            let (state, env_id) = (folder.path().to_owned(), "e".to_owned());
            let home = Home { state, key, env_id, bytes_max: u64::MAX };
            let findings = Findings::default();
            let mut disk = Disk::new(home, findings.clone());
            assert!(disk.try_open(Instant::now()).is_some(), "{table}");
            assert!(findings.list()[0].1.text.contains("spool.damaged-"), "{table}");
        }
    }
}
