//! A report as people read it, at 80 columns.

use super::{Found, Report, Severity};
use crate::control::print::Colour;
use crate::control::print::layout::{WIDTH, plain, wrap};

/// Columns before a text.
const INDENT: usize = 10;

/// The report as text.
pub fn text(report: &Report, colour: Colour) -> String {
    let mut lines = Vec::new();
    if report.findings.is_empty() {
        lines.push("Nothing is wrong, as far as can be seen from here.".to_owned());
    }
    for (number, found) in report.findings.iter().enumerate() {
        if number > 0 {
            lines.push(String::new());
        }
        tell(&mut lines, found, colour);
    }
    if !report.set_aside.is_empty() {
        lines.push(String::new());
        let codes: Vec<_> = report.set_aside.iter().map(|found| found.code.as_str()).collect();
        let follows = format!("Follows from it, and goes with it: {}.", codes.join(", "));
        lines.extend(wrap(&follows, WIDTH));
    }
    lines.join("\n") + "\n"
}

fn tell(lines: &mut Vec<String>, found: &Found, colour: Colour) {
    let word = match found.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "ERROR",
    };
    let shown = match colour {
        Colour::Off => word.to_owned(),
        Colour::On => format!("\x1b[{}m{word}\x1b[0m", code(found.severity)),
    };
    let gap = " ".repeat(INDENT.saturating_sub(word.len()));
    let title = wrap(&plain(&found.title), WIDTH - INDENT);
    for (number, line) in title.iter().enumerate() {
        let head = if number == 0 { format!("{shown}{gap}") } else { " ".repeat(INDENT) };
        lines.push(format!("{head}{line}"));
    }
    for (word, text) in [("code", &found.code), ("seen", &found.evidence), ("do", &found.remedy)] {
        for (number, line) in wrap(&plain(text), WIDTH - INDENT).iter().enumerate() {
            let head = if number == 0 { word } else { "" };
            lines.push(format!("  {head:<8}{line}"));
        }
    }
}

fn code(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "36",
        Severity::Warning => "33",
        Severity::Error => "1;31",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::asked::DOWN;
    use crate::doctor::{Finding, diagnose};

    #[test]
    fn a_report_fits_eighty_columns_and_tells_what_was_seen_and_what_to_do() {
        let evidence = "word ".repeat(40) + "\x1b[31m";
        let report = diagnose(vec![Finding { fault: &DOWN, evidence }]);
        let told = text(&report, Colour::Off);
        assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "{told}");
        for part in ["ERROR", "daemon-down", "seen", "systemctl"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains('\x1b'), "no control characters of others");
        assert!(text(&report, Colour::On).contains("\x1b[1;31mERROR\x1b[0m"));
    }

    #[test]
    fn nothing_wrong_is_told_in_a_sentence() {
        assert!(text(&Report::default(), Colour::Off).starts_with("Nothing is wrong"));
    }
}
