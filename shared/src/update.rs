//! A change of configuration, as it travels to the workers: in sealed memory, an entry at a time.
//!
//! ```text
//! count u64 (varint) | change | change | …
//! ```
//! The same shape carries the whole set (a worker starts from nothing) and the difference of one revision to the last.

use std::io;
use std::os::fd::OwnedFd;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::memory::{self, MemoryReader};
use crate::resource::{Kind, Resource};

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Change {
    /// The resource is there from now on, in place of any of the same kind and id.
    Put(Box<Resource>),
    /// There is no such resource any more.
    Delete(Kind, String),
}

/// `changes` in sealed memory. `count` is how many the iterator yields.
pub fn write<'a>(count: usize, changes: impl Iterator<Item = &'a Change>) -> io::Result<OwnedFd> {
    memory::sealed("aisix-configuration", |writer| {
        writer.write_all(&codec::encode(&(count as u64)).map_err(io::Error::other)?)?;
        for change in changes {
            writer.write_all(&codec::encode(change).map_err(io::Error::other)?)?;
        }
        Ok(())
    })
}

/// Reads changes one at a time; none is kept here.
pub struct Changes {
    reader: io::BufReader<MemoryReader>,
    left: u64,
}

impl Changes {
    /// The changes in `memory`.
    pub fn read(memory: OwnedFd) -> Result<Self, CodecError> {
        let mut reader = io::BufReader::with_capacity(256 * 1024, MemoryReader::new(memory));
        let left = codec::decode_next(&mut reader)?;
        Ok(Self { reader, left })
    }
}

impl Iterator for Changes {
    type Item = Result<Change, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let change = codec::decode_next(&mut self.reader);
        if change.is_err() {
            self.left = 0;
        }
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ApiKey;

    fn changes(count: usize) -> Vec<Change> {
        let key = |n: usize| ApiKey {
            id: format!("k-{n}"),
            key_hash: Some([n as u8; 32]),
            allowed_models: vec!["*".to_owned()],
            ..ApiKey::default()
        };
        let mut changes: Vec<_> =
            (0..count).map(|n| Change::Put(Box::new(Resource::ApiKey(key(n))))).collect();
        changes.push(Change::Delete(Kind::Model, "m-1".to_owned()));
        changes
    }

    #[test]
    fn every_reader_of_one_memory_reads_all_changes() {
        let written = changes(5_000);
        let memory = write(written.len(), written.iter()).unwrap();
        for _ in 0..2 {
            let read: Result<Vec<_>, _> =
                Changes::read(memory.try_clone().unwrap()).unwrap().collect();
            assert_eq!(read.unwrap(), written);
        }
    }

    #[test]
    fn memory_that_ends_early_is_an_error_and_not_a_shorter_change() {
        let written = changes(3);
        let memory = write(written.len() + 1, written.iter()).unwrap();
        let read: Vec<_> = Changes::read(memory).unwrap().collect();
        assert_eq!(read.len(), written.len() + 1);
        assert!(read.last().unwrap().is_err());
    }
}
