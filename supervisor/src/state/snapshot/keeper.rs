//! The keeper: reads at the start what the run before has kept, then writes what comes, in groups.
//!
//! A write that fails leaves what is on disk unknown; the file is given up and the next write is everything, into a new
//! file. So is the first write where nothing can be gone on with, and the one that gets rid of what has been replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shared::secret::Secret;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::file::{DECISIONS, DOCUMENTS, Entry, Moment, Writer};
use super::generation::Generations;
use super::restore::{self, Decisions, From, Opened, Restored};
use super::{Place, Shared, Waiting, lock, published, record};
use crate::findings::{Findings, Topic};
use crate::projection::last_good::{self, Kept};
use crate::state::lock::{StateError, StateLock};
use crate::state::modes;

/// A disk that has failed is tried again after this long, then ever later.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// What has been replaced may take this much, or as much as there is, before the file is written anew.
const REPLACED_BYTES: u64 = 8 * 1024 * 1024;
/// After a start the disk is left to the start for this long.
const QUIET: Duration = Duration::from_secs(10);

pub struct Keeper {
    place: Place,
    findings: Findings,
    shared: Arc<Shared>,
    writer: Option<Writer>,
    /// What the file in force would take if it were written as a whole, as far as is known.
    whole_bytes: u64,
    noted: Generations,
    /// The generation before, where it is the beginning of the file in force: bytes, and number of its last part.
    previous: Option<(u64, u64)>,
    previous_due: Instant,
    decisions: Decisions,
    batch: Waiting,
    /// What is on disk belongs to this.
    moment: Moment,
    /// When a disk that has failed is tried again, and how long was waited.
    retry_at: Option<Instant>,
    waited: Duration,
    /// What was wrong at the start; stays told until the next one.
    found: Vec<String>,
    /// What is wrong beside the snapshot itself.
    beside: Option<String>,
    /// What is at the place of the snapshot is the published one.
    published: bool,
}

impl Keeper {
    pub fn new(place: Place, findings: Findings, shared: Arc<Shared>) -> Self {
        Self {
            place,
            findings,
            shared,
            writer: None,
            whole_bytes: 0,
            noted: Generations::default(),
            previous: None,
            previous_due: Instant::now() + QUIET,
            decisions: Decisions::new(),
            batch: Waiting::default(),
            moment: Moment::default(),
            retry_at: None,
            waited: Duration::ZERO,
            found: Vec::new(),
            beside: None,
            published: false,
        }
    }

    /// Runs until the process ends.
    pub fn run(mut self, restored: oneshot::Sender<Option<Restored>>) {
        let _lock = match self.lock() {
            Ok(lock) => lock,
            Err(error @ StateError::InUse { .. }) => {
                // Nothing is read and nothing is kept: it is another gateway's.
                self.findings.found(Topic::Snapshot, format!("no snapshot is kept: {error}"));
                self.shared.off.store(true, Ordering::Release);
                *lock(&self.shared.decisions) = Some(Decisions::new());
                *lock(&self.shared.finished) = true;
                self.shared.loaded.notify_all();
                return;
            }
            Err(StateError::Use { .. }) => None,
        };
        let opened = restore::open(&self.place, now());
        let found = self.begin(opened);
        // Nobody waits for it where the projection has given up.
        let _ = restored.send(found);
        self.tidy();
        loop {
            let waiting = self.shared.take(Some(self.wake_at()));
            let ended = waiting.ended;
            self.absorb(waiting);
            self.step(Instant::now());
            if ended {
                *lock(&self.shared.finished) = true;
                self.shared.done.notify_all();
                return;
            }
        }
    }

    /// The folder's lock, where it is not the state directory, whose lock is taken.
    fn lock(&self) -> Result<Option<StateLock>, StateError> {
        let state_directory = self.place.note.parent().and_then(Path::parent);
        if state_directory == Some(&self.place.folder) {
            return Ok(None);
        }
        StateLock::take(&self.place.folder).map(Some)
    }

    /// Takes over what was found, and tells it.
    fn begin(&mut self, opened: Opened) -> Option<Restored> {
        let Opened { restored, decisions, writer, needed_bytes, noted, troubles } = opened;
        self.noted = noted;
        self.found = troubles;
        self.whole_bytes = writer.as_ref().map_or(0, |writer| writer.bytes.min(needed_bytes));
        self.writer = writer;
        if self.writer.is_none() {
            self.shared.ask_for_all();
        }
        self.published = restored.as_ref().is_some_and(|found| found.from == From::Published);
        if let Some(found) = &restored {
            self.moment = found.moment;
            info!(
                "the snapshot is read: {} documents at revision {}, from {}",
                found.documents.len(),
                found.moment.revision,
                found.from.name()
            );
        }
        self.decisions.clone_from(&decisions);
        let mut status = lock(&self.shared.status);
        status.restored_from = restored.as_ref().map(|found| found.from.name());
        status.restored_revision = restored.as_ref().map(|found| found.moment.revision);
        if let Some(writer) = &self.writer {
            (status.generation, status.bytes) = (writer.number, writer.bytes);
            status.revision = Some(self.moment.revision);
        }
        status.previous_generation = noted.previous;
        drop(status);
        self.tell(None);
        *lock(&self.shared.decisions) = Some(decisions);
        self.shared.loaded.notify_all();
        restored
    }

