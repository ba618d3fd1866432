//! One answer of `/dp/budget_check`, read as leniently as it can be: what is not understood is as if it were absent.
//!
//! Only without `allow` an answer is none. A field and its alias may both be there; the first that can be used counts.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::budget::Denial;

/// Longest text that is taken over, in characters.
const TEXT_CHARS_MAX: usize = 2048;
/// What may be spent, in dollars, between two answers that say yes although nothing is left.
const LEAST: f64 = 0.01;
/// What a caller is told where the Cloud says no without a word.
const NO_REASON: &str = "budget exceeded";

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Not a JSON object.
    #[error("the answer is not a JSON object")]
    Object,
    /// Neither yes nor no.
    #[error("the answer does not say `allow`: true or false")]
    Allow,
}

/// What applies once the latest decision is too old and the Cloud gives no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// No.
    #[default]
    Sticky,
    /// Yes.
    Open,
    /// No.
    Closed,
}

/// Whether a caller key may spend more, and what is known of its budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decision {
    /// It may.
    pub allow: bool,
    /// What applies without the Cloud.
    pub fail_mode: FailMode,
    /// Why not, in words.
    pub message: Option<String>,
    /// Whose budget.
    pub scope: Option<String>,
    /// Which of that kind.
    pub scope_ref: Option<String>,
    /// What the budget is for.
    pub period: Option<String>,
    /// When the next period begins.
    pub period_resets_at: Option<String>,
    /// Seconds after which it may be tried again.
    pub retry_after_seconds: Option<u64>,
    /// What the denial says of the amounts.
    pub denied: Amounts,
    /// What is known of the budget, whether it denies or not.
    pub budget: Amounts,
    /// Seconds until the budget begins anew.
    pub reset_seconds: Option<f64>,
    /// The answer told something of a budget.
    pub has_details: bool,
}

/// Amounts of a budget, in dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// The budget.
    pub limit: Option<f64>,
    /// What was spent of it.
    pub spent: Option<f64>,
    /// What is left of it.
    pub remaining: Option<f64>,
}

impl Decision {
    /// Reads the body of an answer.
    pub fn read(body: &[u8]) -> Result<Self, Undecodable> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| Undecodable::Object)?;
        let Value::Object(_) = answer else { return Err(Undecodable::Object) };
        let allow = answer.get("allow").and_then(Value::as_bool).ok_or(Undecodable::Allow)?;
        let object = |name| answer.get(name).unwrap_or(&Value::Null);
        let (reason, budget) = (object("reason"), object("budget"));
        let denied = Amounts::read(reason);
        let known = Amounts::read(budget);
        let reset_names = ["reset_seconds", "period_resets_at"];
        Ok(Self {
            allow,
            fail_mode: match answer.get("fail_mode").and_then(Value::as_str) {
                Some("open") => FailMode::Open,
                Some("closed") => FailMode::Closed,
                _ => FailMode::Sticky,
            },
            message: text(reason, "message"),
            scope: text(reason, "scope"),
            scope_ref: text(reason, "scope_ref"),
            period: text(reason, "period"),
            period_resets_at: text(reason, "period_resets_at"),
            retry_after_seconds: number(reason, &["retry_after_seconds", "reset_seconds"])
                .filter(|seconds| *seconds >= 0.0)
                // Rounded up: nobody is to come too early. Saturates.
                .map(|seconds| seconds.ceil() as u64),
            denied,
            budget: Amounts {
                limit: known.limit.or(denied.limit),
                spent: known.spent.or(denied.spent),
                remaining: known.remaining.or(denied.remaining),
            },
            reset_seconds: number(budget, &reset_names)
                .or_else(|| number(reason, &["reset_seconds", "retry_after_seconds"])),
            has_details: known != Amounts::default() || denied != Amounts::default(),
        })
    }

    /// What the caller is told when the Cloud says no.
    pub fn denial(&self) -> Denial {
        let message = self.message.as_deref().filter(|message| !message.trim().is_empty());
        Denial {
            message: message.unwrap_or(NO_REASON).to_owned(),
            scope: self.scope.clone(),
            scope_ref: self.scope_ref.clone(),
            limit_usd: self.denied.limit.map(dollars),
            spent_usd: self.denied.spent.map(dollars),
            period: self.period.clone(),
            period_resets_at: self.period_resets_at.clone(),
            retry_after_seconds: self.retry_after_seconds,
        }
    }

    /// How much may be spent until the next decision; `None` = as much as comes. Where nothing is left and the Cloud still
    /// says yes, a budget with a limit leaves [`LEAST`], and one without does not bind.
    pub fn allowance(&self) -> Option<f64> {
        let difference = || Some(self.budget.limit? - self.budget.spent?);
        let left = self.budget.remaining.or_else(difference)?;
        let has_limit = self.budget.limit.is_some_and(|limit| limit > 0.0);
        if left > 0.0 { Some(left) } else { has_limit.then_some(LEAST) }
    }

    /// What the caller is told when what was spent here since has used up the allowance.
    pub fn used_up(&self) -> Denial {
        let Amounts { limit, spent, .. } = self.budget;
        let allowance = self.allowance();
        let left = dollars(allowance.unwrap_or_default());
        Denial {
            message: format!(
                "budget exceeded: usage since the last decision has reached what was left (${left})"
            ),
            limit_usd: limit.map(dollars),
            spent_usd: spent.zip(allowance).map(|(spent, left)| dollars(spent + left)),
            retry_after_seconds: None,
            ..self.denial()
        }
    }
}

