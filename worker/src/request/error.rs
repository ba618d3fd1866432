//! Why a request is refused or failed: what the caller is told, and what only the operator is told.
//!
//! `Display` is the caller's message. It names nothing of the upstream's address or of the gateway's insides; that is in
//! [`RequestError::detail`], for usage events and the log.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use shared::budget::Denial;

use crate::call::Operation;
use crate::identity::Rejection;
use crate::limits::{Exceeded, Layer};
use crate::provider::ProviderError;

/// A request that is not served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No credential, or not in a form that is one.
    #[error("missing or malformed Authorization header")]
    MissingCredential,
    /// No caller key hashes to this.
    #[error("invalid API key")]
    UnknownKey,
    /// Switched off.
    #[error("API key is disabled")]
    KeyDisabled,
    /// Past its end.
    #[error("API key has expired")]
    KeyExpired,
    /// No model of that name.
    #[error("model '{0}' not found")]
    UnknownModel(String),
    /// Not in the key's list.
    #[error("API key is not allowed to use model '{0}'")]
    ModelNotAllowed(String),
    /// Not from this address.
    #[error("client IP is not allowed to use this model")]
    AddressNotAllowed,
    /// A passthrough route that is not in the key's list.
    #[error("API key is not allowed to use passthrough route '{0}'")]
    RouteNotAllowed(String),
    /// A passthrough route, not from this address.
    #[error("client IP is not allowed to use this route")]
    SourceNotAllowed,
    /// The caller key may not spend more.
    #[error("{}", .0.message)]
    OverBudget(Rc<Denial>),
    /// A limit is reached.
    #[error("{0}")]
    RateLimited(Box<Exceeded>),
    /// The body is not what the endpoint takes.
    #[error("{0}")]
    Invalid(String),
    /// The body is too large.
    #[error("request body exceeds the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body stopped coming.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// A model or provider key that cannot be used as it is configured.
    #[error("{0}")]
    Unusable(String),
    /// A provider key whose secret cannot be sent.
    #[error("the provider credential of this model is not usable")]
    UnusableCredential,
    /// Nothing here speaks the provider's protocol.
    #[error("no bridge for provider '{0}'")]
    NoBridge(String),
    /// The provider of the model has nothing for this operation.
    #[error("the provider of this model does not offer {}", .0.path())]
    NotOffered(Operation),
    /// An endpoint that exists, but not in this build.
    #[error("{0} is not served by this build yet")]
    NotServed(&'static str),
    /// A kind of model that is configured, but not served by this build.
    #[error("model '{0}' is of a kind that is not served by this build yet")]
    ModelNotServed(String),
    /// Guarded by what this build cannot enforce; what that is.
    #[error(
        "this request is guarded by {0}, which this build of the gateway cannot enforce; remove or disable it, or send the request to a gateway that enforces it"
    )]
    Guarded(String),
    /// A guardrail does not let it through. What it has found is nobody's business.
    #[error("{} blocked by content policy (guardrail '{guardrail}')", side(*is_request))]
    ContentFilter {
        /// Whether it was the request, rather than its answer.
        is_request: bool,
        /// Name of the guardrail.
        guardrail: String,
    },
    /// A token of an identity provider that is not accepted.
    #[error(transparent)]
    Token(#[from] Rejection),
    /// No target of a group is there for the request now.
    #[error("no target of this model is available")]
    NoTarget {
        /// Seconds after which there may be one.
        retry_after: Option<u64>,
    },
    /// More requests come than can be served.
    #[error("the gateway is overloaded, try again later")]
    Overloaded,
    /// A path that had a meaning in earlier versions.
    #[error("this endpoint was removed; configure a passthrough route instead")]
    EndpointRemoved,
    /// The upstream did not answer, or not well.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// An attempt at an upstream that failed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It answered with an error that concerns the caller.
    #[error("{}", error.message)]
    Refused {
        /// Its status, 4xx.
        status: StatusCode,
        /// Its words.
        error: ProviderError,
        /// Seconds after which it wants to be asked again.
        retry_after: Option<u64>,
    },
    /// It answered with an error of its own, whose words stay here.
    #[error("upstream returned {}", status.as_u16())]
    Failed {
        /// Its status.
        status: StatusCode,
        /// Seconds after which it wants to be asked again.
        retry_after: Option<u64>,
    },
    /// It told an error inside a stream that had begun well.
    #[error("{}", .0.message)]
    InBand(ProviderError),
    /// What it answered cannot be read.
    #[error("upstream returned a response that cannot be decoded")]
    Decode(String),
    /// The upstream was never reached: nothing was sent.
    #[error("cannot reach the upstream")]
    Unreached(String),
    /// The connection broke before an answer.
    #[error("cannot reach the upstream")]
    Transport(String),
    /// It took too long.
    #[error("upstream request timed out after {}ms", .0.as_millis())]
    Timeout(Duration),
    /// The stream ended in the middle.
    #[error("upstream stream ended unexpectedly")]
    Cut(String),
}

