//! What a token must say, beyond a good signature. Pure: the time is an argument.

use serde_json::Value;
use shared::resource::{ClaimCondition, OidcProvider};

use super::Rejection;

/// Whether the claims satisfy the provider, at a time in milliseconds since 1970 UTC. Their issuer is the provider's.
pub fn check(provider: &OidcProvider, claims: &Value, now_unix_ms: i64) -> Result<(), Rejection> {
    let now = now_unix_ms as f64 / 1000.0;
    let leeway = provider.leeway_secs as f64;
    let present = |name: &str| claims.get(name).filter(|claim| !claim.is_null());
    let expiry = present("exp").ok_or(Rejection::MissingClaim)?;
    let audience = present("aud").ok_or(Rejection::MissingClaim)?;
    // RFC 7519, section 4.1.4: the time has to be before it.
    if now >= expiry.as_f64().ok_or(Rejection::Invalid)? + leeway {
        return Err(Rejection::Expired);
    }
    if let Some(begin) = present("nbf")
        && now + leeway < begin.as_f64().ok_or(Rejection::Invalid)?
    {
        return Err(Rejection::NotYetValid);
    }
    if !is_or_holds_one_of(audience, &provider.audiences) {
        return Err(Rejection::AudienceMismatch);
    }
    let scopes = scopes(claims);
    if !provider.required_scopes.iter().all(|scope| scopes.contains(&scope.as_str())) {
        return Err(Rejection::ScopeMissing);
    }
    let is_bound = |(path, values): &(String, Vec<String>)| {
        claim(claims, path).is_some_and(|claim| is_or_holds_one_of(claim, values))
    };
    if provider.bound_claims.iter().all(is_bound) {
        Ok(())
    } else {
        Err(Rejection::BoundClaimMismatch)
    }
}

/// Who the caller is, by the provider's identity claim.
pub fn subject<'a>(provider: &OidcProvider, claims: &'a Value) -> Result<&'a str, Rejection> {
    let subject = claim(claims, &provider.identity_claim).and_then(Value::as_str);
    subject.ok_or(Rejection::IdentityClaimMissing)
}

/// Whether the condition of a mapping holds. A claim of another type than its operator is for never fulfils it.
pub fn holds(condition: &ClaimCondition, claims: &Value) -> bool {
    let Some(claim) = claim(claims, &condition.claim) else { return false };
    match (claim, condition.contains) {
        (Value::String(_), false) | (Value::Array(_), true) => {
            is_or_holds_one_of(claim, &condition.values)
        }
        _ => false,
    }
}

/// The claim at a path whose dots lead into objects.
fn claim<'a>(claims: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(claims, |object, name| object.as_object()?.get(name))
}

/// A text that is one of the values, or a list with one of them among its texts.
fn is_or_holds_one_of(claim: &Value, values: &[String]) -> bool {
    let is_one =
        |claim: &Value| claim.as_str().is_some_and(|text| values.iter().any(|value| value == text));
    match claim {
        Value::String(_) => is_one(claim),
        Value::Array(items) => items.iter().any(is_one),
        _ => false,
    }
}

