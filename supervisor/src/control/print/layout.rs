//! Lines of at most 80 columns: wrapped texts beside their names, tables, colours, times in words.

use std::fmt::Write;

/// What a line may have.
pub(crate) const WIDTH: usize = 80;
/// Where texts begin that have a name in front.
const INDENT: usize = 16;

/// Whether what matters is shown in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal.
    On,
    /// Into a file or a pipe, or where `NO_COLOR` is set.
    Off,
}

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Not as it should be.
    Bad,
    /// A heading.
    Head,
    /// Like everything else.
    Plain,
}

impl Colour {
    /// The text in the colour of its tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Odd => "33",
            Tone::Bad => "1;31",
            Tone::Head => "1",
            Tone::Plain => "",
        };
        match self {
            Self::On if !code.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::On | Self::Off => text.to_owned(),
        }
    }
}

/// Something to read, line by line.
pub(super) struct Sheet {
    text: String,
    pub(super) colour: Colour,
}

impl Sheet {
    pub(super) fn new(colour: Colour) -> Self {
        Self { text: String::new(), colour }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// A line as it is.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// A heading, with an empty line before it.
    pub(super) fn head(&mut self, name: &str) {
        let head = self.colour.paint(Tone::Head, name);
        self.line("");
        self.line(&head);
    }

    /// A name and what there is to say of it, on as many lines as it needs.
    pub(super) fn entry(&mut self, name: &str, value: &str) {
        self.marked("  ", Tone::Plain, name, value);
    }

    /// The same, with a mark in the place of the first columns.
    pub(super) fn marked(&mut self, mark: &str, tone: Tone, name: &str, value: &str) {
        let value = plain(value);
        let mut lines = wrap(&value, WIDTH - INDENT).into_iter();
        let first = lines.next().unwrap_or_default();
        let mark = self.colour.paint(tone, mark);
        let name = format!("{name:<width$}", width = INDENT - 2);
        self.line(&format!("{mark}{name}{first}"));
        for rest in lines {
            self.line(&format!("{:INDENT$}{rest}", ""));
        }
    }

    /// Rows below their heads; `tone` says how a cell is meant. Colours come after the columns are measured.
    pub(super) fn table<const N: usize>(
        &mut self,
        heads: [&str; N],
        rows: &[[String; N]],
        tone: impl Fn(usize, usize) -> Tone,
    ) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or_default();
            longest.max(heads.get(column).map_or(0, |head| head.len()))
        };
        let widths: Vec<_> = (0..N).map(width).collect();
        let heads = heads.map(str::to_owned);
        for (at, cells) in std::iter::once(&heads).chain(rows).enumerate() {
            let mut line = "  ".to_owned();
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let tone = at.checked_sub(1).map_or(Tone::Plain, |row| tone(row, column));
                // Writing to a text cannot fail.
                let _ = write!(line, "{}  ", self.colour.paint(tone, &format!("{cell:<width$}")));
            }
            self.line(&line);
        }
    }
}

/// The text in lines of at most `width` characters, cut between words where there are any.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word;
        let used = line.chars().count();
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        while word.chars().count() > width {
            let end = word.char_indices().nth(width).map_or(word.len(), |(end, _)| end);
            let (piece, rest) = word.split_at(end);
            lines.push(piece.to_owned());
            word = rest;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Words of a worker or a peer: no control character reaches the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

/// `3d 4h`, `5m 6s`: the two largest units.
pub(super) fn duration(secs: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut left = secs;
    let mut parts = Vec::new();
    for (unit, name) in units {
        let count = left / unit;
        left %= unit;
        if count > 0 || !parts.is_empty() || name == 's' {
            parts.push(format!("{count}{name}"));
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

/// `1.5 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (secs, told) in [(0, "0s"), (61, "1m 1s"), (3600, "1h 0m"), (90_061, "1d 1h")] {
            assert_eq!(duration(secs), told);
        }
    }

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        for (count, told) in [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB")] {
            assert_eq!(bytes(count), told);
        }
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let mut sheet = Sheet::new(Colour::Off);
        let rows = [["a", "long cell", "x"], ["bb", "c", "y"]].map(|row| row.map(str::to_owned));
        sheet.table(["ONE", "TWO", "THREE"], &rows, |_, _| Tone::Plain);
        let told = sheet.finish();
        let lines: Vec<_> = told.lines().collect();
        let at = lines[0].find("THREE");
        assert_eq!((lines[1].find('x'), lines[2].find('y')), (at, at), "{told}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_sheet_and_no_word_is_lost(text in "[a-zä\u{7}\\n ]{0,300}") {
            let mut sheet = Sheet::new(Colour::Off);
            sheet.entry("name", &text);
            let told = sheet.finish();
            prop_assert!(told.lines().all(|line| line.chars().count() <= WIDTH));
            let rings = told.contains('\u{7}');
            prop_assert!(!rings);
            let words = |text: &str| text.split_whitespace().collect::<String>();
            let body = told.strip_prefix("  name").unwrap();
            prop_assert_eq!(words(body), words(&plain(&text)));
        }
    }
}
