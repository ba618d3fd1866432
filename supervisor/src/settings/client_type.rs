//! Rules that name client programs by their user agent, for the tokens-by-client metric. Limits as published.

use std::ops::RangeInclusive;

use regex::RegexBuilder;
use shared::worker_settings::ClientRule;

use super::error::Problem;
use super::raw::Raw;
use super::rewrite::{field, regex_error};
use super::value::Object;

const RULES_MAX: usize = 64;
const PATTERN_BYTES: RangeInclusive<usize> = 1..=512;
const CLIENT_BYTES: RangeInclusive<usize> = 1..=64;
const KEY: &str = "observability.metrics.client_type_rules";

/// The rules in their order: each with a pattern that compiles and a plain name.
pub fn rules(raw: &Raw) -> Result<Vec<ClientRule>, Problem> {
    let rules = raw.objects(KEY);
    if rules.len() > RULES_MAX {
        return Err(raw.problem(KEY, format!("at most {RULES_MAX} rules, found {}", rules.len())));
    }
    let checked = rules.iter().enumerate().map(|(index, entry)| {
        rule(entry).map_err(|reason| raw.problem(KEY, format!("entry {index}: {reason}")))
    });
    checked.collect()
}

fn rule(rule: &Object) -> Result<ClientRule, String> {
    let pattern = field(rule, "pattern")?;
    if !PATTERN_BYTES.contains(&pattern.len()) {
        return Err(format!("pattern must have 1 to {} bytes", PATTERN_BYTES.end()));
    }
    RegexBuilder::new(pattern)
        .case_insensitive(true)
        .build()
        .map_err(|error| regex_error(&error))?;
    let client = field(rule, "client")?;
    let inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let starts_well = client.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !CLIENT_BYTES.contains(&client.len()) || !starts_well || !client.bytes().all(inner) {
        return Err(format!(
            "client {client:?} must match [a-z0-9][a-z0-9._-]* with at most {} bytes",
            CLIENT_BYTES.end()
        ));
    }
    Ok(ClientRule { pattern: pattern.to_owned(), client: client.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_rule_has_a_pattern_and_a_plain_name() {
        let read = |pattern: &str, client: &str| {
            let fields = [("pattern", pattern), ("client", client)];
            rule(&fields.map(|(name, text)| (name.to_owned(), text.to_owned())).into()).map(drop)
        };
        assert_eq!(read("MyAgent/", "my-agent.2"), Ok(()));
        for (pattern, client) in
            [("", "a"), ("(", "a"), ("x", ""), ("x", "A"), ("x", "-a"), ("x", "a b")]
        {
            assert!(read(pattern, client).is_err(), "{pattern} {client}");
        }
        assert!(read(&"x".repeat(513), "a").is_err());
        assert!(read("x", &"a".repeat(65)).is_err());
    }
}
