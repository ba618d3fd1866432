//! What the answers of all endpoints mean together: one cause where they agree, else one for each. Pure.

use super::endpoints::{self, Endpoint};
use super::faults_cloud::{
    FAILING, IDENTITY_REFUSED, NOT_MANAGER, REDIRECTS, THROTTLES, UNKNOWN_DATA_PLANE, WEB_PAGE,
    WRONG_ENVIRONMENT,
};
use super::manager::{self, Answer, NoAnswer};
use super::{Place, judge};
use crate::doctor::{Fault, Finding};

/// What is wrong. The answers are in the order of the endpoints.
pub(super) fn judge(place: &Place, asked: Vec<Result<Answer, NoAnswer>>) -> Vec<Finding> {
    if asked.iter().all(|it| matches!(it, Err(NoAnswer::Silent))) {
        return vec![manager::silent(place)];
    }
    let answered = || asked.iter().filter_map(|it| it.as_ref().ok());
    let count = answered().count();
    if let Some(whole) = answered().find_map(whole)
        && !is_only_renewal(&asked)
    {
        let evidence = format!("{place}: {}", evidence(whole.1));
        return vec![Finding { fault: whole.0, evidence }];
    }
    // One that does not offer renewal says little about the rest.
    let statuses: Vec<u16> = answered().map(|answer| answer.status).collect();
    let together = |is_it: &dyn Fn(u16) -> bool| count > 2 && statuses.iter().all(|it| is_it(*it));
    let common: Option<&'static Fault> = if together(&|it| it == 404) {
        Some(&NOT_MANAGER)
    } else if together(&|it| matches!(it, 401 | 403)) {
        Some(&IDENTITY_REFUSED)
    } else if together(&|it| it == 429) {
        Some(&THROTTLES)
    } else if together(&|it| it >= 500) {
        Some(&FAILING)
    } else {
        None
    };
    if let Some(fault) = common {
        let first = answered().next().map(evidence).unwrap_or_default();
        let evidence = format!("{place}: every endpoint of /dp/ answers so: {first}");
        return vec![Finding { fault, evidence }];
    }
    let each = asked.into_iter().zip(&endpoints::ALL);
    each.filter_map(|(answer, endpoint)| one(place, endpoint, answer)).collect()
}

/// Whether all endpoints but the renewal of certificates are answered as they should be.
fn is_only_renewal(asked: &[Result<Answer, NoAnswer>]) -> bool {
    let others = asked.iter().zip(&endpoints::ALL).filter(|(_, it)| it.path != "/dp/rotate-cert");
    others
        .into_iter()
        .all(|(answer, _)| answer.as_ref().is_ok_and(|answer| whole(answer).is_none()))
}

/// What one answer says about everything that is there.
fn whole(answer: &Answer) -> Option<(&'static Fault, &Answer)> {
    let fault = match answer.status {
        _ if answer.is_page => &WEB_PAGE,
        300..400 => &REDIRECTS,
        400..500 if is_about(answer, &["ENVIRONMENT", "ENV_", "WRONG_ENV"]) => &WRONG_ENVIRONMENT,
        400..500
            if is_about(answer, &["DP_NOT_FOUND", "DP_MISMATCH", "DP_REVOKED", "DP_DISABLED"]) =>
        {
            &UNKNOWN_DATA_PLANE
        }
        _ => return None,
    };
    Some((fault, answer))
}

/// Whether the code of an error is about one of these.
fn is_about(answer: &Answer, codes: &[&str]) -> bool {
    let text = answer.excerpt.as_str();
    let code = text.split_once("\"code\"").map_or("", |(_, rest)| rest);
    let code = code.split('"').nth(1).unwrap_or_default().to_ascii_uppercase();
    codes.iter().any(|it| code.contains(it))
}

fn one(
    place: &Place,
    endpoint: &'static Endpoint,
    answer: Result<Answer, NoAnswer>,
) -> Option<Finding> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer::Found(finding)) => return Some(finding),
        Err(NoAnswer::Silent) => {
            let evidence = format!("{place}, asked for {}: no answer in time", endpoint.path);
            return Some(Finding { fault: &endpoint.silent, evidence });
        }
    };
    // A question without a caller key is refused for that, and not for who asks.
    let is_about_key = endpoint.path == "/dp/budget_check" && is_about(&answer, &["API_KEY"]);
    let fault = match answer.status {
        401 => &endpoint.unauthorized,
        403 if !is_about_key => &endpoint.forbidden,
        404 if !is_about_key => &endpoint.missing,
        429 => &endpoint.throttled,
        // Where a method or a body is refused, somebody is there who does so.
        501 => return None,
        500.. => &endpoint.failing,
        _ => return None,
    };
    let evidence = format!("{place}, asked for {}: {}", endpoint.path, evidence(&answer));
    Some(Finding { fault, evidence })
}

fn evidence(answer: &Answer) -> String {
    let location = answer.location.as_deref().map(|to| format!(" to {to}")).unwrap_or_default();
    let excerpt = if answer.is_page { "a web page" } else { answer.excerpt.as_str() };
    judge::harmless(&format!("status {}{location}: {excerpt}", answer.status))
}

#[cfg(test)]
mod tests {
    use shared::egress::Key;

    use super::*;

    fn found(statuses: [u16; 4], excerpt: &str) -> Vec<&'static str> {
        let place = Place { key: Key::manager(), host: "h".to_owned(), port: 1, what: "manager" };
        let asked = statuses.map(|status| match status {
            0 => Err(NoAnswer::Silent),
            status => Ok(Answer { status, excerpt: excerpt.to_owned(), ..Answer::default() }),
        });
        judge(&place, asked.into()).iter().map(|finding| finding.fault.code).collect()
    }

    #[test]
    fn what_refuses_only_the_harmless_request_is_well() {
        assert!(found([405, 200, 400, 405], "").is_empty());
        assert!(
            found([405, 400, 403, 501], r#"{"error":{"code":"API_KEY_NOT_FOUND"}}"#).is_empty()
        );
    }

    #[test]
    fn one_status_of_all_endpoints_has_one_cause_and_one_of_one_endpoint_its_own() {
        for (status, all, usage) in [
            (401, "cloud-identity-refused", "cloud-usage-unauthorized"),
            (403, "cloud-identity-refused", "cloud-usage-forbidden"),
            (404, "cloud-not-manager", "cloud-usage-not-found"),
            (429, "cloud-throttles", "cloud-usage-throttled"),
            (503, "cloud-failing", "cloud-usage-failing"),
            (0, "cloud-no-answer", "cloud-usage-silent"),
        ] {
            assert_eq!(found([status; 4], ""), [all], "{status}");
            assert_eq!(found([405, status, 400, 405], ""), [usage], "{status}");
        }
    }

    #[test]
    fn the_code_of_an_error_tells_whose_fault_it_is() {
        let body = |code: &str| format!(r#"{{"error": {{"code": "{code}", "message": "x"}}}}"#);
        assert_eq!(
            found([404, 200, 400, 405], &body("DP_NOT_FOUND")),
            ["cloud-data-plane-unknown"]
        );
        let wrong = body("ENVIRONMENT_NOT_FOUND");
        assert_eq!(found([403, 403, 403, 403], &wrong), ["cloud-wrong-environment"]);
    }
}
