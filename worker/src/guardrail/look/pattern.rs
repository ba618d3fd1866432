//! A regular expression that looks at a text, all of it at once or as it comes.
//!
//! Invariant, with a property test: however a text is cut, what is let go of is the same, or the text is refused and nothing
//! of what it is refused for was let go of.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use regex_automata::nfa::thompson::NFA;
use shared::resource::{PiiAction, REGEX_BYTES_MAX};

use super::automaton::{self, Run};
use super::{Refused, Tally};

/// So much of what was let go of is kept, for look-behinds and to know an escape in JSON.
const CONTEXT_BYTES_MIN: usize = 16;
/// What is done with is cut off once it is this long.
const SPENT_BYTES_MAX: usize = 1024;

/// Says of a match whether it is meant: the text, where the match begins and where it ends. Returns where it really ends.
pub type Confirm = fn(&str, usize, usize) -> Option<usize>;

/// What an expression looks for, and what becomes of what it finds.
#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    /// `None` if it is too large to be run: then a stream is held back until it ends.
    nfa: Option<NFA>,
    /// Where the match is what a group holds, what is around it is context and may belong to the next match too.
    is_group_match: bool,
    confirm: Option<Confirm>,
    action: PiiAction,
    /// By what finds are counted; empty = they are not.
    name: String,
    replacement: String,
}

impl Pattern {
    /// Compiles an expression that refuses what it is found in.
    ///
    /// # Errors
    /// It is no expression, or too large a one.
    pub fn block(expression: &str, name: &str) -> Result<Self, regex::Error> {
        Self::new(expression, name, PiiAction::Block, None)
    }

    /// Compiles an expression. What it finds, or its first group if it has one, is replaced if it is masked.
    ///
    /// # Errors
    /// It is no expression, or too large a one.
    pub fn new(
        expression: &str,
        name: &str,
        action: PiiAction,
        replacement: Option<&str>,
    ) -> Result<Self, regex::Error> {
        let regex = RegexBuilder::new(expression)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()?;
        Ok(Self {
            regex,
            nfa: automaton::compile(expression, REGEX_BYTES_MAX),
            is_group_match: false,
            confirm: None,
            action,
            name: name.to_owned(),
            replacement: replacement
                .map_or_else(|| format!("[{}_REDACTED]", name.to_uppercase()), str::to_owned),
        })
    }

    /// As a built-in detector: its first group is the match, if `confirm` says so.
    pub fn confirmed_by(mut self, confirm: Option<Confirm>) -> Self {
        self.is_group_match = true;
        self.confirm = confirm;
        self
    }

    /// Whether a match by the NFA is a find, so that nothing needs to be searched for.
    fn is_certain(&self) -> bool {
        self.action == PiiAction::Block && self.confirm.is_none()
    }

    /// The first find that begins at `from` or later.
    fn find(&self, text: &str, from: usize) -> Option<Find> {
        let mut from = from;
        while from <= text.len() {
            let groups = self.regex.captures_at(text, from)?;
            let whole = groups.get(0)?;
            let found = if self.is_group_match { groups.get(1)? } else { whole };
            let end = match self.confirm {
                None => Some(found.end()),
                Some(confirm) => confirm(text, found.start(), found.end()),
            };
            if let Some(end) = end
                && end > found.start()
            {
                let masked = match groups.get(1) {
                    _ if self.is_group_match => Some((found.start(), end)),
                    Some(group) => Some((group.start(), group.end())),
                    None if self.regex.captures_len() > 1 => None,
                    None => Some((found.start(), end)),
                };
                return Some(Find { start: found.start(), end, masked });
            }
            from = after_char(text, found.start());
        }
        None
    }

    /// What stands in place of a find.
    fn replacement(&self, is_json: bool) -> Cow<'_, str> {
        if is_json {
            let quoted = crate::json::quoted(&self.replacement);
            Cow::Owned(quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned())
        } else {
            Cow::Borrowed(&self.replacement)
        }
    }
}

/// Where something was found, in bytes.
struct Find {
    start: usize,
    end: usize,
    /// What is replaced, if it is masked.
    masked: Option<(usize, usize)>,
}

/// A pattern on its way through a text that comes in pieces.
#[derive(Debug)]
pub struct Stage {
    run: Option<Run>,
    /// What is not decided yet, behind some that is.
    text: String,
    /// How much of the text was cut off at its beginning.
    cut: u64,
    /// Up to where the text was let go of. More than is decided only if its end came and then more of it.
    released: usize,
    /// No find begins before this.
    searched: usize,
    /// Whether the text is JSON itself, as the arguments of a tool are.
    is_json: bool,
}

impl Stage {
    /// At the beginning of a text.
    pub fn new(pattern: &Pattern, is_json: bool) -> Self {
        Self {
            run: pattern.nfa.as_ref().map(Run::new),
            text: String::new(),
            cut: 0,
            released: 0,
            searched: 0,
            is_json,
        }
    }

