//! The data key of the state directory: found again wherever that is possible, made anew only where it is not, for with it
//! go the snapshot and the usage events that were not sent.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use shared::secret::Secret;

use super::store::Store;
use super::unix;
use crate::state::seal::{DataKey, SealError, WrappingKey};

/// The data key that is kept, or a new one; and what is lost, if one was kept and cannot be opened. `client_key` is that of
/// the bundle to be used. A wrap that does not open is moved aside, so that it can be put back.
pub fn find(
    store: &Store<'_>,
    client_key: &Secret<String>,
    now: SystemTime,
) -> Result<(DataKey, Option<String>), SealError> {
    let [current, before] = store.seals();
    let keys = keys(store, client_key)?;
    let open = |seal: &_| opened(seal, &keys);
    if let Some(key) = open(&current) {
        return Ok((key, None));
    }
    let was_there = !matches!(&current, Ok(None));
    let moved = was_there.then(|| store.move_seal_aside(unix(now)));
    match (open(&before), moved) {
        (Some(key), _) => Ok((key, None)),
        (None, None) => Ok((DataKey::generate()?, None)),
        (None, Some(moved)) => {
            Ok((DataKey::generate()?, Some(lost(store.mtls_dir, &current, moved))))
        }
    }
}

/// A data key is kept that nothing at hand opens.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The wrap cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// No key fits.
    #[error("opens under no key that is there")]
    NoKey,
    /// The library refused.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// As [`find`], but moves nothing aside and makes nothing new.
pub fn look(store: &Store<'_>, client_key: &Secret<String>) -> Result<Option<DataKey>, Closed> {
    let [current, before] = store.seals();
    let keys = keys(store, client_key)?;
    if let Some(key) = opened(&current, &keys).or_else(|| opened(&before, &keys)) {
        return Ok(Some(key));
    }
    match current {
        Ok(None) => Ok(None),
        Ok(Some(_)) => Err(Closed::NoKey),
        Err(error) => Err(Closed::Read(error)),
    }
}

/// Everything that the data key may be wrapped under.
fn keys(store: &Store<'_>, client_key: &Secret<String>) -> Result<Vec<WrappingKey>, SealError> {
    // After a roll-back, or beside a key file that is torn, it may be another one's.
    let client_keys = [client_key.clone()].into_iter().chain(store.client_keys());
    let client_keys = client_keys.filter_map(|key| WrappingKey::of_client_key(&key).ok());
    Ok(WrappingKey::of_credential()?.into_iter().chain(client_keys).collect())
}

fn opened(seal: &io::Result<Option<String>>, keys: &[WrappingKey]) -> Option<DataKey> {
    let seal = seal.as_ref().ok()?.as_deref()?;
    keys.iter().find_map(|under| DataKey::unwrap(seal, under).ok())
}

fn lost(
    mtls_dir: &Path,
    seal: &io::Result<Option<String>>,
    moved: io::Result<std::path::PathBuf>,
) -> String {
    let why = match seal {
        Err(error) => format!("cannot be read ({error})"),
        Ok(_) => "opens under no key that is there".to_owned(),
    };
    let put_back = match moved {
        Ok(to) => format!(
            "it is kept as {}: if the key or the credential aisix-seal-key that it was sealed under is found, stop the gateway and move it back",
            to.display()
        ),
        Err(error) => format!("it cannot be moved aside either ({error})"),
    };
    format!(
        "{}/seal {why}; what was sealed before (snapshot, unsent usage) cannot be read; {put_back}",
        mtls_dir.display()
    )
}

/// What the data key may be wrapped under, the preferred one first.
pub fn wrapping_keys(client_key: &Secret<String>) -> Result<Vec<WrappingKey>, SealError> {
    let mut keys = Vec::from_iter(WrappingKey::of_credential()?);
    keys.push(WrappingKey::of_client_key(client_key)?);
    Ok(keys)
}
