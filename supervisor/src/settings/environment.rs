//! Configuration from the environment: `AISIX_`, the path of the key in capitals, `__` between its levels.
//!
//! Every variable with that prefix is configuration, and an unknown one is an error, except what other parties set with
//! the same prefix: see [`is_foreign`].

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{Origin, Problem};
use super::key::Key;
use super::raw::Raw;
use super::value::Value;

const PREFIX: &str = "AISIX_";

/// Variables that are published under a name that is no path, and the key each of them sets.
const PUBLISHED: [(&str, &str); 1] =
    [("AISIX_DP_BUDGET_STALE_MAX_SECONDS", "managed.budget_stale_max_secs")];

/// Variables that choose the configuration file; they are read before it.
const FILE: [&str; 2] = ["AISIX_CONFIG", "AISIX_CONFIG_PATH"];

/// The variables of a process, by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// What the environment had to say.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Variables with our prefix that are nobody's configuration.
    pub ignored: Vec<String>,
}

/// Reads all configuration of the environment into `raw`.
pub fn read(environment: &Environment, raw: &mut Raw) -> Findings {
    let mut findings = Findings::default();
    let mut unknown = Vec::new();
    let mut set: BTreeMap<&str, (&str, &OsString)> = BTreeMap::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else {
            if name.as_encoded_bytes().to_ascii_uppercase().starts_with(PREFIX.as_bytes()) {
                let text = format!("the name of the variable {name:?} is not UTF-8; remove it");
                findings.problems.push(Problem::Together(text));
            }
            continue;
        };
        let upper = name.to_ascii_uppercase();
        let Some(path) = upper.strip_prefix(PREFIX) else { continue };
        if FILE.contains(&upper.as_str()) {
            continue;
        }
        let path = path.to_ascii_lowercase().replace("__", ".");
        let published = PUBLISHED.iter().find(|(variable, _)| *variable == upper);
        match Key::find(published.map_or(path.as_str(), |(_, key)| key)) {
            Some(key) => {
                let origin = Origin::Variable(name.to_owned());
                // Names count in any case, so two variables may mean one key.
                if let Some((other, before)) = set.insert(key.name, (name, value))
                    && before != value
                {
                    let text =
                        format!("{other} and {name} both set {}, differently; keep one", key.name);
                    findings.problems.push(Problem::Together(text));
                }
                let value = match value.to_str() {
                    Some(value) => Value::from_variable(key.kind, value),
                    None => Err("its value is not UTF-8".to_owned()),
                };
                match value {
                    Ok(value) => raw.set(key, value, origin),
                    Err(reason) => findings.problems.push(Problem::Kind {
                        key: key.name.to_owned(),
                        origin,
                        reason,
                    }),
                }
            }
            None if is_foreign(&upper) => findings.ignored.push(name.to_owned()),
            None => unknown.push((name, path)),
        }
    }
    // Its name is free, and known only now.
    let password = raw.text("etcd.password_env");
    for (variable, name) in unknown.into_iter().filter(|(name, _)| password != Some(name)) {
        let origin = Origin::Variable(variable.to_owned());
        findings.problems.push(Problem::UnknownKey { name, origin });
    }
    findings
}