    /// Modes, and what an interruption has left.
    fn tidy(&mut self) {
        let name = self.place.path.file_name().unwrap_or_default();
        let files = [&self.place.path, &self.place.previous, &self.place.note];
        let repaired = files.into_iter().filter_map(|path| modes::repair_file(path));
        for told in repaired.chain(modes::repair_folder(&self.place.folder, name)) {
            match told {
                Ok(repaired) => warn!("{repaired}"),
                Err(left) => self.findings.found(Topic::StateDirectory, left),
            }
        }
        let _ = fs::remove_file(new(&self.place.path));
        let _ = fs::remove_file(new(&self.place.previous));
        if self.writer.is_some() {
            self.wipe();
        }
        let previous = fs::metadata(&self.place.previous).and_then(|file| file.modified());
        self.previous_due = match previous {
            Ok(written) => {
                let age = SystemTime::now().duration_since(written).unwrap_or_default();
                let left = self.place.previous_interval.saturating_sub(age);
                Instant::now() + left.max(QUIET)
            }
            Err(_) => Instant::now(),
        };
    }

    fn absorb(&mut self, waiting: Waiting) {
        for (id, value) in &waiting.decisions {
            match value {
                Some(value) => self.decisions.insert(id.clone(), value.clone()),
                None => self.decisions.remove(id),
            };
        }
        self.batch.absorb(waiting);
    }

    fn wake_at(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let behind = self.writer.as_ref().is_some_and(|writer| self.is_behind(writer));
        let previous = if behind { self.previous_due } else { far };
        self.retry_at.unwrap_or(previous)
    }

    fn is_behind(&self, writer: &Writer) -> bool {
        self.noted.previous < writer.number
    }

