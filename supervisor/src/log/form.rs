//! The form of the log: what fits to where the gateway runs, unless the settings say otherwise.

use std::env;
use std::io::{IsTerminal, stderr};
use std::path::Path;

use nix::sys::stat::fstat;

use super::standard_error;

/// Files that a container has at its root.
const CONTAINER_FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// Variables that container runtimes set.
const CONTAINER_VARIABLES: [&str; 2] = ["container", "KUBERNETES_SERVICE_HOST"];

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text for people, in colour.
    Terminal,
    /// Text.
    Text,
    /// A JSON object a line.
    Json,
    /// Datagrams to the journal, with fields.
    Journal,
}

/// Where this process runs, as far as that says who reads its log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around {
    /// Standard error is a terminal.
    is_terminal: bool,
    /// Colour is wanted there.
    is_coloured: bool,
    /// Standard error goes to the journal.
    is_journal: bool,
    is_container: bool,
}

impl Around {
    pub fn of_this_process() -> Self {
        let is_terminal = stderr().is_terminal();
        let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
        Self {
            is_terminal,
            is_coloured: is_terminal && !is_set("NO_COLOR"),
            is_journal: fstat(standard_error())
                .is_ok_and(|it| is_of(&stream, it.st_dev, it.st_ino)),
            is_container: is_container(),
        }
    }

    /// The form that fits.
    pub fn fitting(self) -> Form {
        if self.is_journal {
            Form::Journal
        } else if self.is_terminal {
            self.as_wanted(Form::Text)
        } else if self.is_container {
            Form::Json
        } else {
            Form::Text
        }
    }

    /// The form that was asked for, which for text depends on whether it is seen in colour.
    pub fn as_wanted(self, form: Form) -> Form {
        if form == Form::Text && self.is_coloured { Form::Terminal } else { form }
    }
}

/// Whether this process is in a container, whose runtime files go with it.
pub fn is_container() -> bool {
    CONTAINER_FILES.iter().any(|path| Path::new(path).exists())
        || CONTAINER_VARIABLES.iter().any(|name| is_set(name))
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Whether `JOURNAL_STREAM` names this file by device and inode.
fn is_of(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    numbers == Some((Ok(device), Ok(inode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_whoever_reads() {
        let plain = Around::default();
        assert_eq!(plain.fitting(), Form::Text);
        let container = Around { is_container: true, ..plain };
        assert_eq!(container.fitting(), Form::Json);
        // Somebody looks at it.
        let seen = Around { is_terminal: true, is_coloured: true, ..container };
        assert_eq!(seen.fitting(), Form::Terminal);
        assert_eq!(Around { is_coloured: false, ..seen }.fitting(), Form::Text);
        assert_eq!(Around { is_journal: true, ..container }.fitting(), Form::Journal);
    }

    #[test]
    fn what_was_asked_for_is_what_there_is() {
        let seen = Around { is_terminal: true, is_coloured: true, ..Around::default() };
        for form in [Form::Json, Form::Journal] {
            assert_eq!(seen.as_wanted(form), form);
        }
        assert_eq!(seen.as_wanted(Form::Text), Form::Terminal);
        assert_eq!(Around::default().as_wanted(Form::Text), Form::Text);
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journals() {
        assert!(is_of("9:31", 9, 31));
        for other in ["", "9", "9:32", "8:31", "9:31x", ":", "-9:31"] {
            assert!(!is_of(other, 9, 31), "{other}");
        }
    }
}
