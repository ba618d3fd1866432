//! The configuration in effect, and the names of the variables.

use std::fmt::Write;

use super::{Case, report::Report};
use crate::settings::control;
use crate::settings::error::Origin;
use crate::settings::key::{Key, Kind};
use crate::settings::value::Value;
use crate::settings::{Settings, raw::Raw};

const NOT_SHOWN: &str = "(set, not shown)";

/// Adds both.
pub fn add(case: &Case<'_>, report: &mut Report) {
    let variables = || case.environment.variables.iter().cloned();
    match case.options.config.as_deref() {
        None => report.missing("configuration.txt", "no configuration file is known"),
        Some(path) => match control::as_written(path, variables()) {
            Err(error) => report.missing("configuration.txt", error),
            Ok(raw) => {
                let mut text = format!("# {}\n", path.display());
                match Settings::load(path, variables()) {
                    Ok(_) => text.push_str("# usable\n\n"),
                    Err(error) => {
                        let _ = writeln!(text, "# not usable: {error}\n");
                    }
                }
                report.add("configuration.txt", &(text + &effective(&raw)));
            }
        },
    }
    report.missing_if("variables of the gateway", case.environment.uncertain.clone());
    let mut lines: Vec<_> = case
        .environment
        .variables
        .iter()
        .map(|(name, value)| {
            let name = name.to_string_lossy();
            match shown(&name) {
                true => format!("{name}={}\n", value.to_string_lossy()),
                false => format!("{name}\n"),
            }
        })
        .collect();
    lines.sort_unstable();
    report.add("environment.txt", &lines.concat());
}

/// Every value with its place.
fn effective(raw: &Raw) -> String {
    let mut text = String::new();
    for (key, value, origin) in raw.values() {
        let place = match origin {
            Origin::Default => "default".to_owned(),
            origin => origin.to_string(),
        };
        let _ = writeln!(text, "{} = {}    # {place}", key.name, of(key, value));
    }
    text
}

fn of(key: &Key, value: &Value) -> String {
    match value {
        _ if !is_open(key) => NOT_SHOWN.to_owned(),
        Value::Absent => String::new(),
        Value::Bool(it) => it.to_string(),
        Value::Integer(it) => it.to_string(),
        Value::Number(it) => it.to_string(),
        Value::Text(it) => format!("{it:?}"),
        Value::Secret(_) => NOT_SHOWN.to_owned(),
        Value::Texts(it) => format!("{it:?}"),
        Value::Numbers(it) => format!("{it:?}"),
        Value::Objects(it) => format!("{it:?}"),
    }
}

/// Whether the value of the key is no secret, and short enough to be read.
fn is_open(key: &Key) -> bool {
    key.kind != Kind::Secret && key.name != "admin.admin_keys" && !key.name.ends_with("_pem")
}

/// Whether the value of a variable may be shown: it is that of a key without a secret, or says where the configuration is.
fn shown(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let key = upper.strip_prefix("AISIX_").map(|rest| rest.to_ascii_lowercase().replace("__", "."));
    matches!(upper.as_str(), "AISIX_CONFIG" | "AISIX_CONFIG_PATH" | "RUST_LOG")
        || key.and_then(|name| Key::find(&name)).is_some_and(is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_without_a_secret_are_shown_with_their_values() {
        for name in ["AISIX_PROXY__ADDR", "aisix_managed__cp_base_url", "AISIX_CONFIG"] {
            assert!(shown(name), "{name}");
        }
        for name in [
            "AISIX_MANAGED__CP_KEY_PEM",
            "AISIX_MANAGED__PROXY_URL",
            "AISIX_CACHE__REDIS__PASSWORD",
            "AISIX_ADMIN__ADMIN_KEYS",
            "AISIX_ETCD_PASSWORD",
            "PATH",
        ] {
            assert!(!shown(name), "{name}");
        }
    }

    #[test]
    fn every_value_stands_with_where_it_was_written() {
        let mut raw = Raw::defaults();
        let key = |name| Key::find(name).unwrap();
        let variable = Origin::Variable("V".to_owned());
        raw.set(key("proxy.addr"), Value::Text("127.0.0.1:1".to_owned()), variable.clone());
        let secret = Value::Secret(shared::secret::Secret::new("hidden".to_owned()));
        raw.set(key("cache.redis.password"), secret, variable);
        let text = effective(&raw);
        assert!(text.contains("proxy.addr = \"127.0.0.1:1\"    # V\n"), "{text}");
        assert!(text.contains("cache.redis.password = (set, not shown)    # V\n"), "{text}");
        assert!(text.contains("upstream.retries = 2    # default\n") && !text.contains("hidden"));
    }
}
