//! Keys that this build accepts without acting on them. They are checked all the same: a mistake shows now, rather than on
//! the day when they come into effect.

use std::ops::RangeInclusive;

use regex::{Regex, RegexBuilder};

use super::error::Problem;
use super::observability::edges;
use super::raw::Raw;
use super::value::Object;

/// Limits of the rules that name client programs. As published.
const CLIENT_RULES_MAX: usize = 64;
const PATTERN_BYTES: RangeInclusive<usize> = 1..=512;
const CLIENT_BYTES: RangeInclusive<usize> = 1..=64;

/// The keys of one Redis connection.
struct Redis {
    backend: &'static str,
    group: &'static str,
    mode: &'static str,
    url: &'static str,
    nodes: &'static str,
    sentinels: &'static str,
    master_name: &'static str,
}

const CACHE: Redis = Redis {
    backend: "cache.backend",
    group: "cache.redis.",
    mode: "cache.redis.mode",
    url: "cache.redis.url",
    nodes: "cache.redis.nodes",
    sentinels: "cache.redis.sentinels",
    master_name: "cache.redis.master_name",
};

const RATE_LIMIT: Redis = Redis {
    backend: "ratelimit.backend",
    group: "ratelimit.redis.",
    mode: "ratelimit.redis.mode",
    url: "ratelimit.redis.url",
    nodes: "ratelimit.redis.nodes",
    sentinels: "ratelimit.redis.sentinels",
    master_name: "ratelimit.redis.master_name",
};

/// Whether every pending key can be used one day.
pub fn check(raw: &Raw) -> Result<(), Problem> {
    edges(raw, "observability.metrics.buckets.guardrail_latency")?;
    edges(raw, "observability.metrics.buckets.a2a_ttfb")?;
    otlp(raw, "observability.metrics.otlp.enabled", "observability.metrics.otlp.endpoint")?;
    otlp(raw, "observability.tracing.otlp.enabled", "observability.tracing.otlp.endpoint")?;
    sample_ratio(raw)?;
    redis(raw, &CACHE)?;
    redis(raw, &RATE_LIMIT)?;
    const TTL: &str = "ratelimit.concurrency_ttl_secs";
    if raw.text(RATE_LIMIT.backend) == Some("redis") && raw.integer(TTL) == Some(0) {
        return Err(raw.problem(TTL, "must be at least 1 with ratelimit.backend: redis"));
    }
    if raw.text("proxy.tls.cert_file").is_some() != raw.text("proxy.tls.key_file").is_some() {
        let both = "proxy.tls.cert_file and proxy.tls.key_file must be set together";
        return Err(Problem::Together(both.to_owned()));
    }
    client_type_rules(raw)?;
    url_rewrites(raw)
}

fn otlp(raw: &Raw, enabled: &'static str, endpoint: &'static str) -> Result<(), Problem> {
    if raw.flag(enabled) && raw.text(endpoint).is_none() {
        return Err(Problem::Missing { key: endpoint, reason: "the exporter is enabled" });
    }
    Ok(())
}

fn sample_ratio(raw: &Raw) -> Result<(), Problem> {
    const KEY: &str = "observability.tracing.otlp.sample_ratio";
    match raw.number(KEY) {
        Some(ratio) if !(0.0..=1.0).contains(&ratio) => {
            Err(raw.problem(KEY, format!("must be between 0 and 1, found {ratio}")))
        }
        _ => Ok(()),
    }
}

fn redis(raw: &Raw, keys: &Redis) -> Result<(), Problem> {
    let written = !raw.written(|key| key.name.starts_with(keys.group)).is_empty();
    if raw.text(keys.backend) != Some("redis") && !written {
        return Ok(());
    }
    let missing = match raw.text(keys.mode) {
        Some("cluster") if raw.texts(keys.nodes).is_empty() => keys.nodes,
        Some("sentinel") if raw.texts(keys.sentinels).is_empty() => keys.sentinels,
        Some("sentinel") if raw.text(keys.master_name).is_none() => keys.master_name,
        Some("single") if raw.secret(keys.url).is_none() => keys.url,
        _ => return Ok(()),
    };
    Err(Problem::Missing { key: missing, reason: "the chosen Redis mode needs it" })
}

