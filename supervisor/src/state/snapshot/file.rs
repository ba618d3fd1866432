//! One generation of the snapshot on disk: a head in clear, then sealed parts, only ever appended to.
//!
//! ```text
//! head    magic (16) | salt (16) | number of the first part, u64 LE | bytes of env_id, u8 | env_id
//!         | bytes of the prefix of keys, u16 LE | prefix
//! part    bytes of what follows, u32 LE | sealed Part, for the place: head, number
//! ```
//!
//! Parts are numbered without a gap, and the number never falls from one file to the next: it is the generation. What is
//! kept together is a run of parts, of which the last says so; a run without its last part was never kept. A part opens in
//! its own file at its own number only, so that nothing can be changed, left out or moved; what is cut off at the end shows
//! in the number (generation.rs).
//!
//! Why not a database: one that trusts its pages may not be shown a file that anybody has damaged, a change would cost
//! pages instead of its own bytes, and all that is ever asked of this file is everything, in order.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use shared::codec;
use shared::secret::Secret;
use zeroize::Zeroizing;

use crate::state::modes;
use crate::state::seal::{DataKey, SALT_BYTES, SealError, Sealer, new_salt};

/// Begins every snapshot of ours.
pub const MAGIC: &[u8; 16] = b"aisix-snapshot1\n";
/// What a key's purpose is called.
const PURPOSE: &str = "snapshot";
/// A part is closed beyond this.
const PART_BYTES: usize = 1024 * 1024;
/// No part of ours is larger: the store holds no more (`projection/load.rs`).
pub const VALUE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// What a group of changes belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Revision of the store.
    pub revision: i64,
    /// When it was seen, in seconds since 1970 UTC.
    pub observed_at: i64,
    /// Which store that is, as far as it says.
    pub store: Option<u64>,
}

/// Which table an entry belongs to.
pub const DOCUMENTS: u8 = 0;
/// Budget decisions by the id of their api key.
pub const DECISIONS: u8 = 1;

/// One entry: table, key, and its value; `None` = gone.
pub type Entry = (u8, Vec<u8>, Option<Secret<Vec<u8>>>);

/// The moment, build, whether it is the last of its run, entries.
type Part = (i64, i64, Option<u64>, String, bool, Vec<Entry>);

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("does not exist")]
    Absent,
    /// Not to be read.
    #[error("cannot be read ({0}); make it readable for the user that runs the gateway")]
    Io(#[source] io::Error),
    /// Does not begin as ours do.
    #[error("is not a sealed snapshot")]
    Foreign,
    /// Of another environment.
    #[error("belongs to environment {0}")]
    OtherEnvironment(String),
    /// Of documents elsewhere in the store: its revision says nothing about those here.
    #[error("holds documents under the prefix {0:?}")]
    OtherPrefix(String),
    /// Content that was sealed cannot be opened.
    #[error("is damaged, or was sealed under another key, from byte {0} on")]
    Damaged(u64),
    /// The library refused.
    #[error(transparent)]
    Seal(#[from] SealError),
}

#[derive(Clone, Debug)]
struct Head {
    salt: [u8; SALT_BYTES],
    first: u64,
    bytes: Vec<u8>,
}

impl Head {
    fn new(salt: [u8; SALT_BYTES], first: u64, env_id: &str, prefix: &str) -> io::Result<Self> {
        let env_length = u8::try_from(env_id.len()).map_err(io::Error::other)?;
        let prefix_length = u16::try_from(prefix.len()).map_err(io::Error::other)?;
        let mut bytes = [&MAGIC[..], &salt, &first.to_le_bytes()].concat();
        bytes.push(env_length);
        bytes.extend_from_slice(env_id.as_bytes());
        bytes.extend_from_slice(&prefix_length.to_le_bytes());
        bytes.extend_from_slice(prefix.as_bytes());
        Ok(Self { salt, first, bytes })
    }

    /// The head, its environment and its prefix.
    fn read(file: &mut impl Read) -> Result<(Self, String, String), ReadError> {
        let mut magic = [0; MAGIC.len()];
        let (mut salt, mut first, mut length) = ([0; SALT_BYTES], [0; 8], [0; 1]);
        let mut fill = |bytes: &mut [u8]| {
            file.read_exact(bytes).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ReadError::Foreign,
                _ => ReadError::Io(error),
            })
        };
        fill(&mut magic)?;
        if magic != *MAGIC {
            return Err(ReadError::Foreign);
        }
        fill(&mut salt)?;
        fill(&mut first)?;
        fill(&mut length)?;
        let mut env_id = vec![0; usize::from(length[0])];
        fill(&mut env_id)?;
        let env_id = String::from_utf8(env_id).map_err(|_| ReadError::Foreign)?;
        let mut length = [0; 2];
        fill(&mut length)?;
        let mut prefix = vec![0; usize::from(u16::from_le_bytes(length))];
        fill(&mut prefix)?;
        let prefix = String::from_utf8(prefix).map_err(|_| ReadError::Foreign)?;
        let first = u64::from_le_bytes(first);
        let head = Self::new(salt, first, &env_id, &prefix).map_err(ReadError::Io)?;
        Ok((head, env_id, prefix))
    }

    fn place(&self, number: u64) -> Vec<u8> {
        [self.bytes.as_slice(), &number.to_le_bytes()].concat()
    }
}

