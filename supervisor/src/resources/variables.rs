//! `${NAME}` in the texts of a resources file: the value of the variable NAME stands there.

use serde_json::Value;

use super::Lookup;

/// Puts the variables' values into every text of `value`. The error names the place and the variable.
pub fn fill(value: &mut Value, lookup: Lookup<'_>) -> Result<(), String> {
    walk(value, "", lookup)
}

fn walk(value: &mut Value, at: &str, lookup: Lookup<'_>) -> Result<(), String> {
    match value {
        Value::String(text) => {
            if text.contains("${") {
                *text = filled(text, lookup).map_err(|reason| format!("{at}: {reason}"))?;
            }
            Ok(())
        }
        Value::Array(items) => {
            let mut items = items.iter_mut().enumerate();
            items.try_for_each(|(index, item)| walk(item, &format!("{at}[{index}]"), lookup))
        }
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, field)| {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            walk(field, &at, lookup)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn filled(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let name = after.split_once('}').filter(|(name, _)| is_name(name));
        let (name, after) =
            name.ok_or("holds ${ that does not begin the name of a variable such as ${NAME}")?;
        let value = lookup(name).ok_or_else(|| format!("the variable {name} is not set"))?;
        result.push_str(before);
        result.push_str(&value);
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

fn is_name(name: &str) -> bool {
    let inner = |c: char| c == '_' || c.is_ascii_alphanumeric();
    name.starts_with(|c: char| inner(c) && !c.is_ascii_digit()) && name.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "KEY" => Some("sk-1".to_owned()),
            "LOOP" => Some("${KEY}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_stand_in_any_text_once() {
        let mut value = json!({"a": ["${KEY}", "x${KEY}y${KEY}", 7], "b": {"c": "$KEY ${LOOP}"}});
        fill(&mut value, &lookup).unwrap();
        assert_eq!(value, json!({"a": ["sk-1", "xsk-1ysk-1", 7], "b": {"c": "$KEY ${KEY}"}}));
    }

    #[test]
    fn a_variable_that_is_not_there_is_told_with_its_place() {
        let told = |value: Value| fill(&mut { value }, &lookup).unwrap_err();
        assert_eq!(told(json!({"a": [{"b": "${NOPE}"}]})), "a[0].b: the variable NOPE is not set");
        for text in ["${", "${}", "${a b}", "${1A}", "x ${KEY"] {
            assert!(told(json!({"secret": text})).starts_with("secret: holds ${"), "{text}");
        }
    }
}
