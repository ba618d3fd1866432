//! What a failed attempt means: whether the same upstream is asked again, whether the next target is, and whether the model
//! is left alone for a while.

use http::StatusCode;
use shared::deployment::Failure;
use shared::resource::{Cooldown, Routing};

use crate::request::{RequestError, UpstreamError};

/// Nobody is left alone for longer, whatever a document says.
const COOLDOWN_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Whether the same upstream may be asked again: it has not had the request, or has told that it failed. Where it had the
/// request and fell silent or broke off it may have worked on it, and a second one could be charged twice.
pub fn may_repeat(error: &RequestError, group: Option<&Routing>) -> bool {
    let RequestError::Upstream(error) = error else { return false };
    match error {
        UpstreamError::Unreached(_) => true,
        UpstreamError::Failed { status, .. } => {
            status.is_server_error() || is_listed(*status, group)
        }
        UpstreamError::Refused { status, .. } => is_listed(*status, group),
        UpstreamError::InBand(_)
        | UpstreamError::Decode(_)
        | UpstreamError::Transport(_)
        | UpstreamError::Timeout(_)
        | UpstreamError::Cut(_) => false,
    }
}

/// Whether the next target of the group is asked: everything but what the caller has to answer for. That a time-out may be
/// charged by the first target as well is the price of an answer.
pub fn may_fall_back(error: &RequestError, group: &Routing) -> bool {
    match error {
        RequestError::Unusable(_)
        | RequestError::UnusableCredential
        | RequestError::NoBridge(_)
        | RequestError::NotOffered(_) => true,
        RequestError::Upstream(error) => {
            let status = error.status();
            match error {
                UpstreamError::Refused { .. } | UpstreamError::InBand(_) => {
                    !status.is_client_error() || is_listed(status, Some(group))
                }
                UpstreamError::Failed { .. }
                | UpstreamError::Decode(_)
                | UpstreamError::Unreached(_)
                | UpstreamError::Transport(_)
                | UpstreamError::Timeout(_)
                | UpstreamError::Cut(_) => true,
            }
        }
        _ => false,
    }
}

/// Whether the group counts the status as a failure of the upstream.
fn is_listed(status: StatusCode, group: Option<&Routing>) -> bool {
    group.is_some_and(|group| {
        group.fallback_on_statuses.contains(&status.as_u16())
            || (group.retry_on_429 && status == StatusCode::TOO_MANY_REQUESTS)
    })
}

/// For how many seconds the model is left alone after this failure, and what that failure was; `None` if it is not.
pub fn cool_down(error: &RequestError, document: &Cooldown) -> Option<(u64, Failure)> {
    let RequestError::Upstream(error) = error else { return None };
    let failure = failure(error);
    let is_trigger = document.enabled
        && match failure {
            Failure::Timeout => document.on_timeout,
            Failure::Transport => document.on_transport,
            Failure::Status(status) => document.statuses.contains(&status),
        };
    let asked = error.retry_after().filter(|_| document.honor_retry_after);
    let seconds = asked.map_or(document.default_seconds, |asked| asked.min(document.max_seconds));
    (is_trigger && seconds > 0).then_some((seconds.min(COOLDOWN_SECONDS_MAX), failure))
}

/// What kind of failure it was.
pub fn failure(error: &UpstreamError) -> Failure {
    match error {
        UpstreamError::Refused { status, .. } | UpstreamError::Failed { status, .. } => {
            Failure::Status(status.as_u16())
        }
        UpstreamError::InBand(told) => {
            Failure::Status(told.status.unwrap_or(StatusCode::BAD_GATEWAY.as_u16()))
        }
        UpstreamError::Timeout(_) => Failure::Timeout,
        UpstreamError::Decode(_)
        | UpstreamError::Unreached(_)
        | UpstreamError::Transport(_)
        | UpstreamError::Cut(_) => Failure::Transport,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::provider::ProviderError;

    fn refused(status: u16, retry_after: Option<u64>) -> RequestError {
        let status = StatusCode::from_u16(status).unwrap();
        UpstreamError::Refused { status, error: ProviderError::default(), retry_after }.into()
    }

    fn failed(status: u16) -> RequestError {
        let status = StatusCode::from_u16(status).unwrap();
        UpstreamError::Failed { status, retry_after: None }.into()
    }

    fn in_band(status: Option<u16>) -> RequestError {
        UpstreamError::InBand(ProviderError { status, ..ProviderError::default() }).into()
    }

    fn timeout() -> RequestError {
        UpstreamError::Timeout(Duration::ZERO).into()
    }

    #[test]
    fn the_same_upstream_is_asked_again_only_where_it_cannot_have_worked_on_the_request() {
        let cut = UpstreamError::Cut(String::new()).into();
        let transport = UpstreamError::Transport(String::new()).into();
        for error in [timeout(), cut, transport, refused(429, None), refused(400, None)] {
            assert!(!may_repeat(&error, None), "{error:?}");
        }
        let unreached = UpstreamError::Unreached(String::new()).into();
        for error in [failed(500), failed(503), unreached] {
            assert!(may_repeat(&error, None), "{error:?}");
        }
    }

    #[test]
    fn a_group_says_which_statuses_are_failures_of_the_upstream() {
        let plain = Routing::default();
        let group = Routing {
            retry_on_429: true,
            fallback_on_statuses: vec![408, 409],
            ..Routing::default()
        };
        for status in [429, 408, 409] {
            let error = refused(status, None);
            assert!(!may_fall_back(&error, &plain) && !may_repeat(&error, Some(&plain)));
            assert!(may_fall_back(&error, &group) && may_repeat(&error, Some(&group)));
        }
        for error in [refused(400, None), refused(401, None), in_band(Some(400))] {
            assert!(!may_fall_back(&error, &group), "{error:?}");
        }
        for error in [timeout(), failed(302), failed(500), in_band(None), in_band(Some(529))] {
            assert!(may_fall_back(&error, &plain), "{error:?}");
        }
        assert!(may_fall_back(&RequestError::NoBridge("x".to_owned()), &plain));
        assert!(!may_fall_back(&RequestError::Invalid("x".to_owned()), &plain));
    }

    #[test]
    fn a_model_is_left_alone_as_its_document_says() {
        let default = Cooldown::default();
        let seconds = |error: &RequestError, document: &Cooldown| {
            cool_down(error, document).map(|(seconds, _)| seconds)
        };
        assert_eq!(seconds(&failed(503), &default), Some(30));
        assert_eq!(seconds(&refused(429, Some(7)), &default), Some(7));
        assert_eq!(seconds(&refused(429, Some(7000)), &default), Some(300));
        assert_eq!(seconds(&refused(401, None), &default), Some(30));
        for status in [400, 403, 404, 422] {
            assert_eq!(seconds(&refused(status, None), &default), None);
        }
        assert_eq!(seconds(&timeout(), &default), Some(30));
        assert_eq!(seconds(&RequestError::UnusableCredential, &default), None);
        let other = Cooldown {
            on_timeout: false,
            honor_retry_after: false,
            default_seconds: 5,
            statuses: vec![400],
            ..Cooldown::default()
        };
        assert_eq!(seconds(&timeout(), &other), None);
        assert_eq!(seconds(&refused(400, Some(60)), &other), Some(5));
        assert_eq!(seconds(&refused(429, None), &other), None);
        let off = Cooldown { enabled: false, ..Cooldown::default() };
        assert_eq!(seconds(&failed(500), &off), None);
        let zero = Cooldown { default_seconds: 0, ..Cooldown::default() };
        assert_eq!(seconds(&failed(500), &zero), None);
    }
}
