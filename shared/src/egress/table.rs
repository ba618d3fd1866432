//! The destination table and the resolver's files, as they travel to the egress role in sealed memory.
//!
//! ```text
//! count u64 (varint) | change | change | …
//! ```

use std::io::{self, BufReader};
use std::os::fd::OwnedFd;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::memory::{self, MemoryReader};

use super::Key;

/// Where a host is named; decides which addresses it may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Origin {
    /// In the configuration file: any address.
    Configuration,
    /// In a projected resource: no address of this host or of its platform.
    Projection,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Where it is named.
    pub origin: Origin,
}

/// One step of a change of the table.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Change {
    /// The key leads there from now on.
    Put(Key, Entry),
    /// The key leads nowhere any more.
    Delete(Key),
}

/// What names are resolved with: the texts of the system's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Resolver {
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
}

/// Changes of the table, in sealed memory.
pub fn table(changes: &[Change]) -> io::Result<OwnedFd> {
    memory::sealed("aisix-destinations", |writer| {
        writer.write_all(&codec::encode(&(changes.len() as u64)).map_err(io::Error::other)?)?;
        for change in changes {
            writer.write_all(&codec::encode(change).map_err(io::Error::other)?)?;
        }
        Ok(())
    })
}

/// The changes in `memory`.
pub fn read_table(memory: OwnedFd) -> Result<Vec<Change>, CodecError> {
    let mut reader = BufReader::with_capacity(256 * 1024, MemoryReader::new(memory));
    let count: u64 = codec::decode_next(&mut reader)?;
    // Not reserved: the count is believed no further than there are changes.
    (0..count).map(|_| codec::decode_next(&mut reader)).collect()
}

impl Resolver {
    /// In sealed memory.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let bytes = codec::encode(self).map_err(io::Error::other)?;
        memory::sealed("aisix-resolver", |writer| writer.write_all(&bytes))
    }

    /// What `memory` holds.
    pub fn read(memory: OwnedFd) -> Result<Self, CodecError> {
        codec::decode_next(&mut BufReader::new(MemoryReader::new(memory)))
    }
}