/// Whether a container platform sets such a variable for a service whose name begins with `aisix`: `AISIX_PORT`,
/// `AISIX_SERVICE_HOST`, `AISIX_GATEWAY_PORT_3000_TCP_ADDR` and the like.
///
/// Levels of our keys are joined by two underscores, and none of them is called like that, so no key is hidden.
fn is_foreign(upper: &str) -> bool {
    let Some(rest) = upper.strip_prefix(PREFIX).filter(|rest| !rest.contains("__")) else {
        return false;
    };
    let words: Vec<&str> = rest.split('_').collect();
    (0..words.len()).any(|start| match words.get(start..) {
        Some(["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["PORT"]) => true,
        Some(["PORT", number, protocol, end @ ..]) => {
            number.parse::<u16>().is_ok()
                && ["TCP", "UDP", "SCTP"].contains(protocol)
                && matches!(end, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::key::KEYS;
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn read_all(variables: &[(&str, &str)]) -> (Raw, Findings) {
        let mut raw = Raw::defaults();
        let findings = read(&environment(variables), &mut raw);
        (raw, findings)
    }

    #[test]
    fn a_variable_sets_the_key_of_its_path_in_any_case() {
        for name in ["AISIX_PROXY__REAL_IP__HEADER", "aisix_proxy__real_ip__header"] {
            let (raw, findings) = read_all(&[(name, "forwarded")]);
            assert!(findings.problems.is_empty(), "{:?}", findings.problems);
            assert_eq!(raw.text("proxy.real_ip.header"), Some("forwarded"));
        }
        let (raw, _) = read_all(&[("AISIX_BEDROCK_ENDPOINT_URL", "http://localhost")]);
        assert_eq!(raw.text("bedrock_endpoint_url"), Some("http://localhost"));
    }

    #[test]
    fn every_key_but_the_lists_of_nodes_can_be_set_by_its_variable() {
        for key in KEYS {
            let (_, findings) = read_all(&[(&Key::variable(key.name), "")]);
            assert!(findings.problems.is_empty(), "{}: {:?}", key.name, findings.problems);
            assert!(findings.ignored.is_empty(), "{}", key.name);
        }
        let (_, findings) = read_all(&[("AISIX_CACHE__REDIS__NODES", "a:1")]);
        assert!(findings.problems[0].to_string().contains("no form as a variable"));
    }

    #[test]
    fn variables_that_other_parties_set_are_no_configuration() {
        let foreign = [
            "AISIX_PORT",
            "AISIX_PORT_3000_TCP",
            "AISIX_PORT_3000_TCP_ADDR",
            "AISIX_PORT_3000_TCP_PORT",
            "AISIX_PORT_3000_TCP_PROTO",
            "AISIX_SERVICE_HOST",
            "AISIX_SERVICE_PORT",
            "AISIX_SERVICE_PORT_HTTP_PROXY",
            "AISIX_GATEWAY_SERVICE_HOST",
            "AISIX_GATEWAY_PORT",
            "AISIX_GATEWAY_PORT_53_UDP_ADDR",
        ];
        for name in foreign {
            let (_, findings) = read_all(&[(name, "tcp://10.0.0.1:3000")]);
            assert!(findings.problems.is_empty(), "{:?}", findings.problems);
            assert_eq!(findings.ignored, [name]);
        }
        let (_, findings) =
            read_all(&[("AISIX_CONFIG", "/a"), ("AISIX_CONFIG_PATH", "/b"), ("PATH", "")]);
        assert!(findings.problems.is_empty() && findings.ignored.is_empty());
    }

    #[test]
    fn no_key_is_taken_for_a_variable_of_another_party() {
        assert!(KEYS.iter().all(|key| !is_foreign(&Key::variable(key.name))));
        let (raw, _) = read_all(&[("AISIX_PROXY__ADDR", "127.0.0.1:3000")]);
        assert_eq!(raw.text("proxy.addr"), Some("127.0.0.1:3000"));
        for name in
            ["AISIX_PROXY__PORT", "AISIX_PORT_X_TCP", "AISIX_PORT_3000_TCP_X", "AISIX_PROXY"]
        {
            let (_, findings) = read_all(&[(name, "1")]);
            assert!(matches!(findings.problems[..], [Problem::UnknownKey { .. }]), "{name}");
        }
    }

    #[test]
    fn the_published_name_of_the_budget_limit_works() {
        let (raw, findings) = read_all(&[("AISIX_DP_BUDGET_STALE_MAX_SECONDS", "120")]);
        assert!(findings.problems.is_empty());
        assert_eq!(raw.integer("managed.budget_stale_max_secs"), Some(120));
    }

    #[test]
    fn the_variable_that_holds_the_etcd_password_may_have_any_name() {
        let password = ("AISIX_ETCD_PASSWORD", "0123");
        let (_, findings) =
            read_all(&[password, ("AISIX_ETCD__PASSWORD_ENV", "AISIX_ETCD_PASSWORD")]);
        assert!(findings.problems.is_empty(), "{:?}", findings.problems);
        let (_, findings) = read_all(&[password]);
        assert_eq!(
            findings.problems[0].to_string(),
            "unknown key etcd_password (AISIX_ETCD_PASSWORD); did you mean AISIX_ETCD__PASSWORD_ENV?"
        );
    }

    #[test]
    fn unknown_variables_are_all_named_with_the_nearest_known_one() {
        let (_, findings) =
            read_all(&[("AISIX_PROXY_ADDR", "x"), ("AISIX_MANAGED__CP_BASE_URI", "x")]);
        let texts: Vec<_> = findings.problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].ends_with("did you mean AISIX_MANAGED__CP_BASE_URL?"), "{texts:?}");
        assert!(texts[1].ends_with("did you mean AISIX_PROXY__ADDR?"), "{texts:?}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_the_key_and_the_variable() {
        let (_, findings) = read_all(&[("AISIX_PROXY__WORKERS", "many")]);
        assert_eq!(
            findings.problems[0].to_string(),
            "proxy.workers (AISIX_PROXY__WORKERS): expected a whole number from 0, found \"many\""
        );
    }
}
