//! The files of the bundle, read again whenever they have changed: certificate, key and CA together.

use std::io;
use std::path::PathBuf;

use tokio::sync::mpsc;

use super::candidate::Reading;
use super::open::read_files;
use super::read;
use super::source::BundleSource;
use crate::file_watch::{self, Look};
use crate::settings::Managed;

/// What is watched.
#[derive(Clone, Debug)]
struct Files {
    /// Certificate, key and CA.
    parts: Option<[PathBuf; 3]>,
    extra_roots: Option<PathBuf>,
}

/// Reads the files now and after every change, for as long as somebody takes what was read. What is read may be the same
/// as before.
pub fn start(managed: &Managed) -> io::Result<mpsc::Receiver<Reading>> {
    let files = Files::of(managed);
    let mut last = None;
    file_watch::start("bundle-files", files.all(), move || {
        let reading = files.read();
        let has_changed = last.as_ref() != Some(&reading);
        last = Some(reading.clone());
        Look { reading, has_changed }
    })
}

impl Files {
    fn of(managed: &Managed) -> Self {
        let parts = match &managed.bundle {
            BundleSource::Files { chain, key, roots } => {
                Some([chain, key, roots].map(PathBuf::clone))
            }
            BundleSource::Inline { .. } | BundleSource::Persisted => None,
        };
        Self { parts, extra_roots: managed.extra_roots.clone() }
    }

    fn all(&self) -> Vec<PathBuf> {
        self.parts.iter().flatten().chain(&self.extra_roots).cloned().collect()
    }

    fn read(&self) -> Reading {
        let parts = self.parts.as_ref().map(|[chain, key, roots]| {
            read_files(chain, key, roots).map_err(|error| error.to_string())
        });
        let extra_roots = self
            .extra_roots
            .as_ref()
            .map(|path| read("managed.cp_ca_cert_file", path).map_err(|error| error.to_string()));
        Reading { parts, extra_roots }
    }
}