/// Everything that one file holds.
#[derive(Debug)]
pub struct Contents {
    head: Head,
    /// Number of the last part that counts.
    pub number: u64,
    /// The file up to there; what follows was never kept.
    pub bytes: u64,
    /// What follows is not what an interrupted write leaves.
    pub strange_end: bool,
    /// Of the last run.
    pub moment: Moment,
    /// Entries in the order in which they were written, with the build that wrote them.
    pub runs: Vec<(String, Vec<Entry>)>,
}

/// The environment and the prefix of keys that the file at `path` says it is of, and its size. Opens nothing that is sealed.
pub fn whose(path: &Path) -> Result<(String, String, u64), ReadError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Absent,
        _ => ReadError::Io(error),
    })?;
    let size = file.metadata().map_err(ReadError::Io)?.len();
    let (_, env_id, prefix) = Head::read(&mut file)?;
    Ok((env_id, prefix, size))
}

/// Reads the file at `path`, which must be of this environment and of keys that begin with `prefix`.
pub fn read(path: &Path, key: &DataKey, env_id: &str, prefix: &str) -> Result<Contents, ReadError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Absent,
        _ => ReadError::Io(error),
    })?;
    let size = file.metadata().map_err(ReadError::Io)?.len();
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let (head, found, found_prefix) = Head::read(&mut reader)?;
    if found != env_id {
        return Err(ReadError::OtherEnvironment(found));
    }
    if found_prefix != prefix {
        return Err(ReadError::OtherPrefix(found_prefix));
    }
    let sealer = key.sealer(&head.salt, PURPOSE, env_id)?;
    let mut at = head.bytes.len() as u64;
    let mut contents = Contents {
        number: head.first.saturating_sub(1),
        bytes: at,
        strange_end: false,
        moment: Moment::default(),
        runs: Vec::new(),
        head,
    };
    let mut number = contents.number;
    let mut run = Vec::new();
    while let Some((sealed, end)) = next(&mut reader, at, size).map_err(ReadError::Io)? {
        number = number.saturating_add(1);
        let Some(part) = open(&sealer, &contents.head, number, &sealed) else {
            // An interrupted write may leave a part in its full length, but then nothing behind it.
            contents.strange_end = end < size;
            break;
        };
        at = end;
        let (revision, observed_at, store, build, last, entries) = part;
        run.push((build, entries));
        if last {
            contents.moment = Moment { revision, observed_at, store };
            (contents.number, contents.bytes) = (number, at);
            contents.runs.append(&mut run);
        }
    }
    if contents.runs.is_empty() {
        return Err(ReadError::Damaged(contents.bytes));
    }
    Ok(contents)
}

/// The next sealed part from `at` on and where it ends; `None` where the file ends before it.
fn next(reader: &mut impl Read, at: u64, size: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut length = [0; 4];
    let begin = at.saturating_add(4);
    if begin > size {
        return Ok(None);
    }
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    let end = begin.saturating_add(u64::from(length));
    if end > size {
        return Ok(None);
    }
    let mut sealed = vec![0; length as usize];
    reader.read_exact(&mut sealed)?;
    Ok(Some((sealed, end)))
}

fn open(sealer: &Sealer, head: &Head, number: u64, sealed: &[u8]) -> Option<Part> {
    let plain = sealer.open(&head.place(number), sealed).ok()?;
    codec::decode::<Part, VALUE_BYTES_MAX>(&plain).ok()
}

/// A file that is appended to.
#[derive(Debug)]
pub struct Writer {
    file: File,
    sealer: Sealer,
    head: Head,
    build: String,
    /// Number of the last part written.
    pub number: u64,
    /// The file's size.
    pub bytes: u64,
}

