//! Why a token is not accepted.

use http::StatusCode;

/// Why a token is not accepted. `Display` is what the caller is told: no more than helps it, for whoever probes must not
/// learn which issuers are trusted. [`Rejection::reason`] is for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not the parts of a token, or not of their shape.
    Malformed,
    /// It names no issuer.
    MissingIssuer,
    /// No provider has this issuer, or two have.
    UntrustedIssuer,
    /// Signed by an algorithm that is not for public keys, or that its key is not for.
    AlgorithmNotAllowed,
    /// The provider has no such key.
    UnknownKey,
    /// There are no keys to verify it with.
    KeysUnavailable,
    /// The signature is not of the key.
    BadSignature,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for somebody else.
    AudienceMismatch,
    /// It lacks a claim that every token must have.
    MissingClaim,
    /// It lacks a scope.
    ScopeMissing,
    /// A claim has none of the values that it must have.
    BoundClaimMismatch,
    /// It does not say who the caller is.
    IdentityClaimMissing,
    /// No caller key is bound to this identity.
    IdentityUnmapped,
    /// Two caller keys are.
    BindingAmbiguous,
    /// Anything else.
    Invalid,
}

impl Rejection {
    /// The published word for it, in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "jwt_malformed",
            Self::MissingIssuer => "jwt_missing_issuer",
            Self::UntrustedIssuer => "jwt_untrusted_issuer",
            Self::AlgorithmNotAllowed => "jwt_alg_not_allowed",
            Self::UnknownKey => "jwt_unknown_kid",
            Self::KeysUnavailable => "jwks_unavailable",
            Self::BadSignature => "jwt_bad_signature",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::AudienceMismatch => "jwt_audience_mismatch",
            Self::MissingClaim => "jwt_missing_claim",
            Self::ScopeMissing => "jwt_scope_missing",
            Self::BoundClaimMismatch => "jwt_bound_claim_mismatch",
            Self::IdentityClaimMissing => "jwt_identity_claim_missing",
            Self::IdentityUnmapped => "jwt_identity_unmapped",
            Self::BindingAmbiguous => "jwt_binding_ambiguous",
            Self::Invalid => "jwt_invalid",
        }
    }

    /// The `code` that the caller is told.
    pub fn code(self) -> &'static str {
        match self {
            Self::Expired => "jwt_expired",
            Self::ScopeMissing | Self::BoundClaimMismatch => "jwt_claims_rejected",
            Self::IdentityClaimMissing | Self::IdentityUnmapped | Self::BindingAmbiguous => {
                "jwt_identity_unmapped"
            }
            Self::KeysUnavailable => "jwks_unavailable",
            _ => "jwt_invalid",
        }
    }

    /// The `type` that goes with it.
    pub fn kind(self) -> &'static str {
        match self.code() {
            "jwt_claims_rejected" => "permission_denied",
            "jwks_unavailable" => "api_error",
            _ => "invalid_api_key",
        }
    }

    /// The status that goes with it.
    pub fn status(self) -> StatusCode {
        match self.code() {
            "jwt_claims_rejected" => StatusCode::FORBIDDEN,
            "jwks_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.code() {
            "jwt_expired" => "the JWT has expired",
            "jwt_claims_rejected" => "the JWT does not have the scopes or claims that are required",
            "jwt_identity_unmapped" => "no API key is bound to the identity of this JWT",
            "jwks_unavailable" => {
                "the signing keys of the identity provider are not available; try again"
            }
            _ => "invalid JWT",
        })
    }
}

impl std::error::Error for Rejection {}
