//! Secrets, removed from whatever is written: those that are known of this gateway, and what looks like one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use regex::Regex;
use serde_json::Value as Json;
use shared::secret::Secret;

use super::Case;
use crate::resources;
use crate::settings::control;
use crate::settings::value::Value;

/// What stands in place of a secret.
const GONE: &str = "(removed)";
/// What is shorter is a word rather than a secret, and would be found everywhere.
const BYTES_MIN: usize = 6;
/// Lines of a key that are shorter are not told apart from others.
const KEY_LINE_MIN: usize = 16;
/// No file of a key is larger.
const KEY_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Lists of texts that are secrets.
const SECRET_LISTS: [&str; 1] = ["admin.admin_keys"];
/// Keys that name a file with a private key.
const KEY_FILES: [&str; 6] = [
    "managed.cp_key_file",
    "proxy.tls.key_file",
    "etcd.tls.client_key_file",
    "upstream.tls.client_key_file",
    "cache.redis.tls.client_key_file",
    "ratelimit.redis.tls.client_key_file",
];
/// What a name has that names a secret.
const WORDS: [&str; 7] =
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTHORIZATION"];

/// What looks like a secret, and what stands in its place.
const PATTERNS: [(&str, &str); 8] = [
    // A private key, whole or cut off at its end.
    (
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
        GONE,
    ),
    (r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}", "${1}${2}(removed)"),
    (r"\b(?:sk|pk|rk|xai|gsk|hf|ghp|glpat)[-_][A-Za-z0-9_-]{8,}", GONE),
    (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", GONE),
    (r"\bAIza[0-9A-Za-z_-]{30,}", GONE),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?", GONE),
    // User and password of a URL.
    (r#"://[^/\s@"']+@"#, "://(removed)@"),
    (
        r#"(?i)((?:api[_-]?key|password|passwd|secret|secret_access_key|access_token|authorization)\\?["']?\s*[:=]\s*\\?["']?)[^\s"'\\,;&}()]{6,}"#,
        "${1}(removed)",
    ),
];

/// Removes secrets.
pub struct Redactor {
    known: Vec<Secret<String>>,
    patterns: Vec<(Regex, &'static str)>,
}

impl Redactor {
    /// Knows these, and what looks like one.
    pub fn new(known: BTreeSet<String>) -> Self {
        let mut known: Vec<_> = known.into_iter().filter(|it| it.len() >= BYTES_MIN).collect();
        // One may be part of another.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let patterns =
            PATTERNS.iter().filter_map(|(text, instead)| Some((Regex::new(text).ok()?, *instead)));
        Self { known: known.into_iter().map(Secret::new).collect(), patterns: patterns.collect() }
    }

    /// The text without secrets.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret.expose().as_str()) {
                text = text.replace(secret.expose().as_str(), GONE);
            }
        }
        for (pattern, instead) in &self.patterns {
            text = pattern.replace_all(&text, *instead).into_owned();
        }
        text
    }
}

/// Knows the secrets of this gateway, as far as they can be known here.
pub fn of_case(case: &Case<'_>) -> Redactor {
    let mut known = BTreeSet::new();
    for (name, value) in &case.environment.variables {
        let name = name.to_string_lossy().to_ascii_uppercase();
        // A path is no secret, and is needed.
        let is_path = name.ends_with("_FILE") || name.ends_with("_PATH") || name.ends_with("_DIR");
        if !is_path && WORDS.iter().any(|word| name.contains(word)) {
            secret(&value.to_string_lossy(), &mut known);
        }
    }
    let config = case.options.config.as_deref();
    let variables = case.environment.variables.iter().cloned();
    let raw = config.and_then(|config| control::as_written(config, variables).ok());
    let Some(raw) = raw else { return Redactor::new(known) };
    for (key, value, _) in raw.values() {
        match value {
            Value::Secret(value) => secret(value.expose(), &mut known),
            Value::Texts(texts) if SECRET_LISTS.contains(&key.name) => {
                texts.iter().for_each(|text| secret(text, &mut known));
            }
            // Nodes may be URLs with a password.
            Value::Texts(texts) => texts.iter().for_each(|text| credentials(text, &mut known)),
            Value::Text(text) => credentials(text, &mut known),
            _ => {}
        }
    }
    let mut files: Vec<_> = KEY_FILES.iter().filter_map(|key| raw.path(key)).collect();
    if let Some(mtls) = raw.path("managed.mtls_dir") {
        let names = ["client.key", "previous/client.key", "next/client.key", "seal"];
        files.extend(names.map(|name| mtls.join(name)));
    }
    files.iter().for_each(|path| key_file(path, &mut known));
    if let Some(path) = raw.path("resources_file") {
        let lookup = |name: &str| {
            let mut all = case.environment.variables.iter();
            all.find(|(known, _)| known == name)
                .and_then(|(_, value)| value.to_str().map(str::to_owned))
        };
        for document in resources::load(&path, &lookup).into_iter().flat_map(|it| it.documents) {
            let json = serde_json::from_slice::<Json>(document.json.expose()).unwrap_or_default();
            in_document(&json, false, &mut known);
        }
    }
    Redactor::new(known)
}

