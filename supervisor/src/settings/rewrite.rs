//! Rules that give a request another path before it is routed.
//!
//! A match is looked for in the path as it came, still percent-encoded; the first rule that matches counts, and the result
//! is not rewritten again. A rule that could not work ends the start.

use regex::Regex;
use shared::worker_settings::UrlRewrite;

use super::error::Problem;
use super::raw::Raw;
use super::value::Object;

/// The rules in their order.
pub fn rules(raw: &Raw) -> Result<Vec<UrlRewrite>, Problem> {
    const KEY: &str = "proxy.url_rewrites";
    let rules = raw.objects(KEY).iter().enumerate().map(|(index, entry)| {
        rule(entry).map_err(|reason| raw.problem(KEY, format!("entry {index}: {reason}")))
    });
    rules.collect()
}

fn rule(rule: &Object) -> Result<UrlRewrite, String> {
    let text = field(rule, "match")?;
    let pattern = Regex::new(text).map_err(|error| regex_error(&error))?;
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
        None => Ok(UrlRewrite { pattern: text.to_owned(), template: template.to_owned() }),
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

/// A text that every entry of a list must have.
pub fn field<'a>(object: &'a Object, name: &str) -> Result<&'a str, String> {
    object.get(name).map(String::as_str).ok_or_else(|| format!("{name} is missing"))
}

/// On one line: the full text draws a picture.
pub fn regex_error(error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("not a regular expression: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(pattern: &str, template: &str) -> Result<(), String> {
        let fields = [("match", pattern), ("rewrite", template)];
        rule(&fields.map(|(name, text)| (name.to_owned(), text.to_owned())).into()).map(drop)
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
}