impl Writer {
    /// A new file at `path`, in place of any that is there, for an environment and a prefix; its first part is `first`.
    pub fn create(
        path: &Path,
        key: &DataKey,
        (env_id, prefix): (&str, &str),
        first: u64,
        build: &str,
    ) -> io::Result<Self> {
        let salt = new_salt().map_err(io::Error::other)?;
        let head = Head::new(salt, first, env_id, prefix)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(modes::FILE);
        let mut file = options.open(path)?;
        file.write_all(&head.bytes)?;
        let sealer = key.sealer(&head.salt, PURPOSE, env_id).map_err(io::Error::other)?;
        let bytes = head.bytes.len() as u64;
        let build = build.to_owned();
        Ok(Self { file, sealer, head, build, number: first.saturating_sub(1), bytes })
    }

    /// Goes on after what was read from `path`; what follows there is cut off.
    pub fn go_on(
        path: &Path,
        contents: &Contents,
        key: &DataKey,
        env_id: &str,
        build: &str,
    ) -> io::Result<Self> {
        let head = contents.head.clone();
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.set_len(contents.bytes)?;
        file.seek(SeekFrom::Start(contents.bytes))?;
        let sealer = key.sealer(&head.salt, PURPOSE, env_id).map_err(io::Error::other)?;
        let (number, bytes) = (contents.number, contents.bytes);
        Ok(Self { file, sealer, head, build: build.to_owned(), number, bytes })
    }

    /// Appends a run and syncs it. After an error nothing more may be written with this one: what is on disk is not known.
    pub fn append(
        &mut self,
        moment: Moment,
        entries: impl Iterator<Item = io::Result<Entry>>,
    ) -> io::Result<()> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let entry = entry?;
            if bytes > PART_BYTES {
                self.write(moment, false, std::mem::take(&mut part))?;
                bytes = 0;
            }
            bytes += entry.1.len() + entry.2.as_ref().map_or(0, |value| value.expose().len());
            part.push(entry);
        }
        self.write(moment, true, part)?;
        self.file.sync_data()
    }

    fn write(&mut self, moment: Moment, last: bool, entries: Vec<Entry>) -> io::Result<()> {
        let Moment { revision, observed_at, store } = moment;
        let part = (revision, observed_at, store, self.build.as_str(), last, entries);
        let plain = Zeroizing::new(codec::encode(&part).map_err(io::Error::other)?);
        let number = self.number.saturating_add(1);
        let sealed =
            self.sealer.seal(&self.head.place(number), &plain).map_err(io::Error::other)?;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        let framed = [&length.to_le_bytes()[..], &sealed].concat();
        self.file.write_all(&framed)?;
        (self.number, self.bytes) = (number, self.bytes + framed.len() as u64);
        Ok(())
    }

    /// Copies this file to `to`, which holds it up to `have` already (bytes, and number of the last part in them), and syncs
    /// it. Every part is opened on the way: what is damaged is not copied.
    pub fn copy(&self, to: &mut File, have: (u64, u64)) -> io::Result<()> {
        let mut from = self.file.try_clone()?;
        let copied = self.copy_parts(&mut from, to, have);
        // The clone shares its position with the file.
        from.seek(SeekFrom::Start(self.bytes))?;
        copied?;
        to.sync_all()
    }

    fn copy_parts(&self, from: &mut File, to: &mut File, have: (u64, u64)) -> io::Result<()> {
        let (mut at, mut number) = have;
        if at == 0 {
            to.write_all(&self.head.bytes)?;
            at = self.head.bytes.len() as u64;
            number = self.head.first.saturating_sub(1);
        }
        to.set_len(at)?;
        to.seek(SeekFrom::Start(at))?;
        from.seek(SeekFrom::Start(at))?;
        let mut reader = BufReader::with_capacity(256 * 1024, from);
        while at < self.bytes {
            let Some((sealed, end)) = next(&mut reader, at, self.bytes)? else {
                return Err(io::Error::other("it has become shorter"));
            };
            number = number.saturating_add(1);
            let opened = self.sealer.open(&self.head.place(number), &sealed);
            opened.map_err(|_| io::Error::other("it was damaged while the gateway ran"))?;
            let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
            to.write_all(&length.to_le_bytes())?;
            to.write_all(&sealed)?;
            at = end;
        }
        Ok(())
    }
}
