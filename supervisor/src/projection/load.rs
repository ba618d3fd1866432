//! Everything below the prefix, in pages of one revision.

use std::time::Duration;

use etcd_client::{Client, Error, GetOptions};
use tokio::time::timeout;

use super::state::Entry;
use super::watch::{FollowError, is_compacted};

/// Keys in a page to begin with.
const PAGE_KEYS: i64 = 1000;
/// The largest message that is accepted, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A load starts again so often when the store compacts its revision away in the middle.
const RESTARTS_MAX: usize = 5;
/// The store may hold so many keys and bytes for this gateway; a store beyond that is broken or not ours.
const KEYS_MAX: usize = 2_000_000;
const BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Keys and values, with the revision that they were read at.
pub struct Loaded {
    /// The revision.
    pub revision: i64,
    /// In the order of their keys.
    pub entries: Vec<Entry>,
}

/// Reads everything below `prefix`, which ends with a slash. Each page may take `page_limit`.
pub async fn load(
    client: &Client,
    prefix: &str,
    page_limit: Duration,
) -> Result<Loaded, FollowError> {
    for _ in 0..RESTARTS_MAX {
        match load_once(client, prefix, page_limit).await {
            // Between two pages the store has forgotten the revision that they belong to.
            Err(FollowError::Load(reason)) if is_compacted(&reason) => {}
            done => return done,
        }
    }
    Err(FollowError::Load("the store compacts faster than it can be read".to_owned()))
}

async fn load_once(
    client: &Client,
    prefix: &str,
    page_limit: Duration,
) -> Result<Loaded, FollowError> {
    let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
    let end = range_end(prefix);
    let mut loaded = Loaded { revision: 0, entries: Vec::new() };
    let mut bytes = 0_usize;
    let mut start = prefix.as_bytes().to_vec();
    let mut limit = PAGE_KEYS;
    loop {
        // Without a sort order the store answers in ascending order and reads no more than it sends.
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(limit)
            .with_revision(loaded.revision);
        let page = timeout(page_limit, kv.get(start.clone(), Some(options))).await;
        let mut page = match page.map_err(|_| FollowError::Silent("load", page_limit))? {
            Ok(page) => page,
            Err(Error::GRpcStatus(status)) if too_large(&status) && limit > 1 => {
                limit = (limit / 8).max(1);
                continue;
            }
            Err(error) => return Err(FollowError::load(&error)),
        };
        if loaded.revision == 0 {
            loaded.revision = page.header().map_or(0, |header| header.revision());
            if loaded.revision <= 0 {
                return Err(FollowError::Load("the store tells no revision".to_owned()));
            }
        }
        let more = page.more();
        let entries = page.take_kvs();
        let entries_in_page = entries.len();
        let full = i64::try_from(entries_in_page).is_ok_and(|count| count >= limit);
        for entry in entries {
            let created = entry.create_revision();
            let (key, value) = entry.into_key_value();
            if key < start {
                return Err(FollowError::Order);
            }
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
            start = [key.as_slice(), &[0]].concat();
            loaded.entries.push(Entry { key, value, created });
        }
        if loaded.entries.len() > KEYS_MAX || bytes > BYTES_MAX {
            return Err(FollowError::TooMuch { keys: loaded.entries.len(), bytes });
        }
        // A store that ignores the limit sends everything at once; the page after it is empty.
        if entries_in_page == 0 || !(more || full) {
            return Ok(loaded);
        }
    }
}

/// The first key after all that begin with `prefix`, which ends with a slash.
pub fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

fn too_large(status: &tonic::Status) -> bool {
    // Stores say with the same code that they no longer have a revision, or not yet.
    let about_revision = status.message().contains("required revision");
    matches!(status.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted)
        && !about_revision
}