    /// Writes what is to be written now.
    fn step(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        if self.retry_at.take().is_some() && !self.batch.whole {
            // The disk may be well again; what it was not given before is wanted.
            return self.shared.ask_for_all();
        }
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() && self.previous_due > now {
            return;
        }
        let done = self.write(batch, now).and_then(|()| self.renew_previous(now));
        match done {
            // Without a file nothing was written: what was told stays true until everything is there.
            Ok(()) if self.writer.is_none() => {}
            Ok(()) => {
                self.waited = Duration::ZERO;
                self.tell(None);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn write(&mut self, batch: Waiting, now: Instant) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let moment = batch.moment.unwrap_or(self.moment);
        if batch.whole {
            self.write_whole(moment, batch, now)?;
        } else if let Some(writer) = &mut self.writer {
            let before = writer.bytes;
            let entries = entries(&self.place.prefix, batch);
            writer.append(moment, entries)?;
            self.noted.current = writer.number;
            let written = writer.bytes - before;
            self.note(written);
        } else {
            // Decisions alone wait for the documents: they are kept with them.
            if !self.shared.wants_all.load(Ordering::Acquire) {
                self.shared.ask_for_all();
            }
            return Ok(());
        }
        self.moment = moment;
        self.wrote();
        let grown = self.writer.as_ref().map_or(0, |writer| writer.bytes - self.whole_bytes);
        if grown > self.whole_bytes.max(REPLACED_BYTES) {
            self.whole_bytes = self.writer.as_ref().map_or(0, |writer| writer.bytes);
            self.shared.ask_for_all();
        }
        Ok(())
    }

    /// Everything, into a new file.
    fn write_whole(&mut self, moment: Moment, mut batch: Waiting, now: Instant) -> io::Result<()> {
        let Place { path, key, env_id, prefix, build, .. } = &self.place;
        make_folder(&self.place.folder)?;
        let fresh = new(path);
        let last = self.noted.current.max(self.writer.as_ref().map_or(0, |w| w.number));
        let first = last.saturating_add(1);
        let mut writer = Writer::create(&fresh, key, (env_id, prefix), first, build)?;
        let decisions = self.decisions.iter();
        batch.decisions = decisions.map(|(id, value)| (id.clone(), Some(value.clone()))).collect();
        batch.documents.retain(|_, kept| kept.is_some());
        writer.append(moment, entries(&self.place.prefix, batch)).inspect_err(|_| {
            let _ = fs::remove_file(&fresh);
        })?;
        if self.published && path.exists() {
            fs::rename(path, published::aside(path))?;
            self.published = false;
        }
        fs::rename(&fresh, path)?;
        sync(&self.place.folder)?;
        self.whole_bytes = writer.bytes;
        self.noted.current = writer.number;
        let written = writer.bytes;
        self.writer = Some(writer);
        // The other one holds the file before this one: from now on it cannot be appended to.
        self.previous = None;
        if self.noted.previous == 0 || !self.place.previous.exists() {
            self.previous_due = now;
        }
        self.note(written);
        self.wipe();
        Ok(())
    }

    fn note(&mut self, written: u64) {
        lock(&self.shared.status).written_bytes += written;
        let note = &self.place.note;
        self.beside = self.noted.write(note).err().map(|error| {
            format!(
                "{} cannot be written ({error}), so that an older snapshot put back would not be noticed; make it writable for the user that runs the gateway",
                note.display()
            )
        });
    }

    /// Removes the content of the published snapshot, once it is sealed.
    fn wipe(&mut self) {
        let aside = published::aside(&self.place.path);
        if let Err(error) = published::wipe(&aside) {
            self.beside = Some(format!(
                "{} holds secrets in clear and cannot be emptied ({error}): remove it",
                aside.display()
            ));
        }
    }

    /// Brings the generation before up to this one, if it is time.
    fn renew_previous(&mut self, now: Instant) -> io::Result<()> {
        let Some(writer) = self.writer.as_ref().filter(|writer| self.is_behind(writer)) else {
            return Ok(());
        };
        if now < self.previous_due {
            return Ok(());
        }
        let path = &self.place.previous;
        let mut options = OpenOptions::new();
        options.write(true).mode(modes::FILE);
        let (have, copied) = match self.previous {
            // What is there is the beginning of what is to be there.
            Some(have) => (have, options.open(path).and_then(|mut to| writer.copy(&mut to, have))),
            None => {
                let fresh = new(path);
                let to = options.create(true).truncate(true).open(&fresh);
                let copied = to.and_then(|mut to| writer.copy(&mut to, (0, 0)));
                let copied = copied.and_then(|()| fs::rename(&fresh, path));
                ((0, 0), copied.and_then(|()| sync(&self.place.folder)))
            }
        };
        self.previous_due = now + self.place.previous_interval;
        copied.inspect_err(|_| self.previous = None)?;
        self.previous = Some((writer.bytes, writer.number));
        self.noted.previous = writer.number;
        let written = writer.bytes - have.0;
        self.note(written);
        self.wrote();
        Ok(())
    }

    fn wrote(&self) {
        let mut status = lock(&self.shared.status);
        if let Some(writer) = &self.writer {
            (status.generation, status.bytes) = (writer.number, writer.bytes);
        }
        status.revision = Some(self.moment.revision);
        status.previous_generation = self.noted.previous;
        status.last_write_at_unix = Some(now());
    }

    fn failed(&mut self, error: &io::Error) {
        // A failed sync is final: what the kernel has dropped it will not write.
        self.writer = None;
        self.batch = Waiting::default();
        lock(&self.shared.status).failures += 1;
        self.waited = (self.waited * 2).clamp(RETRY.0, RETRY.1);
        self.retry_at = Some(Instant::now() + self.waited);
        self.tell(Some(format!(
            "the snapshot {} cannot be written: {error}; traffic goes on, and a restart without the Cloud serves what was written last; free some disk, or make the file and its folder writable for the user that runs the gateway: it is tried again by itself",
            self.place.path.display()
        )));
    }

    fn tell(&self, failure: Option<String>) {
        let mut troubles = self.found.clone();
        troubles.extend(self.beside.clone());
        troubles.extend(failure);
        if troubles.is_empty() {
            self.findings.settled(Topic::Snapshot);
        } else {
            self.findings.found(Topic::Snapshot, troubles.join("; "));
        }
    }
}

/// What waits, as entries. Documents are read again here, so that the next start need not.
fn entries(prefix: &str, batch: Waiting) -> impl Iterator<Item = io::Result<Entry>> {
    let encode = |key: &[u8], kept: &Kept| -> io::Result<Secret<Vec<u8>>> {
        let read = kept.in_force().and_then(|text| last_good::read_again(prefix, key, text));
        record::encode(kept, read.as_ref()).map_err(io::Error::other)
    };
    let documents = batch.documents.into_iter().map(move |(key, kept)| {
        let value = kept.map(|kept| encode(&key, &kept)).transpose()?;
        Ok((DOCUMENTS, key, value))
    });
    let decisions = batch.decisions.into_iter();
    documents.chain(decisions.map(|(id, value)| Ok((DECISIONS, id.into_bytes(), value))))
}

fn new(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(modes::FOLDER).create(path)
}

/// Makes the entries of a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
