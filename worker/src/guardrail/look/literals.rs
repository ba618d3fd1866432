//! Texts that must not come, whatever their capitals, in a text as a whole or as it comes.
//!
//! Letters are compared as Unicode folds them one to one; nothing else is made equal. Invariant, with a property test:
//! however a text is cut, nothing of a literal is let go of.

use aho_corasick::{AhoCorasick, BuildError};

use super::{Refused, Tally};

/// All literals of a guardrail.
#[derive(Debug)]
pub struct Literals {
    automaton: AhoCorasick,
    /// Folded, sorted.
    sorted: Vec<String>,
    chars_max: usize,
}

impl Literals {
    /// Prepares the texts. Empty ones are passed over.
    ///
    /// # Errors
    /// They are too many.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, BuildError> {
        let mut sorted: Vec<String> = texts.filter(|text| !text.is_empty()).map(folded).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let chars_max = sorted.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        Ok(Self { automaton: AhoCorasick::new(&sorted)?, sorted, chars_max })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Whether one of them is in the text.
    pub fn is_in(&self, text: &str) -> bool {
        self.automaton.is_match(&folded(text))
    }

    /// Whether one of them begins with `start`.
    fn any_begins_with(&self, start: &str) -> bool {
        let place = self.sorted.partition_point(|text| text.as_str() < start);
        self.sorted.get(place).is_some_and(|text| text.starts_with(start))
    }
}

/// Literals on their way through a text that comes in pieces.
#[derive(Debug, Default)]
pub struct Stage {
    /// The end of the text, from where a literal may have begun; folded, and as it came.
    folded: String,
    original: String,
    /// Characters of the end that were let go of, because the text seemed to have ended.
    released: usize,
}

impl Stage {
    /// Takes the next piece, and adds to `out` what can be let go of.
    pub fn push(
        &mut self,
        literals: &Literals,
        piece: &str,
        out: &mut String,
        tally: &mut Tally,
    ) -> Result<(), Refused> {
        self.original.push_str(piece);
        self.folded.extend(piece.chars().map(fold));
        if literals.automaton.is_match(&self.folded) {
            tally.found("");
            return Err(Refused);
        }
        let count = self.folded.chars().count();
        // Only as many characters as the longest has, less one, can be its beginning.
        let first = (count + 1).saturating_sub(literals.chars_max.max(1));
        let begun = self.folded.char_indices().enumerate().skip(first).find(|(_, (at, _))| {
            literals.any_begins_with(self.folded.get(*at..).unwrap_or_default())
        });
        let (chars, folded_at) =
            begun.map_or((count, self.folded.len()), |(chars, (at, _))| (chars, at));
        let place = |chars| {
            let at = self.original.char_indices().nth(chars);
            at.map_or(self.original.len(), |(at, _)| at)
        };
        let (from, to) = (place(self.released.min(chars)), place(chars));
        out.push_str(self.original.get(from..to).unwrap_or_default());
        self.original.drain(..to);
        self.folded.drain(..folded_at);
        self.released = self.released.saturating_sub(chars);
        Ok(())
    }

    /// The text ends here, as far as is known: everything is let go of. If more comes all the same, it is refused as soon as
    /// a literal is complete.
    pub fn flush(&mut self, out: &mut String) {
        let from = self.original.char_indices().nth(self.released);
        if let Some((from, _)) = from {
            out.push_str(self.original.get(from..).unwrap_or_default());
        }
        self.released = self.original.chars().count();
    }

    /// Bytes that are held back.
    pub fn held(&self) -> usize {
        let from = self.original.char_indices().nth(self.released);
        from.map_or(0, |(from, _)| self.original.len() - from)
    }
}

fn folded(text: &str) -> String {
    text.chars().map(fold).collect()
}

/// A letter as its small one, where there is exactly one. By way of the capital, so that letters with the same one are the
/// same (σ and ς).
fn fold(letter: char) -> char {
    if letter.is_ascii() {
        return letter.to_ascii_lowercase();
    }
    let mut capitals = letter.to_uppercase();
    let capital = match (capitals.next(), capitals.next()) {
        (Some(capital), None) => capital,
        _ => letter,
    };
    capital.to_lowercase().next().unwrap_or(letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literals(texts: &[&str]) -> Literals {
        Literals::new(texts.iter().copied()).unwrap()
    }

    /// What is let go of, and whether the text was refused.
    fn streamed(literals: &Literals, pieces: &[&str]) -> (String, bool) {
        let (mut stage, mut out) = (Stage::default(), String::new());
        for piece in pieces {
            if stage.push(literals, piece, &mut out, &mut Tally::default()).is_err() {
                return (out, true);
            }
        }
        stage.flush(&mut out);
        (out, false)
    }

    #[test]
    fn capitals_and_other_forms_of_a_letter_make_no_difference() {
        let literals = literals(&["Straße", "ΟΔΟΣ", "secret"]);
        for text in ["STRAßE", "a οδος b", "οδοσ", "SeCrEt", "\u{17f}ecret"] {
            assert!(literals.is_in(text), "{text}");
        }
        assert!(!literals.is_in("strase ecret"));
    }

    #[test]
    fn only_what_a_literal_may_have_begun_with_is_held_back() {
        let literals = literals(&["secret", "x-ray"]);
        let mut stage = Stage::default();
        let mut push = |piece: &str| {
            let mut out = String::new();
            stage.push(&literals, piece, &mut out, &mut Tally::default()).map(|()| out)
        };
        assert_eq!(push("hello se").unwrap(), "hello ");
        assert_eq!(push("c").unwrap(), "");
        assert_eq!(push("ond x").unwrap(), "second ");
        assert_eq!(push("-men").unwrap(), "x-men");
        assert_eq!(push("secre").unwrap(), "");
        assert!(push("T").is_err());
    }

    #[test]
    fn a_text_that_goes_on_behind_its_end_is_refused_when_a_literal_is_complete() {
        let literals = literals(&["secret"]);
        let (mut stage, mut out) = (Stage::default(), String::new());
        stage.push(&literals, "a sec", &mut out, &mut Tally::default()).unwrap();
        stage.flush(&mut out);
        assert_eq!((out.as_str(), stage.held()), ("a sec", 0));
        assert!(stage.push(&literals, "ret", &mut out, &mut Tally::default()).is_err());
        assert_eq!(out, "a sec");
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_it_comes_whole_or_is_refused_before_the_literal(
            pieces in proptest::collection::vec("[aAbBcé ]{0,4}", 0..8)
        ) {
            let literals = literals(&["ab", "bca", "cab a", "éa"]);
            let text = pieces.concat();
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            let (out, is_refused) = streamed(&literals, &pieces);
            prop_assert_eq!(is_refused, literals.is_in(&text));
            if is_refused {
                prop_assert!(text.starts_with(&out));
                let end = literals.automaton.find(&folded(&text)).unwrap().start();
                prop_assert!(folded(&out).len() <= end);
            } else {
                prop_assert_eq!(out, text);
            }
        }
    }
}
