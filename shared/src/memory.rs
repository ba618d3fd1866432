//! Sealed memory: a file without a name whose content can no longer change, handed over by descriptor.
//!
//! The reader never shares an offset with another reader of the same descriptor, and never maps the file. What both sides
//! write is of a fixed size instead, and mapped as words.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys;

/// Fills sealed memory through `write`, then seals it against every further change.
pub fn sealed(
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let memory = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut writer = io::BufWriter::with_capacity(256 * 1024, File::from(memory));
    write(&mut writer)?;
    seal(writer.into_inner().map_err(io::IntoInnerError::into_error)?)
}

/// Seals these bytes without a copy of them on the way, which would stay in memory that is free again.
pub fn sealed_secret(name: &str, secret: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(secret)?;
    seal(file)
}

fn seal(file: File) -> io::Result<OwnedFd> {
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Memory of `bytes` zero bytes that both sides may use but nobody may resize.
pub fn fixed_size(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let memory = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let file = File::from(memory);
    file.set_len(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Memory of [`fixed_size`] as `count` words that are shared with whoever else maps it, for the rest of the process's life.
///
/// # Errors
/// The memory is smaller than that, or cannot be mapped.
pub fn mapped(memory: &File, count: usize) -> io::Result<&'static [AtomicU64]> {
    sys::mapped(memory, count)
}

/// Reads memory from its beginning, with an offset of its own.
#[derive(Debug)]
pub struct MemoryReader {
    file: File,
    offset: u64,
}

impl MemoryReader {
    /// A reader at the beginning of `memory`.
    pub fn new(memory: OwnedFd) -> Self {
        Self { file: memory.into(), offset: 0 }
    }
}

impl Read for MemoryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.offset)?;
        self.offset = self.offset.saturating_add(bytes as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn sealed_memory_is_read_by_several_and_changed_by_none() {
        let memory = sealed("test", |writer| writer.write_all(b"content")).unwrap();
        let file = File::from(memory.try_clone().unwrap());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
        for _ in 0..2 {
            let mut text = String::new();
            MemoryReader::new(memory.try_clone().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
    }

    #[test]
    fn memory_of_fixed_size_can_be_written_but_not_resized() {
        let file = File::from(fixed_size("test", 4096).unwrap());
        file.write_at(b"x", 0).unwrap();
        assert!(file.set_len(8192).is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn words_are_the_same_for_all_who_map_them_and_none_lies_behind_the_end() {
        let file = File::from(fixed_size("test", 4096).unwrap());
        let (one, other) = (mapped(&file, 512).unwrap(), mapped(&file, 512).unwrap());
        one[511].store(7, Ordering::SeqCst);
        assert_eq!(other[511].load(Ordering::SeqCst), 7);
        assert!(mapped(&file, 513).is_err());
        assert!(mapped(&file, 0).is_err());
    }
}