fn client_type_rules(raw: &Raw) -> Result<(), Problem> {
    const KEY: &str = "observability.metrics.client_type_rules";
    let rules = raw.objects(KEY);
    if rules.len() > CLIENT_RULES_MAX {
        return Err(
            raw.problem(KEY, format!("at most {CLIENT_RULES_MAX} rules, found {}", rules.len()))
        );
    }
    for (index, rule) in rules.iter().enumerate() {
        client_type_rule(rule)
            .map_err(|reason| raw.problem(KEY, format!("entry {index}: {reason}")))?;
    }
    Ok(())
}

fn client_type_rule(rule: &Object) -> Result<(), String> {
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
    Ok(())
}

fn url_rewrites(raw: &Raw) -> Result<(), Problem> {
    const KEY: &str = "proxy.url_rewrites";
    for (index, rule) in raw.objects(KEY).iter().enumerate() {
        url_rewrite(rule).map_err(|reason| raw.problem(KEY, format!("entry {index}: {reason}")))?;
    }
    Ok(())
}

fn url_rewrite(rule: &Object) -> Result<(), String> {
    let pattern = Regex::new(field(rule, "match")?).map_err(|error| regex_error(&error))?;
    if pattern.is_match("") {
        return Err("match must not match the empty path".to_owned());
    }
    let template = field(rule, "rewrite")?;
    if template.contains(|c: char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "rewrite {template:?} must not hold ?, #, white space or control characters"
        ));
    }
    match references(template).into_iter().find(|name| !has_group(&pattern, name)) {
        Some(name) => {
            Err(format!("rewrite refers to the group {name:?}, which match does not have"))
        }
        None => Ok(()),
    }
}

fn has_group(pattern: &Regex, name: &str) -> bool {
    match name.parse::<usize>() {
        Ok(number) => number < pattern.captures_len(),
        Err(_) => pattern.capture_names().flatten().any(|known| known == name),
    }
}

/// The groups that a template names, as `$name` or `${name}`; `$$` is a dollar sign.
fn references(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('$') {
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
        {
            names.push(name);
            rest = after;
        } else {
            let end =
                rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            names.extend(rest.get(..end).filter(|name| !name.is_empty()));
        }
    }
    names
}

fn field<'a>(object: &'a Object, name: &str) -> Result<&'a str, String> {
    object.get(name).map(String::as_str).ok_or_else(|| format!("{name} is missing"))
}

/// On one line: the full text draws a picture.
fn regex_error(error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("not a regular expression: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(pattern: &str, template: &str) -> Result<(), String> {
        let fields = [("match", pattern), ("rewrite", template)];
        url_rewrite(&fields.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
    }

    #[test]
    fn a_rewrite_may_refer_to_the_groups_it_has() {
        for (pattern, template) in [
            ("^/old/(.*)$", "/new/$1"),
            ("^/(?P<rest>.+)$", "/v1/${rest}/x"),
            ("^/x", "/$$y"),
            ("^/x$", "/$0"),
        ] {
            assert_eq!(rewrite(pattern, template), Ok(()), "{pattern} {template}");
        }
    }

    #[test]
    fn a_rewrite_that_cannot_work_is_refused_with_the_reason() {
        for (pattern, template, reason) in [
            ("(", "/", "not a regular expression"),
            (".*", "/", "empty path"),
            ("^/x", "/y?z", "must not hold"),
            ("^/x", "/y z", "must not hold"),
            ("^/(x)", "/$2", "\"2\""),
            ("^/(x)", "/${name}", "\"name\""),
            ("^/(x)", "/$1a", "\"1a\""),
        ] {
            let told = rewrite(pattern, template).unwrap_err();
            assert!(told.contains(reason) && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn a_client_rule_has_a_pattern_and_a_plain_name() {
        let rule = |pattern: &str, client: &str| {
            let fields = [("pattern", pattern), ("client", client)];
            client_type_rule(&fields.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
        };
        assert_eq!(rule("MyAgent/", "my-agent.2"), Ok(()));
        for (pattern, client) in
            [("", "a"), ("(", "a"), ("x", ""), ("x", "A"), ("x", "-a"), ("x", "a b")]
        {
            assert!(rule(pattern, client).is_err(), "{pattern} {client}");
        }
        assert!(rule(&"x".repeat(513), "a").is_err());
        assert!(rule("x", &"a".repeat(65)).is_err());
    }
}
