//! What the kernel tells of a process below `/proc`, also where the service manager hides other processes from us
//! (`ProtectProc=`): a worker's own files there are opened by the child that becomes it, before it executes its program, and
//! given to us. Descriptors of them are as good as the path, and never come to mean another process.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::unistd::Pid;

use super::sys::{OWN_FILES, OwnFile};

/// What is read at a time; every one of these files is smaller.
const CHUNK_BYTES: usize = 4096;

/// A process to look at.
#[derive(Clone, Debug)]
pub enum View {
    /// By its name below `/proc`.
    Path(String),
    /// By the files that it has opened itself.
    Files(Arc<Vec<File>>),
}

impl View {
    /// Ourselves.
    pub fn own() -> Self {
        Self::Path("self".to_owned())
    }

    /// A worker that has opened `files`, or could not.
    pub fn of(pid: Pid, files: Vec<OwnedFd>) -> Self {
        if files.len() == OWN_FILES.len() {
            Self::Files(Arc::new(files.into_iter().map(File::from).collect()))
        } else {
            Self::Path(pid.to_string())
        }
    }

    /// The text of a file.
    pub fn read(&self, which: OwnFile) -> io::Result<String> {
        match self {
            Self::Path(process) => fs::read_to_string(format!("/proc/{process}/{}", which.name())),
            Self::Files(files) => text(file(files, which)?),
        }
    }

    /// How many descriptors it has open: the size of the folder since Linux 6.2, which everybody is told; else its entries,
    /// which only its own user may see.
    pub fn open_descriptors(&self) -> Option<u64> {
        match self {
            Self::Path(process) => {
                let folder = format!("/proc/{process}/fd");
                match fs::metadata(&folder).ok()?.len() {
                    0 => Some(fs::read_dir(&folder).ok()?.count() as u64),
                    count => Some(count),
                }
            }
            Self::Files(files) => {
                let count = file(files, OwnFile::Descriptors).ok()?.metadata().ok()?.len();
                (count > 0).then_some(count)
            }
        }
    }
}

fn file(files: &[File], which: OwnFile) -> io::Result<&File> {
    let place = OWN_FILES.iter().position(|(file, _)| *file == which);
    place.and_then(|place| files.get(place)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// From the beginning, whoever else has read it meanwhile.
fn text(file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let count = file.read_at(&mut chunk, text.len() as u64)?;
        match chunk.get(..count) {
            Some(read) if count > 0 => text.extend_from_slice(read),
            _ => return Ok(String::from_utf8_lossy(&text).into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_opened_before_tell_what_the_paths_tell() {
        let files: Vec<_> = OWN_FILES
            .iter()
            .map(|(which, _)| File::open(format!("/proc/self/{}", which.name())).unwrap().into())
            .collect();
        let view = View::of(Pid::this(), files);
        assert!(matches!(view, View::Files(_)));
        for _ in 0..2 {
            let status = view.read(OwnFile::Status).unwrap();
            assert!(status.contains(&format!("\nPid:\t{}\n", Pid::this())), "{status}");
            assert_eq!(
                view.read(OwnFile::Limits).unwrap(),
                View::own().read(OwnFile::Limits).unwrap()
            );
        }
        // Without all of them there is the path.
        assert!(matches!(View::of(Pid::this(), Vec::new()), View::Path(_)));
    }
}