impl RequestError {
    /// The status that the caller is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingCredential | Self::UnknownKey | Self::KeyDisabled | Self::KeyExpired => {
                StatusCode::UNAUTHORIZED
            }
            Self::UnknownModel(_) => StatusCode::NOT_FOUND,
            Self::ModelNotAllowed(_)
            | Self::AddressNotAllowed
            | Self::RouteNotAllowed(_)
            | Self::SourceNotAllowed => StatusCode::FORBIDDEN,
            Self::OverBudget(_) | Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Invalid(_) | Self::Unusable(_) | Self::NotOffered(_) => StatusCode::BAD_REQUEST,
            Self::ContentFilter { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UnusableCredential => StatusCode::UNAUTHORIZED,
            Self::NoBridge(_) | Self::NoTarget { .. } | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NotServed(_) | Self::ModelNotServed(_) | Self::Guarded(_) => {
                StatusCode::NOT_IMPLEMENTED
            }
            Self::Token(rejection) => rejection.status(),
            Self::EndpointRemoved => StatusCode::GONE,
            Self::Upstream(error) => error.status(),
        }
    }

    /// The `type` of the error in OpenAI's envelope.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MissingCredential | Self::UnknownKey | Self::KeyDisabled | Self::KeyExpired => {
                "invalid_api_key"
            }
            Self::UnknownModel(_) => "model_not_found",
            Self::ModelNotAllowed(_)
            | Self::AddressNotAllowed
            | Self::RouteNotAllowed(_)
            | Self::SourceNotAllowed => "permission_denied",
            Self::OverBudget(_) => "billing_error",
            Self::ContentFilter { .. } => "content_filter",
            Self::RateLimited(_) => "rate_limit_exceeded",
            Self::Invalid(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::Unusable(_)
            | Self::NotOffered(_)
            | Self::EndpointRemoved => "invalid_request_error",
            Self::UnusableCredential => "authentication_error",
            Self::NoBridge(_) => "provider_unavailable",
            Self::NoTarget { .. } => "all_candidates_unavailable",
            Self::Overloaded => "overloaded",
            Self::NotServed(_) | Self::ModelNotServed(_) | Self::Guarded(_) => "not_implemented",
            Self::Token(rejection) => rejection.kind(),
            Self::Upstream(error) => error.kind(),
        }
    }

    /// The `code` of the error, where it has one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::KeyDisabled => Some("api_key_disabled"),
            Self::KeyExpired => Some("api_key_expired"),
            Self::AddressNotAllowed | Self::SourceNotAllowed => Some("ip_restricted"),
            Self::OverBudget(_) => Some("budget_exceeded"),
            Self::EndpointRemoved => Some("endpoint_removed"),
            Self::Token(rejection) => Some(rejection.code()),
            Self::Upstream(error) => error.words()?.code.as_deref(),
            _ => None,
        }
    }

    /// The parameter that the error is about, where it has one.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Upstream(error) => error.words()?.param.as_deref(),
            _ => None,
        }
    }

    /// What a denial of the budget tells beyond its message.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::OverBudget(denial) => Some(denial),
            _ => None,
        }
    }

    /// Id and name of the policy whose limit is reached.
    pub fn policy(&self) -> Option<(&str, &str)> {
        match self {
            Self::RateLimited(exceeded) => match &exceeded.layer {
                Layer::Policy { id, name } => Some((id, name)),
                Layer::ApiKey | Layer::Model => None,
            },
            _ => None,
        }
    }

    /// Seconds after which the caller may try again, where that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Upstream(UpstreamError::Refused { retry_after, .. }) => *retry_after,
            Self::OverBudget(denial) => denial.retry_after_seconds,
            Self::NoTarget { retry_after } => *retry_after,
            Self::RateLimited(exceeded) => exceeded.retry_after,
            _ => None,
        }
    }

    /// The class of the failure in usage events.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unusable(_) => "invalid_config",
            Self::UnusableCredential => "invalid_credentials",
            Self::Upstream(error) => error.class(),
            _ => self.kind(),
        }
    }

    /// What the operator is told beside the caller's message.
    pub fn detail(&self) -> Cow<'_, str> {
        use UpstreamError::{Cut, Decode, Transport, Unreached};
        match self {
            Self::Upstream(
                error @ (Decode(detail) | Unreached(detail) | Transport(detail) | Cut(detail)),
            ) => format!("{error}: {detail}").into(),
            Self::Token(rejection) => format!("{rejection}: {}", rejection.reason()).into(),
            _ => self.to_string().into(),
        }
    }
}

fn side(is_request: bool) -> &'static str {
    if is_request { "request" } else { "response" }
}

impl UpstreamError {
    /// Seconds after which the upstream wants to be asked again, where it said so.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Refused { retry_after, .. } | Self::Failed { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn words(&self) -> Option<&ProviderError> {
        match self {
            Self::Refused { error, .. } | Self::InBand(error) => Some(error),
            _ => None,
        }
    }

    /// The status that the caller is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused { status, .. } => *status,
            Self::InBand(error) => error
                .status
                .and_then(|status| StatusCode::from_u16(status).ok())
                .filter(StatusCode::is_client_error)
                .unwrap_or(StatusCode::BAD_GATEWAY),
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed { .. }
            | Self::Decode(_)
            | Self::Unreached(_)
            | Self::Transport(_)
            | Self::Cut(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } | Self::Failed { .. } | Self::InBand(_) => "upstream_error",
            Self::Decode(_) => "upstream_decode_error",
            Self::Unreached(_) | Self::Transport(_) => "transport_error",
            Self::Timeout(_) => "timeout",
            Self::Cut(_) => "stream_aborted",
        }
    }

    fn class(&self) -> &'static str {
        match self {
            Self::Refused { .. } | Self::Failed { .. } => "upstream_status",
            Self::InBand(_) => "upstream_in_band",
            Self::Decode(_) => "upstream_decode",
            Self::Unreached(_) | Self::Transport(_) => "transport",
            Self::Timeout(_) => "timeout",
            Self::Cut(_) => "stream_aborted",
        }
    }
}
