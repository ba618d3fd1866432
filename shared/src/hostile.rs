//! Every decoder of bytes that somebody else wrote, as a function of bytes alone: for the fuzz targets (`shared/fuzz`) and for
//! the property tests below, which call the same functions.
//!
//! Each promises the same: whatever the bytes are, it returns. What was taken for a value is written and read again, and must
//! be the same value: nothing is understood in two ways.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::budget;
use crate::cache::{FromCache, ToCache};
use crate::codec;
use crate::crc32::checksum;
use crate::export::{Exporting, ToExport};
use crate::frame;
use crate::memory;
use crate::message::{self, Message, ToSupervisor, ToWorker};
use crate::ring::{BODY_BYTES_MAX, Place, ReadError, Reader, Record, Seen};
use crate::update::{self, Change, Changes};
use crate::usage::UsageEvent;

/// A decoder under attack.
pub type Target = fn(&[u8]);

/// All of them, by the name of their fuzz target.
pub const TARGETS: [(&str, Target); 11] = [
    ("frame", frame),
    ("to_supervisor", to_supervisor),
    ("to_worker", to_worker),
    ("ring", ring),
    ("changes", changes),
    ("settings", settings),
    ("budgets", budgets),
    ("to_cache", to_cache),
    ("from_cache", from_cache),
    ("to_export", to_export),
    ("exporters", exporters),
];

/// A datagram.
pub fn frame(bytes: &[u8]) {
    if let Ok((header, body)) = frame::decode(bytes) {
        let written = frame::encode(header, body);
        assert!(written.is_ok_and(|written| written == bytes), "a frame has one form");
    }
}

fn message<M: Message + PartialEq>(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let kind = u16::from(*kind);
    let Ok(message) = M::decode(kind, body) else { return };
    assert!(message.kind() == kind, "a message is of the kind that the header names");
    let written = message.encode().ok();
    let again = written.and_then(|written| M::decode(kind, &written).ok());
    // A number that is none is not equal to itself; no message has one.
    assert!(again.is_some_and(|again| again == message), "a message is read as it is written");
}

/// The kind of a message of a worker in the first byte, then its body.
pub fn to_supervisor(bytes: &[u8]) {
    message::<ToSupervisor>(bytes);
}

/// The kind of a message of the supervisor in the first byte, then its body.
pub fn to_worker(bytes: &[u8]) {
    message::<ToWorker>(bytes);
}

/// The kind of a message to the cache in the first byte, then its body.
pub fn to_cache(bytes: &[u8]) {
    message::<ToCache>(bytes);
}

/// The kind of a message of the cache in the first byte, then its body.
pub fn from_cache(bytes: &[u8]) {
    message::<FromCache>(bytes);
}

/// The kind of a message to the export role in the first byte, then its body. A cost that is no number is not equal to
/// itself: it is written alike.
pub fn to_export(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let Ok(message) = ToExport::decode(u16::from(*kind), body) else { return };
    let written = message.encode().ok();
    let again = written.as_ref().and_then(|it| ToExport::decode(message.kind(), it).ok());
    let again = again.and_then(|again| again.encode().ok());
    assert!(again.is_some() && again == written, "a trace is read as it is written");
}

/// Whom the export role is told to send to.
pub fn exporters(bytes: &[u8]) {
    let Some(memory) = sealed(bytes) else { return };
    let Ok(exporting) = Exporting::read(memory) else { return };
    let again = exporting.seal().ok().and_then(|memory| Exporting::read(memory).ok());
    assert!(
        again.is_some_and(|again| is_same(&again, &exporting)),
        "exporters are read as they are written"
    );
}

/// A usage ring, from its beginning, and one of a single record with these bytes as its body.
pub fn ring(bytes: &[u8]) {
    both_see_the_same(bytes);
    let sequence = 1_u64.to_le_bytes();
    let sum = checksum(&[&sequence, bytes]).to_le_bytes();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    both_see_the_same(&[&length, &sum, &sequence[..], bytes].concat());
}

