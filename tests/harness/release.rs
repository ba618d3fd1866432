//! Copies of the built programs, as a package would install them, and others that pretend to be of another version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries;

/// The version that the workspace builds.
const BUILT: &str = env!("CARGO_PKG_VERSION");
/// As long as [`BUILT`], so that it can take its place.
pub const OTHER: &str = "0.9.0";

/// The version of the built programs.
pub fn built() -> &'static str {
    BUILT
}

/// Installs both programs in a folder, over what is there.
pub fn install(folder: &Path, version: &str) {
    for name in ["aisix", "aisix-worker"] {
        install_one(folder, name, version);
    }
}

/// Installs one program in a folder.
pub fn install_one(folder: &Path, name: &str, version: &str) {
    let built = binaries::find(name).unwrap_or_else(|error| panic!("{error}"));
    let mut program = fs::read(built).expect("the program is readable");
    if version != BUILT {
        replace(&mut program, BUILT.as_bytes(), version.as_bytes());
    }
    put(folder, name, &program);
}

/// Installs bytes as a program, the way package managers do: the running one keeps its file.
pub fn put(folder: &Path, name: &str, program: &[u8]) {
    let (new, path) = (folder.join(format!("{name}.new")), folder.join(name));
    fs::write(&new, program).expect("a program is written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::rename(new, path).expect("it takes the place of the other");
}

/// Compiles a small program of C, of which there is a compiler where ours was built.
pub fn compile(folder: &Path, source: &str) -> Vec<u8> {
    let (text, program): (PathBuf, PathBuf) = (folder.join("source.c"), folder.join("compiled"));
    fs::write(&text, source).expect("a source is written");
    let status = Command::new("cc").arg("-o").arg(&program).arg(&text).status();
    assert!(status.expect("there is a C compiler").success());
    fs::read(program).expect("a program was made")
}

/// Texts, and comparisons with the text that were compiled into code: there its first four bytes stand alone.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let (head, tail) = old.split_at(4);
    assert_eq!(tail, &new[4..], "only what stands alone differs");
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(head.len()).position(|window| window == head) {
        at += found + head.len();
        let next = bytes.get(at).copied().unwrap_or_default();
        let is_other_text = next.is_ascii_digit() || next.is_ascii_lowercase();
        if bytes[at..].starts_with(tail) || !is_other_text {
            bytes[at - head.len()..at].copy_from_slice(&new[..head.len()]);
        }
    }
}
