//! The resources file: every resource of a gateway without a Cloud and without etcd, in one YAML file.
//!
//! ```text
//! text ─► YAML ─► ${VARIABLE} ─► names become ids (reference) ─► the same checks as for etcd (projection::document)
//! ```
//!
//! Format 1, as published: `_format_version: "1"` and a list per kind. An entry has no id; it is known by its name, and
//! refers to others by theirs. Ids are made of the names, so that they stay from one reading to the next.
//!
//! Promises:
//! 1. a file is taken as a whole or not at all, and everything that is wrong with it is told at once;
//! 2. no error shows a value of the file or of a variable.

pub mod kind;
mod reading;
pub mod reference;
mod variables;

use std::fmt::Write;
use std::path::{Path, PathBuf};

pub use reading::{Document, Lookup};

use crate::settings::text;

/// The prefix of the keys under which the documents are known inside.
pub const PREFIX: &str = "/aisix/";

/// What a file holds, checked.
#[derive(Debug)]
pub struct Resources {
    /// The documents, in the order of their kinds.
    pub documents: Vec<Document>,
    /// What the file asks for and this build does not honour, a line each.
    pub notes: Vec<String>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("the resources file {} cannot be used: {}", path.display(), problems.join("; "))]
pub struct ResourcesError {
    /// The file.
    pub path: PathBuf,
    /// Everything that is wrong with it, each with its place. At least one.
    pub problems: Vec<String>,
}

impl ResourcesError {
    /// The same, a line for each problem.
    pub fn report(&self) -> String {
        let count = self.problems.len();
        let mut report = format!("resources file {}: {count} error(s):", self.path.display());
        for problem in &self.problems {
            // Writing to a text cannot fail.
            let _ = write!(report, "\n  - {problem}");
        }
        report
    }
}

/// Reads the file at `path`. `lookup` finds the variables that it refers to.
pub fn load(path: &Path, lookup: Lookup<'_>) -> Result<Resources, ResourcesError> {
    let failed = |problems| ResourcesError { path: path.to_owned(), problems };
    let text =
        text::read(path).map_err(|error| failed(vec![format!("cannot be read: {error}")]))?;
    reading::read(&text, lookup).map_err(failed)
}

/// Reads the text of a file. The error is everything that is wrong with it.
pub fn read(text: &str, lookup: Lookup<'_>) -> Result<Resources, Vec<String>> {
    reading::read(text, lookup)
}

/// A variable of this process.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests;
