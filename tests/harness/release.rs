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

/// Texts, and comparisons with the text that were compiled into code: there its first four bytes stand alone. Versions of
/// libraries, in the paths of their sources, and names that the compiler made are something else.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let (Some((head, tail)), Some((new_head, new_tail))) =
        (old.split_first_chunk::<4>(), new.split_first_chunk::<4>())
    else {
        panic!("versions of three numbers");
    };
    assert_eq!(tail, new_tail, "only what may stand alone differs");
    let found: Vec<_> =
        bytes.windows(4).enumerate().filter(|(_, at)| at == head).map(|(at, _)| at).collect();
    for at in found {
        let is_library = at > 0 && bytes[at - 1] == b'-';
        if !is_library && !bytes[at + 4..].starts_with(b"llvm") {
            bytes[at..at + 4].copy_from_slice(new_head);
        }
    }
}
