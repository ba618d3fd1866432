//! What this image was handed by the one before, and the way back to it.
//!
//! The descriptors stay open under their numbers until this image is in order: what is used are copies. So the way back is
//! the same call with the same state, for as long as nothing has been heard of the workers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::exec::{self, Own};
use super::record::{RecordError, State};
use crate::metrics::KeptSeries;
use crate::process::launch::Program;
use crate::process::{inherited, keep_over_exec};

/// Why an image cannot go on where the one before has stopped.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The state is of no use.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A descriptor is not there.
    #[error("descriptor {number} was not handed over: {source}; --handover is for aisix itself")]
    Descriptor {
        /// Its number.
        number: i32,
        /// Why not.
        source: io::Error,
    },
}

/// The state, and the descriptors it names.
#[derive(Debug)]
pub struct Taken {
    /// What was written down.
    pub state: State,
    /// What workers that are gone have counted.
    pub series: Vec<KeptSeries>,
    /// Why the build that was to follow could not: then this is the one before, and goes on.
    pub failed: Option<String>,
    open: RefCell<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    memory: OwnedFd,
    descriptors: BTreeMap<i32, OwnedFd>,
}

impl Taken {
    /// Takes what is at descriptor `number`. To be called once, before anything else is opened.
    pub fn take(number: i32, failed: Option<String>) -> Result<Self, TakeError> {
        let named = |number| move |source| TakeError::Descriptor { number, source };
        let memory = inherited(number).map_err(named(number))?;
        let (state, series) = State::read(memory.try_clone().map_err(named(number))?)?;
        let mut descriptors = BTreeMap::new();
        for number in state.descriptors() {
            descriptors.insert(number, inherited(number).map_err(named(number))?);
        }
        let open = RefCell::new(Some(Open { memory, descriptors }));
        Ok(Self { state, series, failed, open })
    }

    /// A copy of a descriptor that the state names.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        let open = self.open.borrow();
        let descriptor = open.as_ref().and_then(|open| open.descriptors.get(&number));
        descriptor.ok_or(io::ErrorKind::NotFound)?.try_clone()
    }

    /// Whether the build before can be executed again.
    pub fn may_go_back(&self) -> bool {
        self.failed.is_none() && self.open.borrow().is_some()
    }

    /// The programs of the build before: its supervisor's, and its worker's.
    pub fn programs(&self) -> io::Result<(OwnedFd, Program)> {
        let supervisor = self.descriptor(self.state.programs.supervisor)?;
        Ok((supervisor, self.worker_program()?))
    }

    /// The worker's program of the build before.
    pub fn worker_program(&self) -> io::Result<Program> {
        let path = PathBuf::from(OsString::from_vec(self.state.programs.worker_path.clone()));
        Ok(Program::from_descriptor(self.descriptor(self.state.programs.worker)?, path))
    }

    /// Nothing of the build before is needed any more.
    pub fn settle(&self) {
        self.open.borrow_mut().take();
    }

    /// Executes the build before with the same state. Returns only if that fails.
    pub fn go_back(&self, own: &Own, reason: &dyn Display) -> io::Error {
        let open = self.open.borrow_mut().take();
        let Some(open) = open else { return io::Error::from(io::ErrorKind::NotFound) };
        let prepare = || {
            keep_over_exec(open.memory.as_fd())?;
            open.descriptors.values().try_for_each(|it| keep_over_exec(it.as_fd()))
        };
        if let Err(error) = prepare() {
            return error;
        }
        let Some(program) = open.descriptors.get(&self.state.programs.supervisor) else {
            return io::ErrorKind::NotFound.into();
        };
        exec::execute(program.as_fd(), own, open.memory.as_fd(), Some(&reason.to_string()))
    }
}
