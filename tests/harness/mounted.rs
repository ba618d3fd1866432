//! A certificate bundle as files that somebody replaces, in the ways in which that is done.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::cloud::Bundle;

/// How the files are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Each is written anew, under its name.
    InPlace,
    /// Each is written under another name, and renamed.
    Rename,
    /// All of them at once, by a symbolic link, as container platforms mount secrets.
    Swap,
}

/// The files.
#[derive(Debug)]
pub struct Mounted {
    folder: TempDir,
    style: Style,
    versions: usize,
}

const NAMES: [&str; 3] = ["client.crt", "client.key", "ca.crt"];

impl Mounted {
    /// The files, with this bundle in them.
    pub fn new(style: Style, bundle: &Bundle) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the bundle");
        let mut mounted = Self { folder, style, versions: 0 };
        if style == Style::Swap {
            for name in NAMES {
                let link = mounted.folder.path().join(name);
                symlink(PathBuf::from("..data").join(name), link).expect("a link");
            }
        }
        mounted.put(bundle);
        mounted
    }

    /// Puts another bundle in.
    pub fn put(&mut self, bundle: &Bundle) {
        let sources = [&bundle.certificate, &bundle.key, &bundle.issuers];
        let texts = sources.map(|path| fs::read(path).expect("a readable bundle"));
        self.put_texts(&texts.each_ref().map(Vec::as_slice));
    }

    /// Puts these contents in: certificate, key, issuers.
    pub fn put_texts(&mut self, texts: &[&[u8]; 3]) {
        let folder = self.folder.path();
        self.versions += 1;
        let version = folder.join(format!("..{}", self.versions));
        if self.style == Style::Swap {
            fs::create_dir(&version).expect("a folder for the version");
        }
        for (name, text) in NAMES.iter().zip(texts) {
            let (place, new) = (folder.join(name), folder.join(format!("{name}.new")));
            match self.style {
                Style::InPlace => fs::write(place, text).expect("a file is written"),
                Style::Rename => {
                    fs::write(&new, text).expect("a file is written");
                    fs::rename(new, place).expect("a file is renamed");
                }
                Style::Swap => fs::write(version.join(name), text).expect("a file is written"),
            }
        }
        if self.style == Style::Swap {
            let (link, new) = (folder.join("..data"), folder.join("..data_new"));
            symlink(version.file_name().unwrap_or_default(), &new).expect("a link");
            fs::rename(new, link).expect("the link is swapped");
            let before = folder.join(format!("..{}", self.versions - 1));
            let _ = fs::remove_dir_all(before);
        }
    }

    /// What a gateway is told.
    pub fn bundle(&self) -> Bundle {
        let [certificate, key, issuers] = NAMES.map(|name| self.folder.path().join(name));
        Bundle { certificate, key, issuers }
    }
}
