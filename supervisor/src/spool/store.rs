//! The spool's database: what changes in one group of events changes in one transaction, synced before it counts.
//!
//! ```text
//! meta      "format", "env_id", "salt", "check" (sealed), "counts"
//! blocks    number u64                     events, sealed
//! damaged   number u64                     blocks that cannot be opened, as they were found
//! rings     name of the ring               sequence u64, position u64, synced at u64 (seconds since 1970)
//! totals    SHA-256 of key, model, hour    the sums, sealed
//! spend     SHA-256 of the caller key      caller key and what waits to be paid for, sealed
//! ```

mod write;

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{fs, io};

use aws_lc_rs::digest::{SHA256, digest};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use shared::codec::{self, Decode, Encode};
use shared::ring::Place;
use shared::usage_total::UsageTotal;

use super::block::{Block, BlockError};
use super::staged::Staged;
use crate::state::seal::{DataKey, SALT_BYTES, Sealer, new_salt};

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("blocks");
const DAMAGED: TableDefinition<u64, &[u8]> = TableDefinition::new("damaged");
const RINGS: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("rings");
const TOTALS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("totals");
const SPEND: TableDefinition<&[u8], &[u8]> = TableDefinition::new("spend");

const FORMAT: &[u8] = b"aisix-spool-1";
/// Memory for pages; the default would be a gigabyte.
const CACHE_BYTES: usize = 2 * 1024 * 1024;
/// The most that one sum may take when decoded.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It belongs to another environment.
    #[error("it belongs to environment {0}")]
    Foreign(String),
    /// It is no spool, or not one that we can open.
    #[error("it is damaged or not ours: {0}")]
    Damaged(String),
    /// The disk or its permissions refuse.
    #[error("{0}")]
    Refused(String),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        use redb::Error as Is;
        match error.into() {
            Is::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            error @ (Is::Corrupted(_)
            | Is::UpgradeRequired(_)
            | Is::TableTypeMismatch { .. }
            | Is::TableIsMultimap(_)
            | Is::TableIsNotMultimap(_)
            | Is::TypeDefinitionChanged { .. }
            | Is::TableDoesNotExist(_)) => Self::Damaged(error.to_string()),
            // Whatever else it is, the file may be good: it is tried again.
            error => Self::Refused(error.to_string()),
        }
    }
}

/// What is in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events in blocks.
    pub events: u64,
    /// Disk that the blocks take, in bytes.
    pub bytes: u64,
    /// Events whose details are gone, in totals.
    pub folded: u64,
    /// Commits so far.
    commits: u64,
}

/// How far a ring has been read, and when that was last synced, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingRow {
    /// The ring.
    pub name: String,
    /// How far.
    pub place: Place,
    /// When.
    pub synced_at_unix: u64,
}

/// From which end blocks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The oldest first.
    Oldest,
    /// The newest first.
    Newest,
}

/// The database, open.
#[derive(Debug)]
pub struct Store {
    database: Database,
    sealer: Sealer,
    counts: Counts,
}

