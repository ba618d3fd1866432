//! How far back an expression may still reach: which starts of a match are alive at the end of what was read so far.
//!
//! The expression runs as an NFA, a character at a time, with the earliest start of a match beside each state, in the order
//! of precedence that the `regex` crate has. What lies before the earliest of these starts is decided: whatever comes, no
//! match will begin there. A look-around that needs the next character counts as alive until that has come.

use regex_automata::nfa::thompson::{Config, NFA, State, WhichCaptures};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;

/// An expression with more states is not run: stepping would take too long.
const STATES_MAX: usize = 20_000;

/// Compiles an expression to be run; `None` if it is too large for that.
pub fn compile(expression: &str, bytes_max: usize) -> Option<NFA> {
    let config = Config::new().nfa_size_limit(Some(bytes_max)).which_captures(WhichCaptures::None);
    let nfa = NFA::compiler().configure(config).build(expression).ok()?;
    (nfa.states().len() <= STATES_MAX).then_some(nfa)
}

/// An expression on its way through a text.
#[derive(Debug)]
pub struct Run {
    /// States between two characters; look-arounds among them wait for the next one.
    waiting: States,
    ready: States,
    next: States,
    stack: Vec<StateID>,
    previous: Option<char>,
}

impl Run {
    /// At the beginning of a text.
    pub fn new(nfa: &NFA) -> Self {
        let states = || States::new(nfa.states().len());
        Self {
            waiting: states(),
            ready: states(),
            next: states(),
            stack: Vec::new(),
            previous: None,
        }
    }

    /// Reads the character at the byte `at`. Tells whether a match that is not empty is certain now.
    ///
    /// `cuts`: a match ends what has less precedence, as in a search for the first match; else everything is followed.
    pub fn step(&mut self, nfa: &NFA, at: u64, character: char, cuts: bool) -> bool {
        let mut has_matched = self.resolve(nfa, at, Some(character), cuts);
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            self.next.clear();
            for index in 0..self.ready.len() {
                let Some((state, start)) = self.ready.at(index) else { break };
                let to = match nfa.state(state) {
                    State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                    State::Sparse(transitions) => transitions.matches_byte(byte),
                    State::Dense(transitions) => transitions.matches_byte(byte),
                    _ => None,
                };
                let Some(to) = to else { continue };
                if follow(nfa, to, start, None, &mut self.next, &mut self.stack) {
                    has_matched = true;
                    if cuts {
                        break;
                    }
                }
            }
            std::mem::swap(&mut self.ready, &mut self.next);
        }
        std::mem::swap(&mut self.waiting, &mut self.ready);
        self.previous = Some(character);
        has_matched
    }

    /// Whether a match that is not empty is certain if the text ends here. The run can go on as if it had not been asked.
    pub fn matches_at_end(&mut self, nfa: &NFA, at: u64) -> bool {
        self.resolve(nfa, at, None, false)
    }

    /// Where the earliest match begins that may still come about.
    pub fn alive_from(&self, nfa: &NFA) -> Option<u64> {
        let waits = |state: StateID| {
            matches!(
                nfa.state(state),
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Look { .. }
            )
        };
        // They are in the order of their starts.
        self.waiting.iter().find(|(state, _)| waits(*state)).map(|(_, start)| start)
    }

    /// Decides the look-arounds at `at`, and lets a match begin there.
    fn resolve(&mut self, nfa: &NFA, at: u64, next: Option<char>, cuts: bool) -> bool {
        let around = Around::new(self.previous, next);
        let mut has_matched = false;
        self.ready.clear();
        for index in 0..self.waiting.len() {
            let Some((state, start)) = self.waiting.at(index) else { break };
            match nfa.state(state) {
                State::Look { look, next } if around.holds(nfa, *look) => {
                    let (ready, stack) = (&mut self.ready, &mut self.stack);
                    if start < at && follow(nfa, *next, start, Some(&around), ready, stack) {
                        has_matched = true;
                        if cuts {
                            break;
                        }
                    }
                }
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => {
                    self.ready.insert(state, start);
                }
                _ => {}
            }
        }
        // An empty match is none, and cuts nothing.
        follow(nfa, nfa.start_anchored(), at, Some(&around), &mut self.ready, &mut self.stack);
        has_matched
    }
}

