//! What the demo says. Colour only on a terminal, and not where `NO_COLOR` is set.

use std::env;
use std::io::{self, IsTerminal, Write};

/// The terminal, or whatever stands in its place.
#[derive(Debug)]
pub struct Screen {
    is_coloured: bool,
}

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

impl Screen {
    /// Looks whether there is a terminal.
    pub fn new() -> Self {
        let is_coloured = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { is_coloured }
    }

    /// Begins a section.
    pub fn title(&self, text: &str) {
        say(&format!("\n{}\n", self.paint(BOLD, text)));
    }

    /// Something that was done.
    pub fn done(&self, what: &str, detail: &str) {
        say(&format!("  {what:<22} {}", self.paint(DIM, detail)));
    }

    /// A line on its own.
    pub fn note(&self, text: &str) {
        say(&format!("      {}", self.paint(DIM, text)));
    }

    /// A line to be copied.
    pub fn command(&self, what: &str, command: &str) {
        say(&format!("  {}\n      {command}", self.paint(DIM, what)));
    }

    /// A check that holds, with what was seen.
    pub fn tick(&self, number: usize, name: &str, evidence: &[String]) {
        say(&format!("  {} {number}. {name}", self.paint(GREEN, "✓")));
        for line in evidence {
            say(&format!("      {}", self.paint(DIM, line)));
        }
    }

    /// A check that does not, with what was seen instead.
    pub fn cross(&self, number: usize, name: &str, seen: &str) {
        say(&format!("  {} {number}. {name}", self.paint(RED, "✗")));
        for line in seen.lines() {
            say(&format!("      {line}"));
        }
    }

    /// A check that was not reached.
    pub fn not_tried(&self, number: usize, name: &str) {
        say(&self.paint(DIM, &format!("  · {number}. {name}: not tried")));
    }

    /// Why the demo ends.
    pub fn trouble(&self, text: &str) {
        say(&format!("\n{} {text}", self.paint(RED, "✗")));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_coloured { format!("{colour}{text}{RESET}") } else { text.to_owned() }
    }
}

/// One line, at once; a reader who has gone away is no reason to fail.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
