//! Keys of an identity provider on their way from the worker that fetched them, through the supervisor, to all workers.
//!
//! The supervisor keeps them for workers that start later and never looks into them: a bad set would harm nobody but those
//! who verify tokens with it, and they read it as they would read what a stranger sent.

use bincode::{Decode, Encode};

/// The largest set, in bytes: a frame holds it with what goes along.
pub const KEY_SET_BYTES_MAX: usize = 56 * 1024;
/// The longest source. Of a provider with a longer one every worker fetches for itself.
pub const SOURCE_BYTES_MAX: usize = 4 * 1024;

/// What an identity provider has published.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeySet {
    /// Resource id of the provider.
    pub provider_id: String,
    /// What it was fetched for, as the provider's document said then. One that says something else has other keys.
    pub source: String,
    /// When it was fetched, in milliseconds since 1970 UTC.
    pub fetched_at_unix_ms: u64,
    /// A JSON web key set.
    pub keys: Vec<u8>,
}

impl KeySet {
    /// Whether it is of a size that a frame holds.
    pub fn fits(&self) -> bool {
        self.keys.len() <= KEY_SET_BYTES_MAX
            && self.provider_id.len().saturating_add(self.source.len()) <= SOURCE_BYTES_MAX
    }
}