/// Enters a state and all that follow from it without a byte. Look-arounds are followed if what is `around` is known, else
/// they wait. Tells whether a match is among them; what has less precedence than the match is left out then.
fn follow(
    nfa: &NFA,
    state: StateID,
    start: u64,
    around: Option<&Around>,
    states: &mut States,
    stack: &mut Vec<StateID>,
) -> bool {
    stack.clear();
    stack.push(state);
    while let Some(state) = stack.pop() {
        if matches!(nfa.state(state), State::Match { .. }) {
            return true;
        }
        if !states.insert(state, start) {
            continue;
        }
        match nfa.state(state) {
            State::Union { alternates } => stack.extend(alternates.iter().rev()),
            State::BinaryUnion { alt1, alt2 } => stack.extend([*alt2, *alt1]),
            State::Capture { next, .. } => stack.push(*next),
            State::Look { look, next } => {
                if around.is_some_and(|around| around.holds(nfa, *look)) {
                    stack.push(*next);
                }
            }
            State::ByteRange { .. }
            | State::Sparse(_)
            | State::Dense(_)
            | State::Fail
            | State::Match { .. } => {}
        }
    }
    false
}

/// The characters on both sides of a place.
struct Around {
    bytes: [u8; 8],
    length: usize,
    at: usize,
}

impl Around {
    fn new(before: Option<char>, after: Option<char>) -> Self {
        let mut around = Self { bytes: [0; 8], length: 0, at: 0 };
        for (side, character) in [before, after].into_iter().enumerate() {
            if let Some(character) = character
                && let Some(rest) = around.bytes.get_mut(around.length..)
            {
                around.length += character.encode_utf8(rest).len();
            }
            if side == 0 {
                around.at = around.length;
            }
        }
        around
    }

    fn holds(&self, nfa: &NFA, look: Look) -> bool {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        nfa.look_matcher().matches(look, bytes, self.at)
    }
}

/// A set of states in the order in which they were entered, each with the start of its match.
#[derive(Debug)]
struct States {
    entered: Vec<(StateID, u64)>,
    /// Where in `entered` a state is, if it is there.
    places: Vec<u32>,
}

impl States {
    fn new(count: usize) -> Self {
        Self { entered: Vec::new(), places: vec![0; count] }
    }

    fn clear(&mut self) {
        self.entered.clear();
    }

    fn len(&self) -> usize {
        self.entered.len()
    }

    fn at(&self, index: usize) -> Option<(StateID, u64)> {
        self.entered.get(index).copied()
    }

    fn iter(&self) -> impl Iterator<Item = (StateID, u64)> {
        self.entered.iter().copied()
    }

    /// `false` if it is there already: who came first stays.
    fn insert(&mut self, state: StateID, start: u64) -> bool {
        let Some(place) = self.places.get_mut(state.as_usize()) else { return false };
        let found = self.entered.get(*place as usize);
        if found.is_some_and(|(entered, _)| *entered == state) {
            return false;
        }
        *place = u32::try_from(self.entered.len()).unwrap_or(u32::MAX);
        self.entered.push((state, start));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive_after(expression: &str, text: &str) -> Option<u64> {
        let nfa = compile(expression, 1 << 20).unwrap();
        let mut run = Run::new(&nfa);
        for (at, character) in text.char_indices() {
            run.step(&nfa, at as u64, character, true);
        }
        run.alive_from(&nfa)
    }

    #[test]
    fn only_what_a_match_may_still_grow_from_is_alive() {
        assert_eq!(alive_after("secret", "a sec"), Some(2));
        assert_eq!(alive_after("secret", "a sex"), None);
        assert_eq!(alive_after("secret", "a secret"), None);
        assert_eq!(alive_after(r"foo\s+bar", "a foo   "), Some(2));
        assert_eq!(alive_after(r"(?s)BEGIN.*?END", "a BEGIN b END c"), None);
        assert_eq!(alive_after(r"(?s)BEGIN.*END", "a BEGIN b END c"), Some(2));
        assert_eq!(alive_after(r"\bäh\b", "äh"), Some(0));
        assert_eq!(alive_after(r"\bäh\b", "xäh"), None);
        assert_eq!(alive_after("ü+", "aüü"), Some(1));
    }

    #[test]
    fn a_match_is_certain_as_soon_as_nothing_can_undo_it() {
        let nfa = compile(r"\bab\b|cd", 1 << 20).unwrap();
        let certain = |text: &str| {
            let mut run = Run::new(&nfa);
            let steps = text.char_indices();
            steps.fold(false, |found, (at, c)| run.step(&nfa, at as u64, c, false) || found)
                || run.matches_at_end(&nfa, text.len() as u64)
        };
        for (text, is) in [("ab", true), ("abx", false), ("ab.", true), ("xcdx", true), ("", false)]
        {
            assert_eq!(certain(text), is, "{text}");
        }
    }
}
