//! Reads JSON from front to back and builds nothing: members are handed on one by one, values are passed over or borrowed.
//!
//! What it takes, serde_json takes too. What it refuses may still be JSON that is unusual (nested very deep, a count that is
//! written as no plain number): whoever calls it then asks serde_json, which decides and has the words for it.

use std::ops::Range;

/// Nested deeper is what nobody writes.
const DEPTH_MAX: u8 = 64;

/// A place in a text. Where a value is read, it stands at its first character.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// Valid UTF-8.
    text: &'a [u8],
    at: usize,
    depth_left: u8,
}

/// A string as it is written.
pub struct Quoted<'a> {
    inside: &'a [u8],
    is_escaped: bool,
    /// Where it is, quotes included.
    pub at: Range<usize>,
}

impl<'a> Quoted<'a> {
    /// What it spells, if it is written in the same way.
    #[inline]
    pub fn plain(&self) -> Option<&'a [u8]> {
        (!self.is_escaped).then_some(self.inside)
    }
}

impl<'a> Reader<'a> {
    /// Stands at the value that the text is. `None` if it is none.
    pub fn new(text: &'a [u8]) -> Option<Self> {
        // The first is found out much faster.
        if !is_ascii(text) && std::str::from_utf8(text).is_err() {
            return None;
        }
        let mut reader = Self { text, at: 0, depth_left: DEPTH_MAX };
        reader.blanks();
        Some(reader)
    }

    /// Where it stands.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Nothing but blanks is left.
    pub fn end(&mut self) -> Option<()> {
        self.blanks();
        (self.at == self.text.len()).then_some(())
    }