/// The supervisor, which looks at a record where it lies, and who takes it out as a whole.
fn both_see_the_same(bytes: &[u8]) {
    let length = bytes.len() as u64;
    let Ok(memory) = memory::fixed_size("ring", length) else { return };
    let file = Arc::new(File::from(memory));
    if file.write_all_at(bytes, 0).is_err() {
        return;
    }
    let mut looking = Reader::new(Arc::clone(&file), length, Place::default());
    let mut taking = Reader::new(file, length, Place::default());
    // No ring holds more records than it has bytes, whoever wrote it; the reader goes on around the end.
    for _ in 0..bytes.len() {
        let before = looking.place();
        let record = taking.next_record();
        let seen = looking.next_seen(|seen| match (seen, &record) {
            (Seen::Event(cost, encoded), Ok(Record::Event(taken))) => {
                let again = codec::decode::<UsageEvent, { BODY_BYTES_MAX * 4 }>(encoded);
                cost.api_key_id == taken.api_key_id
                    && cost.cost_usd.to_bits() == taken.cost_usd.to_bits()
                    && again.is_ok_and(|again| is_same(&again, &**taken))
            }
            (Seen::Total(total), Ok(Record::Total(taken))) => is_same(&total, taken),
            // Nearer to the limit of a value, by the number that tells an event from a total.
            (_, taken) => matches!(taken, Err(ReadError::Body { .. })),
        });
        match seen {
            Ok(is_alike) => assert!(is_alike, "what is seen is what is taken"),
            Err(_) => {
                assert!(record.is_err(), "what is taken is seen");
                return assert!(looking.place() == before, "an error moves nothing");
            }
        }
        assert!(looking.place() != before, "what was seen is behind");
        match record {
            Ok(_) => assert!(taking.place() == looking.place(), "both stand at the same place"),
            Err(_) => return assert!(taking.place() == before, "an error moves nothing"),
        }
    }
}

/// A change of configuration.
pub fn changes(bytes: &[u8]) {
    let Some(memory) = sealed(bytes) else { return };
    let Ok(changes) = Changes::read(memory) else { return };
    let Ok(changes) = changes.collect::<Result<Vec<Change>, _>>() else { return };
    let again = update::write(changes.len(), changes.iter()).ok();
    let again = again.and_then(|memory| Changes::read(memory).ok());
    let again = again.and_then(|again| again.collect::<Result<Vec<Change>, _>>().ok());
    assert!(
        again.is_some_and(|again| is_same(&again, &changes)),
        "a change is read as it is written"
    );
}

/// Equal, or written alike: a number that is none is not equal to itself.
fn is_same<T: PartialEq + codec::Encode>(one: &T, other: &T) -> bool {
    one == other || codec::encode(one).ok() == codec::encode(other).ok()
}

/// The settings of a worker.
pub fn settings(bytes: &[u8]) {
    let Some(memory) = sealed(bytes) else { return };
    let Ok(settings) = message::welcomed(memory) else { return };
    let again = message::welcome(&settings).ok().and_then(|memory| message::welcomed(memory).ok());
    assert!(
        again.is_some_and(|again| is_same(&again, &settings)),
        "settings are read as they are written"
    );
}

/// Budget verdicts.
pub fn budgets(bytes: &[u8]) {
    let Some(memory) = sealed(bytes) else { return };
    let Ok(verdicts) = budget::read(memory) else { return };
    let entries = verdicts.iter().map(|(id, verdict)| (id.as_str(), verdict));
    let again = budget::write(verdicts.len(), entries).ok().and_then(|it| budget::read(it).ok());
    assert!(again.is_some_and(|again| again == verdicts), "verdicts are read as they are written");
}

fn sealed(bytes: &[u8]) -> Option<std::os::fd::OwnedFd> {
    let write = |writer: &mut dyn io::Write| writer.write_all(bytes);
    memory::sealed("hostile", write).ok()
}

#[cfg(test)]
mod tests;
