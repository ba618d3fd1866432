//! Shapes of documents as tables, for kinds of which this build needs little more than to know that they are well-formed.
//!
//! A table says what the published schema of its kind says. Unknown fields are passed over and noted by their path. What is
//! said on an error never holds what was found.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use regex::Regex;
use serde_json::{Map, Value};

use super::{FIELDS_MAX, Refusal, parse_failed, schema_failed};

/// What a value must be.
#[derive(Clone, Copy)]
pub enum Rule {
    /// Anything.
    Any,
    /// `true` or `false`.
    Bool,
    /// `true` and nothing else.
    True,
    /// A string of so many characters.
    Text(usize, usize),
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A string that is not empty and matches an expression; what that means, in words.
    Like(&'static str, &'static str),
    /// A whole number within bounds, none below zero.
    Integer(u64, u64),
    /// A whole number of 32 bits.
    Count32,
    /// A whole number of 32 bits with a sign.
    Signed,
    /// A number within bounds.
    Number(f64, f64),
    /// A list of so many items.
    List(usize, usize, &'static Rule),
    /// An object with any names.
    Map(&'static Rule),
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object whose text field of this name says which fields it has.
    Tagged(&'static str, &'static [(&'static str, &'static [&'static [Field]])]),
    /// This or null.
    OrNull(&'static Rule),
    /// The first of these that fits; all of them, in words.
    Either(&'static [Rule], &'static str),
}

/// A field of an object.
pub struct Field {
    name: &'static str,
    needed: bool,
    rule: Rule,
}

impl Field {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// A field that must be there.
pub const fn needed(name: &'static str, rule: Rule) -> Field {
    Field { name, needed: true, rule }
}

/// A field that may be left out, but not be null unless its rule says so.
pub const fn field(name: &'static str, rule: Rule) -> Field {
    Field { name, needed: false, rule }
}

/// Any string.
pub const ANY_TEXT: Rule = Rule::Text(0, usize::MAX);
/// A string of at least one character.
pub const TEXT: Rule = Rule::Text(1, usize::MAX);
/// A whole number of 64 bits.
pub const COUNT: Rule = Rule::Integer(0, u64::MAX);
/// A whole number of 32 bits.
pub const COUNT_32: Rule = Rule::Integer(0, u32::MAX as u64);
/// A whole number from 1.
pub const POSITIVE: Rule = Rule::Integer(1, u64::MAX);
/// A list of any strings, which may be empty.
pub const TEXTS: Rule = Rule::List(0, usize::MAX, &ANY_TEXT);
/// A list of any strings, which may not be empty.
pub const SOME_TEXTS: Rule = Rule::List(1, usize::MAX, &ANY_TEXT);

/// Checks the object `value`, and notes the fields that no table knows.
pub fn check(value: &Value, rule: &Rule) -> Result<Vec<String>, Refusal> {
    let mut checked = Checked { path: Vec::new(), unknown: BTreeSet::new() };
    checked.value(value, rule)?;
    let cut = checked.unknown.len() > FIELDS_MAX;
    let mut fields: Vec<_> = checked.unknown.into_iter().take(FIELDS_MAX).collect();
    if cut {
        fields.push("...truncated".to_owned());
    }
    Ok(fields)
}

/// The text of a field, where there is one.
pub fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

/// Whether a switch that is on by default is on.
pub fn is_enabled(value: &Value) -> bool {
    value.get("enabled").and_then(Value::as_bool).unwrap_or(true)
}

thread_local! {
    static COMPILED: RefCell<HashMap<&'static str, Option<Regex>>> = RefCell::default();
}

/// Whether the text matches one of the tables' patterns, each of which is compiled once.
fn is_like(pattern: &'static str, text: &str) -> bool {
    COMPILED.with_borrow_mut(|compiled| {
        let compiled = compiled.entry(pattern).or_insert_with(|| Regex::new(pattern).ok());
        compiled.as_ref().is_some_and(|pattern| pattern.is_match(text))
    })
}

enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

struct Checked<'a> {
    path: Vec<Step<'a>>,
    unknown: BTreeSet<String>,
}

impl<'a> Checked<'a> {
    fn value(&mut self, value: &'a Value, rule: &Rule) -> Result<(), Refusal> {
        match rule {
            Rule::Any => Ok(()),
            Rule::Bool => self.expect(value.is_boolean(), "a boolean"),
            Rule::True => self.expect(value == &Value::Bool(true), "true"),
            Rule::Text(min, max) => {
                let length = value.as_str().map(|text| text.chars().count());
                let fits = length.is_some_and(|length| (*min..=*max).contains(&length));
                match (*min, *max) {
                    (0, usize::MAX) => self.expect(fits, "a string"),
                    (1, usize::MAX) => self.expect(fits, "a string of at least one character"),
                    (min, max) => {
                        self.expect(fits, &format!("a string of {min} to {max} characters"))
                    }
                }
            }
            Rule::Choice(words) => {
                let fits = value.as_str().is_some_and(|text| words.contains(&text));
                self.expect(fits, &format!("one of `{}`", words.join("`, `")))
            }
            Rule::Like(pattern, meaning) => {
                let fits =
                    value.as_str().is_some_and(|text| !text.is_empty() && is_like(pattern, text));
                self.expect(fits, meaning)
            }
            Rule::Integer(min, max) => self.integer(value, *min, *max),
            Rule::Count32 => {
                self.integer(value, 0, u64::MAX)?;
                match value.as_u64().map(u32::try_from) {
                    Some(Ok(_)) => Ok(()),
                    // As for `Signed`.
                    _ => Err(parse_failed(&self.pointer(), "expected an integer of 32 bits")),
                }
            }
            Rule::Signed => {
                let expected = "an integer of 32 bits";
                let is_whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
                self.expect(is_whole, expected)?;
                match value.as_i64().map(i32::try_from) {
                    Some(Ok(_)) => Ok(()),
                    // The published schema sets no bounds; what reads the documents after it does.
                    _ => Err(parse_failed(&self.pointer(), &format!("expected {expected}"))),
                }
            }
            Rule::Number(min, max) => {
                let fits = value.as_f64().is_some_and(|number| (*min..=*max).contains(&number));
                self.expect(fits, &format!("a number between {min} and {max}"))
            }
            Rule::List(min, max, rule) => self.list(value, (*min, *max), rule),
            Rule::Map(rule) => match value {
                Value::Object(members) => members
                    .iter()
                    .try_for_each(|(name, member)| self.below(Step::Field(name), member, rule)),
                _ => self.expect(false, "an object"),
            },
            Rule::Object(fields) => self.object(value, &[fields], None),
            Rule::Tagged(tag, kinds) => self.tagged(value, tag, kinds),
            Rule::OrNull(rule) => {
                if value.is_null() {
                    Ok(())
                } else {
                    self.value(value, rule)
                }
            }
            Rule::Either(rules, meaning) => self.either(value, rules, meaning),
        }
    }

    fn expect(&self, fits: bool, what: &str) -> Result<(), Refusal> {
        if fits { Ok(()) } else { Err(schema_failed(&self.pointer(), &format!("expected {what}"))) }
    }

    fn integer(&self, value: &Value, min: u64, max: u64) -> Result<(), Refusal> {
        let expected = if max == u64::MAX {
            format!("an integer from {min}")
        } else {
            format!("an integer between {min} and {max}")
        };
        // The published schemas would take 5.0 for an integer; what reads the documents after them would not.
        let float = value.as_f64().filter(|number| value.is_f64() && number.fract() == 0.0);
        if float.is_some_and(|number| number >= min as f64 && number <= max as f64) {
            return Err(parse_failed(&self.pointer(), &format!("expected {expected}")));
        }
        let fits = value.as_u64().is_some_and(|number| (min..=max).contains(&number));
        self.expect(fits, &expected)
    }

    fn list(
        &mut self,
        value: &'a Value,
        (min, max): (usize, usize),
        rule: &Rule,
    ) -> Result<(), Refusal> {
        let Value::Array(items) = value else { return self.expect(false, "a list") };
        if !(min..=max).contains(&items.len()) {
            let expected = match max {
                usize::MAX => format!("at least {min} items"),
                max => format!("{min} to {max} items"),
            };
            return self.expect(false, &expected);
        }
        let mut items = items.iter().enumerate();
        items.try_for_each(|(index, item)| self.below(Step::Item(index), item, rule))
    }

    fn below(&mut self, step: Step<'a>, value: &'a Value, rule: &Rule) -> Result<(), Refusal> {
        self.path.push(step);
        let checked = self.value(value, rule);
        self.path.pop();
        checked
    }

    /// An object whose fields are those of all the tables.
    fn object(
        &mut self,
        value: &'a Value,
        tables: &[&[Field]],
        tag: Option<&str>,
    ) -> Result<(), Refusal> {
        let Value::Object(members) = value else { return self.expect(false, "an object") };
        let fields = || tables.iter().flat_map(|fields| fields.iter());
        for field in fields() {
            match members.get_key_value(field.name) {
                Some((name, member)) => self.below(Step::Field(name), member, &field.rule)?,
                None if field.needed => {
                    let expected = format!("missing field `{}`", field.name);
                    return Err(schema_failed(&self.pointer(), &expected));
                }
                None => {}
            }
        }
        for name in members.keys() {
            if tag != Some(name.as_str()) && fields().all(|field| field.name != name.as_str()) {
                self.note(name);
            }
        }
        Ok(())
    }

    fn tagged(
        &mut self,
        value: &'a Value,
        tag: &str,
        kinds: &[(&str, &[&[Field]])],
    ) -> Result<(), Refusal> {
        let Value::Object(members) = value else { return self.expect(false, "an object") };
        let Some((name, kind)) = members.get_key_value(tag) else {
            return Err(schema_failed(&self.pointer(), &format!("missing field `{tag}`")));
        };
        let known = kinds.iter().find(|(known, _)| kind.as_str() == Some(known));
        if let Some((_, tables)) = known {
            return self.object(value, tables, Some(tag));
        }
        let known: Vec<_> = kinds.iter().map(|(known, _)| *known).collect();
        self.path.push(Step::Field(name));
        self.expect(false, &format!("one of `{}`", known.join("`, `")))
    }

    fn either(&mut self, value: &'a Value, rules: &[Rule], meaning: &str) -> Result<(), Refusal> {
        for rule in rules {
            let mut tried =
                Checked { path: std::mem::take(&mut self.path), unknown: BTreeSet::new() };
            let depth = tried.path.len();
            let fits = tried.value(value, rule).is_ok();
            tried.path.truncate(depth);
            self.path = tried.path;
            if fits {
                self.unknown.extend(tried.unknown);
                return Ok(());
            }
        }
        self.expect(false, meaning)
    }

    fn note(&mut self, name: &str) {
        if self.unknown.len() > FIELDS_MAX {
            return;
        }
        let mut path: Vec<_> = self
            .path
            .iter()
            .map(|step| match step {
                Step::Field(name) => *name,
                Step::Item(_) => "[]",
            })
            .collect();
        path.push(name);
        self.unknown.insert(path.join("."));
    }

    fn pointer(&self) -> String {
        let steps = self.path.iter().map(|step| match step {
            Step::Field(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
            Step::Item(index) => format!("/{index}"),
        });
        steps.collect()
    }
}

/// Whether any of these fields is there, with whatever value.
pub fn has_any(members: &Map<String, Value>, names: &[&str]) -> bool {
    names.iter().any(|name| members.contains_key(*name))
}
