//! Several guardrails in order, on one text.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Rule;
use super::look::{Refused, Stage, Tally};

/// What a guardrail has done at one side of a request.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// What it has found.
    pub tally: Tally,
    /// Whether it has refused, or would have.
    pub has_refused: bool,
    /// Whether more would have had to be held back than it may.
    pub is_overfull: bool,
    /// How long it took.
    pub took: Duration,
}

/// All of a text at once, past every guardrail. Returns it as it may go on, if it is changed.
///
/// # Errors
/// It must not go on: which guardrail says so.
pub fn whole(
    rules: &[Rc<Rule>],
    text: &str,
    is_json: bool,
    records: &mut [Record],
) -> Result<Option<String>, usize> {
    let mut text = Cow::Borrowed(text);
    for (index, (rule, record)) in rules.iter().zip(records).enumerate() {
        if rule.is_monitor && record.has_refused {
            continue;
        }
        let begun = Instant::now();
        let mut seen = Ok(text.clone());
        for look in rule.looks.iter().flatten() {
            seen = seen.and_then(|text| look.whole(text, is_json, &mut record.tally));
        }
        record.took += begun.elapsed();
        record.has_refused |= seen.is_err();
        match seen {
            _ if rule.is_monitor => {}
            Ok(changed) => text = changed,
            Err(Refused) => return Err(index),
        }
    }
    Ok(match text {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(text),
    })
}

/// Guardrails on their way through one text that comes in pieces. All methods must be given the same rules.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
}

/// One guardrail on its way.
#[derive(Debug)]
struct Link {
    stages: Vec<Stage>,
    /// Whether it looks no more.
    is_over: bool,
}

impl Chain {
    /// At the beginning of a text. `is_json`: it is JSON itself.
    pub fn new(rules: &[Rc<Rule>], is_json: bool) -> Self {
        let link = |rule: &Rc<Rule>| Link {
            stages: rule.looks.iter().flatten().map(|look| Stage::new(look, is_json)).collect(),
            is_over: false,
        };
        Self { links: rules.iter().map(link).collect() }
    }

    /// Takes the next piece. Returns what can be let go of.
    ///
    /// # Errors
    /// The text must not go on, and nothing more of it: which guardrail says so.
    pub fn push(
        &mut self,
        rules: &[Rc<Rule>],
        records: &mut [Record],
        piece: &str,
    ) -> Result<String, usize> {
        self.pass(rules, records, 0, piece.to_owned(), false)
    }

    /// The text ends here, as far as is known. Returns all that was held back.
    ///
    /// # Errors
    /// As with [`Chain::push`].
    pub fn flush(&mut self, rules: &[Rc<Rule>], records: &mut [Record]) -> Result<String, usize> {
        self.pass(rules, records, 0, String::new(), true)
    }

    /// The guardrail at `index` lets go of everything unseen, and looks no more. Returns what comes of it.
    ///
    /// # Errors
    /// As with [`Chain::push`]: another one refuses it.
    pub fn open(
        &mut self,
        rules: &[Rc<Rule>],
        records: &mut [Record],
        index: usize,
    ) -> Result<String, usize> {
        let mut released = String::new();
        if let Some((link, rule)) = self.links.get_mut(index).zip(rules.get(index)) {
            link.is_over = true;
            if rule.is_monitor {
                // It holds nothing back but copies.
                return Ok(released);
            }
            // What is further on came first.
            link.stages.iter_mut().rev().for_each(|stage| stage.open(&mut released));
        }
        self.pass(rules, records, index + 1, released, false)
    }

    /// Bytes that a guardrail holds back.
    pub fn held(&self, index: usize) -> usize {
        let link = self.links.get(index).filter(|link| !link.is_over);
        link.map_or(0, |link| link.stages.iter().map(Stage::held).sum())
    }

    /// Whether anything is held back from the caller.
    pub fn is_holding(&self, rules: &[Rc<Rule>]) -> bool {
        let mut each = rules.iter().enumerate();
        each.any(|(index, rule)| !rule.is_monitor && self.held(index) > 0)
    }

    fn pass(
        &mut self,
        rules: &[Rc<Rule>],
        records: &mut [Record],
        first: usize,
        mut text: String,
        flush: bool,
    ) -> Result<String, usize> {
        let links = self.links.iter_mut().zip(rules).zip(records).enumerate().skip(first);
        for (index, ((link, rule), record)) in links {
            if link.is_over || (text.is_empty() && !flush) {
                continue;
            }
            let begun = Instant::now();
            let seen = link.pass(rule, &text, flush, &mut record.tally);
            record.took += begun.elapsed();
            record.has_refused |= seen.is_err();
            match (seen, rule.is_monitor) {
                (Ok(passed), false) => text = passed,
                (Err(Refused), false) => return Err(index),
                (Ok(_), true) => {}
                (Err(Refused), true) => link.is_over = true,
            }
        }
        Ok(text)
    }
}

impl Link {
    fn pass(
        &mut self,
        rule: &Rule,
        text: &str,
        flush: bool,
        tally: &mut Tally,
    ) -> Result<String, Refused> {
        let mut text = text.to_owned();
        for (stage, look) in self.stages.iter_mut().zip(rule.looks.iter().flatten()) {
            let mut passed = String::new();
            stage.push(look, &text, &mut passed, tally)?;
            if flush {
                stage.flush(look, &mut passed, tally)?;
            }
            text = passed;
        }
        Ok(text)
    }
}
