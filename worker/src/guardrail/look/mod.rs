//! Ways to look at a text. A [`Look`] is compiled once for a configuration; a [`Stage`] is one on its way through one text
//! that comes in pieces.

mod automaton;
mod detector;
mod literals;
mod pattern;

use std::borrow::Cow;
use std::collections::BTreeMap;

use shared::resource::{Check, KeywordPattern, PiiCheck};

use literals::Literals;
use pattern::Pattern;

/// Most that a keyword guardrail holds back of a stream, in bytes.
const KEYWORD_HELD_BYTES_MAX: usize = 64 * 1024;
/// Most that any guardrail holds back of a stream, whatever its document says, in bytes.
const HELD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Something that text is searched for.
#[derive(Debug)]
pub enum Look {
    /// Texts that must not come.
    Literals(Literals),
    /// An expression.
    Pattern(Box<Pattern>),
}

/// The text must not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What was found, by the name of what looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(pub BTreeMap<String, u32>);

impl Tally {
    fn found(&mut self, name: &str) {
        if name.is_empty() {
            return;
        }
        match self.0.get_mut(name) {
            Some(count) => *count = count.saturating_add(1),
            None => drop(self.0.insert(name.to_owned(), 1)),
        }
    }
}

/// How much of a stream is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// At most so many bytes.
    pub bytes: usize,
    /// Whether more than that is let through unseen, rather than refused.
    pub opens: bool,
}

/// What a check looks for, in order, and how much it may hold back. `None` if it cannot be carried out: then what it guards
/// is refused.
pub fn compile(check: &Check) -> Option<(Vec<Look>, Bound)> {
    match check {
        Check::NotEnforceable => None,
        Check::Keyword(patterns) => {
            let bound = Bound { bytes: KEYWORD_HELD_BYTES_MAX, opens: false };
            Some((keyword(patterns)?, bound))
        }
        Check::Pii(check) => {
            let bytes = check.buffer_bytes_max.min(HELD_BYTES_MAX);
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Some((pii(check)?, Bound { bytes, opens: check.opens_when_full }))
        }
    }
}

fn keyword(patterns: &[KeywordPattern]) -> Option<Vec<Look>> {
    let texts = patterns.iter().filter_map(|pattern| match pattern {
        KeywordPattern::Literal(text) => Some(text.as_str()),
        KeywordPattern::Regex(_) => None,
    });
    let literals = Literals::new(texts).ok()?;
    let mut looks = Vec::new();
    if !literals.is_empty() {
        looks.push(Look::Literals(literals));
    }
    for pattern in patterns {
        if let KeywordPattern::Regex(expression) = pattern {
            looks.push(Look::Pattern(Box::new(Pattern::block(expression, "").ok()?)));
        }
    }
    Some(looks)
}

fn pii(check: &PiiCheck) -> Option<Vec<Look>> {
    let mut looks = Vec::new();
    for (name, action) in &check.detectors {
        let patterns = detector::patterns(name, *action)?;
        looks.extend(patterns.into_iter().map(|pattern| Look::Pattern(Box::new(pattern))));
    }
    for custom in &check.patterns {
        let replacement = custom.replacement.as_deref();
        let pattern = Pattern::new(&custom.regex, &custom.name, custom.action, replacement).ok()?;
        looks.push(Look::Pattern(Box::new(pattern)));
    }
    Some(looks)
}

impl Look {
    /// Looks at all of a text. Returns it as it may go on. `is_json`: it is JSON itself.
    ///
    /// # Errors
    /// It must not.
    pub fn whole<'a>(
        &self,
        text: Cow<'a, str>,
        is_json: bool,
        tally: &mut Tally,
    ) -> Result<Cow<'a, str>, Refused> {
        match self {
            Self::Literals(literals) if literals.is_in(&text) => {
                tally.found("");
                Err(Refused)
            }
            Self::Literals(_) => Ok(text),
            Self::Pattern(pattern) => {
                let changed = pattern::whole(pattern, &text, is_json, tally)?;
                Ok(changed.map_or(text, Cow::Owned))
            }
        }
    }
}

/// A look on its way through a text. It must be given the same [`Look`] all the time.
#[derive(Debug)]
pub enum Stage {
    /// Of [`Look::Literals`].
    Literals(literals::Stage),
    /// Of [`Look::Pattern`].
    Pattern(Box<pattern::Stage>),
}

impl Stage {
    /// At the beginning of a text. `is_json`: it is JSON itself.
    pub fn new(look: &Look, is_json: bool) -> Self {
        match look {
            Look::Literals(_) => Self::Literals(literals::Stage::default()),
            Look::Pattern(pattern) => {
                Self::Pattern(Box::new(pattern::Stage::new(pattern, is_json)))
            }
        }
    }

    /// Takes the next piece, and adds to `out` what can be let go of.
    ///
    /// # Errors
    /// The text must not come: nothing more of it is let go of.
    pub fn push(
        &mut self,
        look: &Look,
        piece: &str,
        out: &mut String,
        tally: &mut Tally,
    ) -> Result<(), Refused> {
        match (self, look) {
            (Self::Literals(stage), Look::Literals(literals)) => {
                stage.push(literals, piece, out, tally)
            }
            (Self::Pattern(stage), Look::Pattern(pattern)) => {
                stage.push(pattern, piece, out, tally)
            }
            _ => Err(Refused),
        }
    }

    /// The text ends here, as far as is known: everything is let go of.
    ///
    /// # Errors
    /// As with [`Stage::push`].
    pub fn flush(
        &mut self,
        look: &Look,
        out: &mut String,
        tally: &mut Tally,
    ) -> Result<(), Refused> {
        match (self, look) {
            (Self::Literals(stage), _) => {
                stage.flush(out);
                Ok(())
            }
            (Self::Pattern(stage), Look::Pattern(pattern)) => stage.flush(pattern, out, tally),
            _ => Err(Refused),
        }
    }

    /// Lets go of everything unseen.
    pub fn open(&mut self, out: &mut String) {
        match self {
            Self::Literals(stage) => stage.flush(out),
            Self::Pattern(stage) => stage.open(out),
        }
    }

    /// Bytes that are held back.
    pub fn held(&self) -> usize {
        match self {
            Self::Literals(stage) => stage.held(),
            Self::Pattern(stage) => stage.held(),
        }
    }
}

#[cfg(test)]
mod tests;