impl Store {
    /// Opens the database of `env_id` at `path`, made if there is none.
    pub fn open(path: &Path, key: &DataKey, env_id: &str) -> Result<Self, StoreError> {
        let refused = |error: io::Error| StoreError::Refused(error.to_string());
        // Made here, so that it never has another mode.
        let is_new = fs::metadata(path).map_or(true, |file| file.len() == 0);
        let mut made = fs::OpenOptions::new();
        made.read(true).write(true).create(true).truncate(false);
        made.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path).map_err(refused)?;
        let mut builder = Builder::new();
        // Checked as a whole: a plain open trusts the file and may panic over a damaged one.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(!is_new);
        let database = builder.create(path)?;
        let salt = match Self::salt(&database, env_id)? {
            Some(salt) => salt,
            None => Self::found(&database, key, env_id)?,
        };
        let sealed = |error: crate::state::seal::SealError| StoreError::Damaged(error.to_string());
        let sealer = key.sealer(&salt, "spool", env_id).map_err(sealed)?;
        let read = database.begin_read()?;
        let meta = read.open_table(META)?;
        let check = meta.get("check")?;
        sealer
            .open(b"check", check.as_ref().map_or(&[][..], |check| check.value()))
            .map_err(sealed)?;
        let counts = meta.get("counts")?.map(|counts| {
            let mut numbers = counts
                .value()
                .chunks_exact(8)
                .map(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes));
            let mut next = || numbers.next().unwrap_or_default();
            Counts { events: next(), bytes: next(), folded: next(), commits: next() }
        });
        drop((check, meta, read));
        Ok(Self { database, sealer, counts: counts.unwrap_or_default() })
    }

    /// The salt of a database that was used before.
    fn salt(database: &Database, env_id: &str) -> Result<Option<[u8; SALT_BYTES]>, StoreError> {
        let read = database.begin_read()?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: &str| StoreError::Damaged(format!("no {what}"));
        let text = |name| -> Result<Option<Vec<u8>>, StoreError> {
            Ok(meta.get(name)?.map(|value| value.value().to_vec()))
        };
        if text("format")?.as_deref() != Some(FORMAT) {
            return Err(damaged("known format"));
        }
        let owner = text("env_id")?.ok_or_else(|| damaged("environment"))?;
        if owner != env_id.as_bytes() {
            return Err(StoreError::Foreign(String::from_utf8_lossy(&owner).into_owned()));
        }
        let salt = text("salt")?.and_then(|salt| salt.try_into().ok());
        salt.map(Some).ok_or_else(|| damaged("salt"))
    }

    /// Writes down whose the database is.
    fn found(
        database: &Database,
        key: &DataKey,
        env_id: &str,
    ) -> Result<[u8; SALT_BYTES], StoreError> {
        let sealed = |error: crate::state::seal::SealError| StoreError::Refused(error.to_string());
        let salt = new_salt().map_err(sealed)?;
        let sealer = key.sealer(&salt, "spool", env_id).map_err(sealed)?;
        let check = sealer.seal(b"check", b"").map_err(sealed)?;
        let write = database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("env_id", env_id.as_bytes())?;
            meta.insert("salt", &salt[..])?;
            meta.insert("check", &check[..])?;
            write.open_table(BLOCKS)?;
            write.open_table(DAMAGED)?;
            write.open_table(RINGS)?;
            write.open_table(TOTALS)?;
            write.open_table(SPEND)?;
        }
        write.commit()?;
        Ok(salt)
    }

    /// What is in it.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Commits so far.
    pub fn commits(&self) -> u64 {
        self.counts.commits
    }

    /// The number for the next block.
    pub fn next_number(&self) -> Result<u64, StoreError> {
        let read = self.database.begin_read()?;
        let last = read.open_table(BLOCKS)?.last()?.map_or(0, |(number, _)| number.value());
        let damaged = read.open_table(DAMAGED)?.last()?.map_or(0, |(number, _)| number.value());
        Ok(last.max(damaged).saturating_add(1))
    }

    /// How far every ring has been read.
    pub fn rings(&self) -> Result<Vec<RingRow>, StoreError> {
        let read = self.database.begin_read()?;
        let mut rows = Vec::new();
        for row in read.open_table(RINGS)?.iter()? {
            let (name, value) = row?;
            let (sequence, position, synced_at_unix) = value.value();
            let place = Place { sequence, position };
            rows.push(RingRow { name: name.value().to_owned(), place, synced_at_unix });
        }
        Ok(rows)
    }

    /// What waits to be paid for, by caller key, in billionths of a dollar.
    pub fn spend(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let read = self.database.begin_read()?;
        let mut sums = Vec::new();
        for row in read.open_table(SPEND)?.iter()? {
            let (hash, sealed) = row?;
            sums.push(self.unseal::<(String, u64)>(hash.value(), sealed.value())?);
        }
        Ok(sums)
    }

    /// Whether every total can be opened.
    pub fn check_totals(&self) -> Result<(), StoreError> {
        let read = self.database.begin_read()?;
        for row in read.open_table(TOTALS)?.iter()? {
            let (hash, sealed) = row?;
            self.unseal::<UsageTotal>(hash.value(), sealed.value())?;
        }
        Ok(())
    }

    /// Some totals, with their keys in the table.
    pub fn totals(&self, max: usize) -> Result<Vec<([u8; 32], UsageTotal)>, StoreError> {
        let read = self.database.begin_read()?;
        let mut totals = Vec::new();
        for row in read.open_table(TOTALS)?.iter()?.take(max) {
            let (hash, sealed) = row?;
            let Ok(key) = hash.value().try_into() else { continue };
            totals.push((key, self.unseal(hash.value(), sealed.value())?));
        }
        Ok(totals)
    }

    /// Blocks from one end, at most `events_max` events of them, without those that `skip` names. Blocks that cannot be
    /// opened are named apart.
    pub fn blocks(
        &self,
        end: End,
        events_max: usize,
        skip: impl Fn(u64) -> bool,
    ) -> Result<Found, StoreError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(BLOCKS)?;
        let mut found = Found::default();
        let mut range = table.iter()?;
        let mut room = events_max;
        loop {
            let row = match end {
                End::Oldest => range.next(),
                End::Newest => range.next_back(),
            };
            let Some(row) = row else { break };
            let (number, bytes) = row?;
            let number = number.value();
            if skip(number) {
                continue;
            }
            let count = Block::count(bytes.value()) as usize;
            if count > room && room < events_max {
                break;
            }
            let opened = Block::unseal(number, bytes.value(), &self.sealer).and_then(|block| {
                // What cannot be read is no block that can be sent.
                block.view()?;
                Ok::<_, BlockError>(block)
            });
            match opened {
                Ok(block) => {
                    room = room.saturating_sub(count);
                    found.blocks.push((number, block));
                }
                Err(error) => found.damaged.push((number, error.to_string())),
            }
            if room == 0 || found.damaged.len() >= events_max {
                break;
            }
        }
        Ok(found)
    }

    /// Writes everything that is staged in one transaction; it is on disk when this returns.
    pub fn commit(&mut self, staged: &Staged, now_unix: u64) -> Result<(), StoreError> {
        let write = self.database.begin_write()?;
        let counts = self.write(&write, staged, now_unix)?;
        write.commit()?;
        self.counts = counts;
        Ok(())
    }

    fn seal<T: Encode>(&self, place: &[u8], value: &T) -> Result<Vec<u8>, StoreError> {
        let plain = codec::encode(value).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.sealer.seal(place, &plain).map_err(unsealable)
    }

    fn unseal<T: Decode<()>>(&self, place: &[u8], sealed: &[u8]) -> Result<T, StoreError> {
        let damaged = |error: String| StoreError::Damaged(error);
        let plain = self.sealer.open(place, sealed).map_err(|error| damaged(error.to_string()))?;
        codec::decode::<_, VALUE_BYTES_MAX>(&plain).map_err(|error| damaged(error.to_string()))
    }
}

/// Blocks that were asked for.
#[derive(Debug, Default)]
pub struct Found {
    /// By number, in the order asked for.
    pub blocks: Vec<(u64, Block)>,
    /// Those that cannot be opened, and why.
    pub damaged: Vec<(u64, String)>,
}

fn unsealable(error: crate::state::seal::SealError) -> StoreError {
    StoreError::Refused(error.to_string())
}

/// The key of a total in the table.
pub fn total_hash(total: &UsageTotal) -> [u8; 32] {
    let text = [&total.api_key_id[..], &total.model_id, &total.hour].join("\0");
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}
