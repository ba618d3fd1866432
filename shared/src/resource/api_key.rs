//! A caller: known by the hash of its key, allowed some models.

use bincode::{Decode, Encode};

use super::limits::RateLimits;

/// SHA-256 of the key that a caller presents.
pub type KeyHash = [u8; 32];

/// A caller key. The key itself is nowhere in the gateway.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct ApiKey {
    /// Resource id.
    pub id: String,
    /// Hash of the key; `None` if the document holds something that no key can hash to.
    pub key_hash: Option<KeyHash>,
    /// Label of the key, for people.
    pub display_name: Option<String>,
    /// Names or globs with one `*`; empty allows no model.
    pub allowed_models: Vec<String>,
    /// Refused with 401 while set.
    pub disabled: bool,
    /// Refused with 401 after this moment, in milliseconds since 1970 UTC.
    pub expires_at_unix_ms: Option<i64>,
    /// Team of the key, for metrics and policies.
    pub team_id: Option<String>,
    /// Owner of the key, for metrics and policies.
    pub user_id: Option<String>,
    /// Name of the owner, for metrics.
    pub user_name: Option<String>,
    /// What is let through with it.
    pub rate_limits: RateLimits,
    /// Names or globs with one `*` of passthrough routes; empty allows none.
    pub allowed_routes: Vec<String>,
    /// The token that stands for this key.
    pub jwt: Option<JwtBinding>,
}

/// Whose tokens stand for a caller key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct JwtBinding {
    /// Name of the identity provider.
    pub provider: String,
    /// Value of that provider's identity claim.
    pub subject: String,
}

impl ApiKey {
    /// Whether the key may use a passthrough route of that name.
    pub fn allows_route(&self, name: &str) -> bool {
        self.allowed_routes.iter().any(|pattern| glob_matches(pattern, name))
    }

    /// Whether the key may use a model by the name the caller sent: literal, or a glob with exactly one `*`.
    pub fn allows_model(&self, name: &str) -> bool {
        self.allowed_models.iter().any(|pattern| glob_matches(pattern, name))
    }
}

/// Whole-string, case-sensitive match. `*` stands once, for any text; a pattern with more than one never matches.
fn glob_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((_, tail)) if tail.contains('*') => false,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| rest.ends_with(tail)),
    }
}

#[cfg(test)]
mod tests {
    use super::glob_matches;

    #[test]
    fn a_pattern_matches_as_a_whole_with_at_most_one_star() {
        assert!(glob_matches("gpt-4o", "gpt-4o"));
        assert!(!glob_matches("gpt-4o", "gpt-4o-mini"));
        assert!(glob_matches("*", ""));
        assert!(glob_matches("gpt-*", "gpt-"));
        assert!(glob_matches("*-mini", "gpt-mini"));
        assert!(glob_matches("gpt-*-mini", "gpt-4o-mini"));
        assert!(!glob_matches("gpt-*-mini", "gpt-mini"));
        assert!(!glob_matches("GPT-*", "gpt-4"));
        assert!(!glob_matches("*a*", "a"));
    }
}