impl Amounts {
    fn read(object: &Value) -> Self {
        Self {
            limit: number(object, &["limit_usd", "max_usd"]),
            spent: number(object, &["spent_usd"]),
            remaining: number(object, &["remaining_usd"]),
        }
    }
}

/// An amount as callers are told it.
fn dollars(amount: f64) -> String {
    format!("{amount:.2}")
}

fn text(object: &Value, name: &str) -> Option<String> {
    let text = object.get(name)?.as_str()?;
    Some(text.chars().take(TEXT_CHARS_MAX).collect())
}

/// The first of these fields that is a number, or a text that is one.
fn number(object: &Value, names: &[&str]) -> Option<f64> {
    let value = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let usable =
        |name: &&str| object.get(*name).and_then(value).filter(|number| number.is_finite());
    names.iter().find_map(usable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(answer: Value) -> Decision {
        Decision::read(answer.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_published_denial_is_told_in_the_published_words() {
        let decision = read(json!({"allow": false, "fail_mode": "closed", "reason": {
            "type": "billing_error", "code": "budget_exceeded",
            "message": "team budget 'research' exceeded ($50.00/month).", "scope": "team",
            "scope_ref": "t-42", "limit_usd": "50.00", "spent_usd": "50.17", "period": "month",
            "period_resets_at": "2026-10-01T00:00:00Z", "retry_after_seconds": 3600}}));
        let text = |text: &str| Some(text.to_owned());
        let expected = Denial {
            message: "team budget 'research' exceeded ($50.00/month).".to_owned(),
            scope: text("team"),
            scope_ref: text("t-42"),
            limit_usd: text("50.00"),
            spent_usd: text("50.17"),
            period: text("month"),
            period_resets_at: text("2026-10-01T00:00:00Z"),
            retry_after_seconds: Some(3600),
        };
        assert_eq!((decision.denial(), decision.fail_mode), (expected, FailMode::Closed));
    }

    #[test]
    fn numbers_may_be_texts_and_a_field_may_stand_beside_its_alias() {
        let decision = read(json!({"allow": true, "budget": {"limit_usd": "10", "max_usd": 9,
            "spent_usd": 4, "reset_seconds": "soon", "period_resets_at": 60}}));
        assert_eq!((decision.budget.limit, decision.budget.spent), (Some(10.0), Some(4.0)));
        assert_eq!(decision.reset_seconds, Some(60.0));
        assert_eq!(decision.allowance(), Some(6.0));
        let decision = read(json!({"allow": false,
            "reason": {"reset_seconds": "7", "retry_after_seconds": null, "max_usd": 1.005}}));
        assert_eq!(decision.retry_after_seconds, Some(7));
        assert_eq!(
            decision.budget.limit,
            Some(1.005),
            "what the budget does not say, the reason may"
        );
    }

    #[test]
    fn what_is_missing_or_strange_is_left_out_and_the_fail_mode_is_sticky() {
        let decision = read(json!({"allow": false, "fail_mode": 5, "reason": {"message": " ",
            "scope": 1, "limit_usd": "NaN", "retry_after_seconds": -1}, "budget": "none"}));
        assert_eq!(decision.fail_mode, FailMode::Sticky);
        assert_eq!(decision.denial(), Denial::because(NO_REASON));
        assert_eq!(read(json!({"allow": true, "fail_mode": "half"})).fail_mode, FailMode::Sticky);
        assert!(!read(json!({"allow": true})).has_details);
    }

    #[test]
    fn without_allow_there_is_no_decision() {
        for body in ["{}", r#"{"allow":"true"}"#, r#"{"allow":null}"#] {
            assert_eq!(Decision::read(body.as_bytes()), Err(Undecodable::Allow), "{body}");
        }
        for body in ["", "[true]", "true", "<html>"] {
            assert_eq!(Decision::read(body.as_bytes()), Err(Undecodable::Object), "{body}");
        }
    }

    #[test]
    fn a_budget_with_nothing_left_that_allows_leaves_a_cent_and_without_a_limit_does_not_bind() {
        let with =
            |remaining: f64| read(json!({"allow": true, "budget": {"remaining_usd": remaining}}));
        assert_eq!(with(0.0).allowance(), None);
        assert_eq!(with(-3.0).allowance(), None);
        assert_eq!(with(0.5).allowance(), Some(0.5));
        for amounts in [
            json!({"limit_usd": 5, "remaining_usd": 0}),
            json!({"limit_usd": 5, "remaining_usd": "-3"}),
            json!({"limit_usd": 5, "spent_usd": 5}),
        ] {
            assert_eq!(read(json!({"allow": true, "budget": amounts})).allowance(), Some(LEAST));
        }
        let unlimited = json!({"limit_usd": 0, "spent_usd": 5});
        assert_eq!(read(json!({"allow": true, "budget": unlimited})).allowance(), None);
        let denial = read(json!({"allow": true,
            "budget": {"limit_usd": 2, "spent_usd": 1.5, "remaining_usd": 0.5}}));
        let denial = denial.used_up();
        assert_eq!(denial.spent_usd.as_deref(), Some("2.00"));
        assert!(denial.message.contains("$0.50"), "{}", denial.message);
    }

    proptest! {
        #[test]
        fn no_answer_can_panic_the_reader(body: Vec<u8>, text: String, number: f64) {
            let _ = Decision::read(&body);
            let value = json!({"allow": false, "reason": {"message": text, "retry_after_seconds": number,
                "limit_usd": text}, "budget": {"spent_usd": number}});
            let decision = read(value);
            let _ = (decision.denial(), decision.used_up());
        }

        #[test]
        fn a_decision_is_the_same_after_it_was_kept(allow: bool, cents in 0..100_000i64, seconds: u32) {
            let dollars = cents as f64 / 100.0;
            let decision = read(json!({"allow": allow, "fail_mode": "open",
                "reason": {"retry_after_seconds": seconds}, "budget": {"remaining_usd": dollars}}));
            let kept = serde_json::to_vec(&decision).unwrap();
            let again: Decision = serde_json::from_slice(&kept).unwrap();
            prop_assert_eq!(again.denial(), decision.denial());
            prop_assert_eq!(again.fail_mode, decision.fail_mode);
        }
    }
}
