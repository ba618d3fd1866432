//! What can be wrong with a configuration, told with the key, the place and the remedy, on one line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::key::Key;
use crate::bundle::source::SourceError;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in default, or a value that is missing.
    Default,
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Line of the key, where the format tells it.
        line: Option<u64>,
    },
    /// In this environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line: Some(line) } => {
                write!(formatter, "{} line {line}", path.display())
            }
            Self::File { path, line: None } => write!(formatter, "{}", path.display()),
            Self::Variable(name) => formatter.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such key.
    #[error("unknown key {} ({origin}){}", shown(name), suggestion(name, origin))]
    UnknownKey {
        /// Its path with dots.
        name: String,
        /// Where it was written.
        origin: Origin,
    },
    /// The key has a value that cannot be used.
    #[error("{key} ({origin}): {reason}")]
    Value {
        /// The key.
        key: String,
        /// Where the value was written.
        origin: Origin,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The key has a value of another kind than its own: a text for a number.
    #[error("{key} ({origin}): {reason}")]
    Kind {
        /// The key.
        key: String,
        /// Where the value was written.
        origin: Origin,
        /// What was expected.
        reason: String,
    },
    /// The value asks for something that this build does not do.
    #[error("{key} ({origin}): {reason}")]
    Refused {
        /// The key.
        key: &'static str,
        /// Where the value was written.
        origin: Origin,
        /// Why, and what would be right.
        reason: &'static str,
    },
    /// The address of the Cloud cannot be used.
    #[error("{key} ({origin}): {fault}")]
    Url {
        /// The key.
        key: &'static str,
        /// Where the value was written.
        origin: Origin,
        /// What is wrong with it.
        fault: UrlFault,
    },
    /// The key names a file that cannot be read.
    #[error("{key} ({origin}): cannot read {}: {reason}", path.display())]
    File {
        /// The key.
        key: &'static str,
        /// Where the value was written.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// The same as the system has it.
        kind: io::ErrorKind,
    },
    /// The parts of the certificate bundle make no choice.
    #[error(transparent)]
    Bundle(#[from] SourceError),
    /// A key without which nothing works has no value.
    #[error("{key} is missing: {reason}; set it in the file or by {}", Key::variable(key))]
    Missing {
        /// The key.
        key: &'static str,
        /// What it is needed for.
        reason: &'static str,
    },
    /// Keys that contradict each other.
    #[error("{0}")]
    Together(String),
}

/// What is wrong with an address of the Cloud.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// Without TLS there is no certificate to show.
    #[error(
        "http is refused: the gateway shows its certificate to the Cloud, and only https can do that"
    )]
    PlainHttp,
    /// Another scheme than https.
    #[error("must begin with https://")]
    Scheme,
    /// No URL.
    #[error("{0}")]
    Form(String),
}

/// On one line, and not all of it where a text has slipped into the place of a key.
fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 100;
    let escaped: String = name.escape_debug().take(CHARS_MAX).collect();
    if name.chars().count() > CHARS_MAX { format!("{escaped}...") } else { escaped }
}

fn suggestion(name: &str, origin: &Origin) -> String {
    let nearest = match origin {
        Origin::Variable(_) => Key::nearest_variable(name),
        Origin::Default | Origin::File { .. } => Key::nearest(name).map(str::to_owned),
    };
    nearest.map(|known| format!("; did you mean {known}?")).unwrap_or_default()
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file's name does not tell its format.
    #[error("cannot tell the format of {}: its name must end in .yaml, .yml, .toml or .json", .0.display())]
    Extension(PathBuf),
    /// The file is not in the format of its name.
    #[error("cannot parse {}{}: {reason}", path.display(), near(at))]
    Parse {
        /// The file.
        path: PathBuf,
        /// The key that was read last; empty before the first.
        at: String,
        /// What the parser says, without an excerpt: it could show a secret.
        reason: String,
    },
    /// The file can be read, but not used.
    #[error("the configuration cannot be used: {}", joined(.0))]
    Invalid(Vec<Problem>),
}

impl SettingsError {
    /// For a file that is not in its format.
    pub(super) fn parse(path: &Path, at: String, reason: impl ToString) -> Self {
        Self::Parse { path: path.to_owned(), at, reason: one_line(&reason.to_string()) }
    }
}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

fn near(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!(" at {at}") }
}

fn joined(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
