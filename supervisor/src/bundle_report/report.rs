//! The report while it is gathered, and the archive that it becomes.

use std::fmt::Write;
use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;
use shared::version::VERSION;
use tar::{Builder, Header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::redact::Redactor;

/// The archive is never larger.
pub const ARCHIVE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// No file in it is.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The folder that everything is in.
const FOLDER: &str = "aisix-report";

/// What was gathered so far.
pub struct Report {
    redactor: Redactor,
    files: Vec<(String, String)>,
    missing: Vec<(String, String)>,
}

/// The archive, and what is to be said of it.
pub struct Archive {
    /// A .tar.gz.
    pub bytes: Vec<u8>,
    contents: Vec<(String, usize)>,
    missing: Vec<(String, String)>,
}

impl Report {
    /// An empty one.
    pub fn new(redactor: Redactor) -> Self {
        Self { redactor, files: Vec::new(), missing: Vec::new() }
    }

    /// Adds a text, without secrets and not longer than a file may be.
    pub fn add(&mut self, name: &str, text: &str) {
        let mut text = self.redactor.clean(text);
        if text.len() > FILE_BYTES_MAX {
            text.truncate(text.floor_char_boundary(FILE_BYTES_MAX));
            self.missing(name, format!("cut after {FILE_BYTES_MAX} bytes"));
        }
        self.files.push((self.redactor.clean(name), text));
    }

    /// Adds what a source has given, or why it has not.
    pub fn take(&mut self, name: &str, text: io::Result<String>) {
        match text {
            Ok(text) => self.add(name, &text),
            Err(error) => self.missing(name, error),
        }
    }

    /// Notes what is not in it, and why.
    pub fn missing(&mut self, name: &str, why: impl ToString) {
        let why = self.redactor.clean(&why.to_string());
        self.missing.push((self.redactor.clean(name), why));
    }

    /// Notes it, if there is a reason.
    pub fn missing_if(&mut self, name: &str, why: Option<String>) {
        if let Some(why) = why {
            self.missing(name, why);
        }
    }

    /// Packs it. What makes it too large is left out, the largest file first.
    pub fn pack(mut self, now: OffsetDateTime) -> io::Result<Archive> {
        loop {
            let manifest = self.manifest(now);
            let bytes = archive(&manifest, &self.files, now)?;
            let largest = self.files.iter().enumerate().max_by_key(|(_, (_, text))| text.len());
            match largest.map(|(at, _)| at) {
                Some(at) if bytes.len() > ARCHIVE_BYTES_MAX => {
                    let (name, text) = self.files.swap_remove(at);
                    let bytes = text.len();
                    self.missing(&name, format!("left out with its {bytes} bytes: too large"));
                }
                _ => {
                    let size = |(name, text): &(String, String)| (name.clone(), text.len());
                    let contents = self.files.iter().map(size).collect();
                    return Ok(Archive { bytes, contents, missing: self.missing });
                }
            }
        }
    }

    fn manifest(&self, now: OffsetDateTime) -> String {
        let mut text = format!(
            "aisix bundle-report, version {VERSION}, {}\n\n\
             Secrets are removed: private keys, passwords, tokens, keys of providers and of callers. Of environment\n\
             variables only those that are keys of the configuration without a secret are here with their values.\n\
             The state directory is listed, not copied.\n\nIn it:\n",
            now.format(&Rfc3339).unwrap_or_default()
        );
        // Writing to a text cannot fail.
        for (name, content) in &self.files {
            let _ = writeln!(text, "  {name}  {} bytes", content.len());
        }
        text.push_str("\nNot in it, or not whole:\n");
        if self.missing.is_empty() {
            text.push_str("  (nothing)\n");
        }
        for (name, why) in &self.missing {
            let _ = writeln!(text, "  {name}: {why}");
        }
        text
    }
}

fn archive(manifest: &str, files: &[(String, String)], now: OffsetDateTime) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let time = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let mut append = |name: &str, text: &str| {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        builder.append_data(&mut header, format!("{FOLDER}/{name}"), text.as_bytes())
    };
    append("manifest.txt", manifest)?;
    for (name, text) in files {
        append(name, text)?;
    }
    builder.into_inner()?.finish()
}

impl Archive {
    /// What was written, for people.
    pub fn summary(&self, place: &str) -> String {
        let mut text = format!("{place}: {} KiB\n", self.bytes.len().div_ceil(1024));
        for (name, bytes) in &self.contents {
            let _ = writeln!(text, "  {name}  {bytes} bytes");
        }
        if !self.missing.is_empty() {
            text.push_str("Not in it, or not whole:\n");
        }
        for (name, why) in &self.missing {
            let _ = writeln!(text, "  {name}: {why}");
        }
        text
    }
}
