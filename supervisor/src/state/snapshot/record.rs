//! What is kept of one document, as bytes.

use shared::codec::{self, CodecError};
use shared::resource::Resource;
use shared::secret::Secret;

use super::file::VALUE_BYTES_MAX;
use crate::projection::document::{Document, Refusal, RefusalKind};
use crate::projection::last_good::{Kept, Rejection};

/// A document as it comes back.
#[derive(Debug)]
pub struct Record {
    /// The document, and what was wrong with it.
    pub kept: Kept,
    /// What this very build had read out of it: it need not be read again. `None` from another build.
    pub read: Option<Document>,
}

type Rejected<S> = (S, S, i64, i64, Option<i64>);
type Stored = (
    Secret<Vec<u8>>,
    Option<Secret<Vec<u8>>>,
    Option<Rejected<String>>,
    Option<(Option<Resource>, Option<String>, Vec<String>)>,
);

/// The bytes of a record.
pub fn encode(kept: &Kept, read: Option<&Document>) -> Result<Secret<Vec<u8>>, CodecError> {
    let rejection = kept.rejection.as_ref().map(|rejection| {
        let Rejection { refusal, first_seen, last_seen, stale_since } = rejection;
        (refusal.kind.name(), refusal.error.as_str(), *first_seen, *last_seen, *stale_since)
    });
    let read = read.map(|document| (&document.resource, &document.name, &document.fields));
    let older = kept.older.as_ref().map(|older| older.expose());
    codec::encode(&(kept.observed.expose(), older, rejection, read)).map(Secret::new)
}

/// The record of these bytes. `same_build` says that this build has written them.
pub fn decode(bytes: &[u8], same_build: bool) -> Result<Record, CodecError> {
    let (observed, older, rejection, read) = codec::decode::<Stored, VALUE_BYTES_MAX>(bytes)?;
    let rejection = rejection.map(|(kind, error, first_seen, last_seen, stale_since)| {
        let kind = RefusalKind::of_name(&kind);
        Rejection { refusal: Refusal { kind, error }, first_seen, last_seen, stale_since }
    });
    let kept = Kept { observed: observed.into(), older: older.map(Into::into), rejection };
    let read = read.filter(|_| same_build);
    let read = read.map(|(resource, name, fields)| Document { resource, name, fields });
    Ok(Record { kept, read })
}