/// A secret, in the forms in which it may be written: lines of its own, the parts of a URL, percent signs undone.
fn secret(text: &str, known: &mut BTreeSet<String>) {
    let text = text.trim();
    if text.contains("://") {
        credentials(text, known);
    }
    let text = text.replace("\\n", "\n");
    let is_pem = text.contains("-----BEGIN");
    if !is_pem {
        known.insert(text.clone());
    }
    let least = if is_pem { KEY_LINE_MIN } else { BYTES_MIN };
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    known.extend(lines.filter(|line| line.len() >= least).map(str::to_owned));
}

/// User and password of a URL.
fn credentials(url: &str, known: &mut BTreeSet<String>) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let Some((credentials, _)) = rest.rsplit_once('@') else { return };
    let password = credentials.split_once(':').map_or(credentials, |(_, password)| password);
    known.insert(password.to_owned());
    let decoded = percent_decoded(password);
    known.insert(decoded);
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hex = rest.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, length) = match (first, hex) {
            ('%', Some(byte)) => (vec![byte], 3),
            _ => (first.to_string().into_bytes(), first.len_utf8()),
        };
        bytes.extend(byte);
        rest = rest.get(length..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn key_file(path: &PathBuf, known: &mut BTreeSet<String>) {
    let is_small =
        fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() <= KEY_FILE_BYTES_MAX);
    if is_small && let Ok(text) = fs::read_to_string(path) {
        // A file may hold the chain as well, which is no secret: only what is between the lines of a key.
        let keys = text.split("-----BEGIN ").filter(|part| !part.starts_with("CERTIFICATE"));
        keys.for_each(|part| {
            let lines = part.lines().map(str::trim).filter(|line| line.len() >= KEY_LINE_MIN);
            known.extend(lines.filter(|line| !line.contains("-----")).map(str::to_owned));
        });
    }
}

/// Texts below fields whose names say that they are secrets.
fn in_document(json: &Json, is_secret: bool, known: &mut BTreeSet<String>) {
    match json {
        Json::String(text) if is_secret => secret(text, known),
        Json::Array(items) => items.iter().for_each(|item| in_document(item, is_secret, known)),
        Json::Object(fields) => {
            for (name, value) in fields {
                let upper = name.to_ascii_uppercase();
                let named =
                    WORDS.iter().any(|word| upper.contains(word)) && !upper.ends_with("_ID");
                in_document(value, is_secret || named, known);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        Redactor::new(BTreeSet::from(["swordfish".to_owned(), "abc".to_owned()])).clean(text)
    }

    #[test]
    fn every_pattern_is_one() {
        assert_eq!(Redactor::new(BTreeSet::new()).patterns.len(), PATTERNS.len());
    }

    #[test]
    fn known_secrets_go_and_short_words_stay() {
        assert_eq!(clean("x swordfish-swordfish abc"), "x (removed)-(removed) abc");
    }

    #[test]
    fn what_looks_like_a_secret_goes_and_what_stands_around_it_stays() {
        for (text, expected) in [
            ("sent Bearer abcdef.123 end", "sent Bearer (removed) end"),
            ("key sk-proj-0123456789abcdef, x", "key (removed), x"),
            ("http://user:pass@host:1/", "http://(removed)@host:1/"),
            (r#"{"api_key": "0123456789"}"#, r#"{"api_key": "(removed)"}"#),
            ("password=longenough&x=1", "password=(removed)&x=1"),
            ("AKIAIOSFODNN7EXAMPLE", "(removed)"),
            ("a eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl b", "a (removed) b"),
        ] {
            assert_eq!(clean(text), expected);
        }
    }

    #[test]
    fn private_keys_go_whole_and_cut_off_and_certificates_stay() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(clean(&format!("a\n{key}b")).trim(), "a\n(removed)\nb");
        let half = &key[..key.len() / 2];
        assert_eq!(clean(half), "(removed)");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(clean(certificate), certificate);
    }

    #[test]
    fn figures_and_names_that_only_sound_like_secrets_stay() {
        for text in [
            "aisix_tokens_total{token_type=\"input\",model=\"m\"} 12",
            "https://cloud.test:7944/path?x=y",
            "api_key_id: 0001",
            "secret (set, not shown)",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn the_password_of_a_url_is_known_in_both_its_forms() {
        let mut known = BTreeSet::new();
        secret("http://u:p%40ssword@h:1", &mut known);
        assert!(known.contains("p%40ssword") && known.contains("p@ssword"), "{known:?}");
    }

    #[test]
    fn secrets_of_documents_are_known_by_the_names_of_their_fields() {
        let json = serde_json::json!({
            "name": "visible", "api_key": "hidden-1", "nested": {"client_secret": ["hidden-2"]}, "key_id": "visible-2",
        });
        let mut known = BTreeSet::new();
        in_document(&json, false, &mut known);
        assert_eq!(known, BTreeSet::from(["hidden-1".to_owned(), "hidden-2".to_owned()]));
    }
}