    /// Reads an object: `member` is called at the value of each member, with its name, and reads it.
    #[inline]
    pub fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Quoted<'a>) -> Option<()>,
    ) -> Option<()> {
        self.open(b'{')?;
        if self.peek() == b'}' {
            return self.close();
        }
        loop {
            let name = self.string()?;
            if self.peek() != b':' {
                self.blanks();
                self.is_at(b':')?;
            }
            self.at += 1;
            self.blanks();
            member(self, name)?;
            // Mostly there are no blanks.
            if let Some([b',', b'"']) = self.text.get(self.at..self.at + 2) {
                self.at += 1;
                continue;
            }
            self.blanks();
            if self.peek() != b',' {
                self.is_at(b'}')?;
                return self.close();
            }
            self.at += 1;
            self.blanks();
        }
    }

    /// Reads a list: `item` is called at each of its values, and reads it.
    pub fn list(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.open(b'[')?;
        if self.peek() == b']' {
            return self.close();
        }
        loop {
            item(self)?;
            self.blanks();
            if self.peek() != b',' {
                self.is_at(b']')?;
                return self.close();
            }
            self.at += 1;
            self.blanks();
        }
    }

    /// Passes over a value.
    #[inline(always)]
    pub fn skip(&mut self) -> Option<()> {
        match self.peek() {
            b'"' => self.skip_string(),
            b'{' | b'[' => self.skip_nested(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    #[inline(never)]
    fn skip_string(&mut self) -> Option<()> {
        self.string().map(drop)
    }

    #[inline(never)]
    fn skip_nested(&mut self) -> Option<()> {
        match self.peek() {
            b'{' => self.object(|reader, _| reader.skip()),
            _ => self.list(Self::skip),
        }
    }

    /// Passes over these bytes, which end where a value or a part of it does.
    pub fn pass(&mut self, bytes: &[u8]) -> Option<()> {
        let is_there = self.text.get(self.at..)?.starts_with(bytes);
        self.at += bytes.len();
        is_there.then_some(())
    }

    /// Passes over a value: what is written there.
    pub fn value(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.skip()?;
        self.text.get(start..self.at)
    }

    /// `None` within if the value is null.
    #[inline(always)]
    pub fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.peek() == b'n' {
            return self.word("null").map(|()| None);
        }
        read(self).map(Some)
    }

    /// A string without escapes.
    pub fn plain_string(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?.plain()?).ok()
    }

    /// A number that is written with nothing but digits.
    #[inline(always)]
    pub fn count(&mut self) -> Option<u64> {
        let start = self.at;
        let mut count = 0_u64;
        while let digit @ b'0'..=b'9' = self.peek() {
            count = count.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        let is_count = match self.at - start {
            0 => false,
            1 => true,
            _ => self.byte(start) != b'0',
        };
        (is_count && !matches!(self.peek(), b'.' | b'e' | b'E')).then_some(count)
    }

    /// A string.
    #[inline(always)]
    pub fn string(&mut self) -> Option<Quoted<'a>> {
        self.is_at(b'"')?;
        let start = self.at;
        let (mut end, mut is_escaped) = (plain_until(self.text, start + 1), false);
        if self.byte(end) != b'"' {
            (end, is_escaped) = end_of_string(self.text, end)?;
        }
        self.at = end + 1;
        Some(Quoted { inside: self.text.get(start + 1..end)?, is_escaped, at: start..end + 1 })
    }

    /// Passes over a number.
    #[inline(never)]
    pub fn number(&mut self) -> Option<()> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
            if self.peek().is_ascii_digit() {
                return None;
            }
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One digit and those behind it.
    fn digits(&mut self) -> Option<()> {
        if !self.peek().is_ascii_digit() {
            return None;
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        self.at += word.len();
        rest.starts_with(word.as_bytes()).then_some(())
    }

    fn open(&mut self, brace: u8) -> Option<()> {
        self.take(brace)?;
        self.depth_left = self.depth_left.checked_sub(1)?;
        self.blanks();
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        self.at += 1;
        self.depth_left += 1;
        Some(())
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.is_at(byte)?;
        self.at += 1;
        Some(())
    }

    fn is_at(&self, byte: u8) -> Option<()> {
        (self.peek() == byte).then_some(())
    }

    #[inline]
    fn blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// What it stands at; 0, which no JSON has outside of strings, at the end.
    #[inline]
    fn peek(&self) -> u8 {
        self.byte(self.at)
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }
}

/// Blocks of 64 are looked at as a whole, and the last one may overlap another so that nothing is left of them.
fn is_ascii(text: &[u8]) -> bool {
    match text.last_chunk::<64>() {
        Some(last) => {
            last.is_ascii() && text.get(..text.len() / 64 * 64).is_some_and(<[u8]>::is_ascii)
        }
        None => text.is_ascii(),
    }
}

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

/// The high bit of the first byte that has a meaning or no place in a string: of a quote, a backslash, a control character.
/// Bytes behind it may have theirs as well, and so may bytes that are no ASCII.
#[inline(always)]
fn specials(eight: u64) -> u64 {
    // A byte below `n` has its high bit set once `n` is taken from it; what is borrowed reaches only bytes behind it. With its
    // second bit flipped a quote is next to the control characters.
    let quote_or_control = (eight ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (eight ^ (ONES * 0x5c)).wrapping_sub(ONES);
    (quote_or_control | backslash) & HIGH
}

#[inline(always)]
fn eight(text: &[u8], at: usize) -> Option<u64> {
    let eight = text.get(at..at + 8)?.first_chunk()?;
    Some(u64::from_le_bytes(*eight))
}

/// Nothing from `at` to there is special. There mostly is the quote that ends the string.
#[inline(always)]
fn plain_until(text: &[u8], mut at: usize) -> usize {
    while let Some(eight) = eight(text, at) {
        let found = specials(eight);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at
}

/// Where the quote is that ends the string, of which nothing before `at` is special, and whether there are escapes before it.
#[inline(never)]
fn end_of_string(text: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut is_escaped = false;
    loop {
        while let Some(eight) = eight(text, at) {
            let found = specials(eight) & !eight;
            if found != 0 {
                at += found.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        match *text.get(at)? {
            b'"' => return Some((at, is_escaped)),
            b'\\' => {
                at = after_escape(text, at)?;
                is_escaped = true;
            }
            0..0x20 => return None,
            // Of the last few.
            _ => at += 1,
        }
    }
}

/// Behind the escape at `at`. Which half of a character it may be is not asked: neither does serde_json where a string is
/// passed over.
fn after_escape(text: &[u8], at: usize) -> Option<usize> {
    match *text.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => {
            let digits = text.get(at + 2..at + 6)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 6)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod texts;
