//! Files that the configuration consists of or names: regular files of text, of a size that a person could have meant.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// No configuration and no bundle of issuers is larger.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The text of the file. Never waits for another process, as opening a pipe would.
pub fn read(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("larger than {BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_regular_file_of_text_and_of_some_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| read(path).unwrap_err().to_string();
        assert!(told(folder.path()).contains("directory"));
        assert_eq!(told(Path::new("/dev/zero")), "not a regular file");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(told(&pipe), "not a regular file");
        let large = folder.path().join("large");
        File::create(&large).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert!(told(&large).contains("larger than"));
        let binary = folder.path().join("binary");
        fs::write(&binary, b"\xff\xfe").unwrap();
        assert!(told(&binary).contains("UTF-8"));
        fs::write(&binary, "text").unwrap();
        assert_eq!(read(&binary).unwrap(), "text");
    }
}