/// Scopes as OAuth writes them, words in one text, or as a list.
fn scopes(claims: &Value) -> Vec<&str> {
    match claims.get("scope") {
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const SECOND: i64 = 1_800_000_000;

    fn provider() -> OidcProvider {
        OidcProvider {
            audiences: vec!["llm".to_owned(), "other".to_owned()],
            identity_claim: "act.sub".to_owned(),
            ..OidcProvider::default()
        }
    }

    fn with(changes: Value) -> Value {
        let mut claims = json!({"aud": "llm", "exp": SECOND + 60});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn outcome(provider: &OidcProvider, changes: Value) -> &'static str {
        check(provider, &with(changes), NOW).map_or_else(Rejection::reason, |()| "none")
    }

    #[test]
    fn a_token_is_valid_before_its_end_and_from_its_beginning_on_with_leeway_on_both_sides() {
        let mut provider = provider();
        for (changes, expected) in [
            (json!({"exp": SECOND + 1}), "none"),
            (json!({"exp": SECOND}), "jwt_expired"),
            (json!({"exp": (SECOND as f64) + 0.5}), "none"),
            (json!({"exp": 1e300}), "none"),
            (json!({"nbf": SECOND}), "none"),
            (json!({"nbf": SECOND + 1}), "jwt_not_yet_valid"),
            (json!({"exp": null}), "jwt_missing_claim"),
            (json!({"exp": "soon"}), "jwt_invalid"),
            (json!({"nbf": "now"}), "jwt_invalid"),
        ] {
            assert_eq!(outcome(&provider, changes.clone()), expected, "{changes}");
        }
        provider.leeway_secs = 30;
        for (changes, expected) in [
            (json!({"exp": SECOND - 29}), "none"),
            (json!({"exp": SECOND - 30}), "jwt_expired"),
            (json!({"nbf": SECOND + 30}), "none"),
            (json!({"nbf": SECOND + 31}), "jwt_not_yet_valid"),
        ] {
            assert_eq!(outcome(&provider, changes.clone()), expected, "{changes}");
        }
    }

    #[test]
    fn an_audience_is_a_text_or_a_list_of_which_one_has_to_fit() {
        let provider = provider();
        for (audience, expected) in [
            (json!("other"), "none"),
            (json!(["x", "llm"]), "none"),
            (json!("LLM"), "jwt_audience_mismatch"),
            (json!([]), "jwt_audience_mismatch"),
            (json!([["llm"]]), "jwt_audience_mismatch"),
            (json!({"llm": 1}), "jwt_audience_mismatch"),
            (json!(null), "jwt_missing_claim"),
        ] {
            assert_eq!(outcome(&provider, json!({"aud": audience})), expected, "{audience}");
        }
    }

    #[test]
    fn every_scope_has_to_be_there_as_a_word_or_in_a_list() {
        let mut provider = provider();
        provider.required_scopes = vec!["llm:chat".to_owned(), "llm:embed".to_owned()];
        for (scope, expected) in [
            (json!("openid llm:embed llm:chat"), "none"),
            (json!(["llm:chat", "llm:embed"]), "none"),
            (json!("llm:chat llm:embedding"), "jwt_scope_missing"),
            (json!(["llm:chat llm:embed"]), "jwt_scope_missing"),
            (json!(7), "jwt_scope_missing"),
        ] {
            assert_eq!(outcome(&provider, json!({"scope": scope})), expected, "{scope}");
        }
    }

    #[test]
    fn every_bound_claim_has_to_be_or_to_hold_one_of_its_values() {
        let mut provider = provider();
        let values = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        provider.bound_claims = vec![
            ("realm_access.roles".to_owned(), values(&["dev", "ops"])),
            ("tid".to_owned(), values(&["t-1"])),
        ];
        for (roles, tenant, expected) in [
            (json!({"roles": ["x", "ops"]}), json!("t-1"), "none"),
            (json!({"roles": "dev"}), json!(["t-1"]), "none"),
            (json!({"roles": ["x"]}), json!("t-1"), "jwt_bound_claim_mismatch"),
            (json!({"roles": ["dev"]}), json!("t-2"), "jwt_bound_claim_mismatch"),
            (json!({"roles": {"dev": true}}), json!("t-1"), "jwt_bound_claim_mismatch"),
            (json!(["roles"]), json!("t-1"), "jwt_bound_claim_mismatch"),
        ] {
            let claims = json!({"realm_access": roles, "tid": tenant});
            assert_eq!(outcome(&provider, claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn the_identity_is_a_text_at_the_path_of_the_claim() {
        let provider = provider();
        assert_eq!(subject(&provider, &json!({"act": {"sub": "a"}})), Ok("a"));
        for claims in [json!({}), json!({"act": {"sub": 7}}), json!({"act.sub": "a"})] {
            assert_eq!(subject(&provider, &claims), Err(Rejection::IdentityClaimMissing));
        }
    }

    #[test]
    fn a_condition_holds_only_for_a_claim_of_the_type_that_its_operator_is_for() {
        let condition = |contains| ClaimCondition {
            claim: "groups".to_owned(),
            contains,
            values: vec!["dev".to_owned()],
        };
        for (claims, exact, contains) in [
            (json!({"groups": "dev"}), true, false),
            (json!({"groups": ["x", 7, "dev"]}), false, true),
            (json!({"groups": ["x"]}), false, false),
            (json!({}), false, false),
        ] {
            assert_eq!(holds(&condition(false), &claims), exact, "{claims}");
            assert_eq!(holds(&condition(true), &claims), contains, "{claims}");
        }
    }
}