    /// Takes the next piece, and adds to `out` what can be let go of.
    pub fn push(
        &mut self,
        pattern: &Pattern,
        piece: &str,
        out: &mut String,
        tally: &mut Tally,
    ) -> Result<(), Refused> {
        let before = self.text.len();
        self.text.push_str(piece);
        let decided = match (&mut self.run, &pattern.nfa) {
            (Some(run), Some(nfa)) => {
                // A match that a confirmation turns down leaves others beside it.
                let cuts = pattern.confirm.is_none();
                for (offset, character) in piece.char_indices() {
                    let at = self.cut + (before + offset) as u64;
                    if run.step(nfa, at, character, cuts) && pattern.is_certain() {
                        tally.found(&pattern.name);
                        return Err(Refused);
                    }
                }
                let alive = run.alive_from(nfa).map(|start| start.saturating_sub(self.cut));
                alive.and_then(|start| usize::try_from(start).ok()).unwrap_or(self.text.len())
            }
            _ => 0,
        };
        self.settle(pattern, decided, out, tally)?;
        self.trim();
        Ok(())
    }

    /// The text ends here, as far as is known: everything is let go of.
    pub fn flush(
        &mut self,
        pattern: &Pattern,
        out: &mut String,
        tally: &mut Tally,
    ) -> Result<(), Refused> {
        if let (Some(run), Some(nfa)) = (&mut self.run, &pattern.nfa)
            && pattern.is_certain()
            && run.matches_at_end(nfa, self.cut + self.text.len() as u64)
        {
            tally.found(&pattern.name);
            return Err(Refused);
        }
        let before = self.searched;
        let last = self.settle(pattern, usize::MAX, out, tally)?;
        // If more comes all the same, a find may begin in what was let go of: then the text is refused.
        self.searched = last.unwrap_or(before);
        Ok(())
    }

    /// Bytes that are held back.
    pub fn held(&self) -> usize {
        self.text.len() - self.released.min(self.text.len())
    }

    /// Lets go of everything unseen.
    pub fn open(&mut self, out: &mut String) {
        out.push_str(self.text.get(self.released..).unwrap_or_default());
        self.released = self.text.len();
    }

    /// Deals with the finds that begin before `decided`, and lets go of the text up to there. Tells where the last find
    /// ends.
    fn settle(
        &mut self,
        pattern: &Pattern,
        decided: usize,
        out: &mut String,
        tally: &mut Tally,
    ) -> Result<Option<usize>, Refused> {
        let mut last = None;
        while self.searched < decided && self.searched < self.text.len() {
            let find = pattern.find(&self.text, self.searched);
            let Some(find) = find.filter(|find| find.start < decided) else {
                self.searched = decided.min(self.text.len());
                break;
            };
            tally.found(&pattern.name);
            if pattern.action == PiiAction::Block {
                return Err(Refused);
            }
            if let Some((start, end)) = find.masked {
                let start =
                    if self.is_json { behind_escape(&self.text, start, end) } else { start };
                if start < self.released {
                    return Err(Refused);
                }
                out.push_str(self.text.get(self.released..start).unwrap_or_default());
                out.push_str(&pattern.replacement(self.is_json));
                self.released = end;
            }
            self.searched = find.end;
            last = Some(find.end);
        }
        let safe = decided.max(self.searched).min(self.text.len());
        if safe > self.released {
            out.push_str(self.text.get(self.released..safe).unwrap_or_default());
            self.released = safe;
        }
        Ok(last)
    }

    /// Cuts off what is done with.
    fn trim(&mut self) {
        let done = self.released.min(self.searched).min(self.text.len());
        let mut end = done.saturating_sub(CONTEXT_BYTES_MIN);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        if end >= SPENT_BYTES_MAX {
            self.text.drain(..end);
            self.cut += end as u64;
            self.released -= end;
            self.searched -= end;
        }
    }
}

/// All of a text at once. `None` if it is as it was.
pub fn whole(
    pattern: &Pattern,
    text: &str,
    is_json: bool,
    tally: &mut Tally,
) -> Result<Option<String>, Refused> {
    let mut out = String::new();
    let (mut copied, mut searched) = (0, 0);
    while let Some(find) = pattern.find(text, searched) {
        tally.found(&pattern.name);
        if pattern.action == PiiAction::Block {
            return Err(Refused);
        }
        if let Some((start, end)) = find.masked {
            let start = if is_json { behind_escape(text, start, end) } else { start };
            out.push_str(text.get(copied..start).unwrap_or_default());
            out.push_str(&pattern.replacement(is_json));
            copied = end;
        }
        searched = find.end;
    }
    if copied == 0 {
        return Ok(None);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(Some(out))
}

/// The place behind the character at `at`.
fn after_char(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.chars().next().map_or(1, char::len_utf8)
}

/// Where a find begins in JSON: if its first character belongs to an escape, behind that. Without it a lone backslash
/// would be left.
fn behind_escape(text: &str, start: usize, end: usize) -> usize {
    let before = text.get(..start).unwrap_or_default();
    let slashes = before.len() - before.trim_end_matches('\\').len();
    if slashes % 2 == 0 {
        return start;
    }
    let length = if text.get(start..).is_some_and(|rest| rest.starts_with('u')) { 5 } else { 1 };
    let behind = start + length;
    if behind <= end && text.is_char_boundary(behind) { behind } else { end }
}
