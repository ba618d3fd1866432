//! A request as it is told to the export role: facts, never a text of a caller or of a provider beyond names and ids.

use bincode::{Decode, Encode};

/// Attempts that are told of one request; those beyond are only counted.
pub const ATTEMPTS_MAX: usize = 32;
/// Longest of the texts, in characters.
pub const TEXT_CHARS_MAX: usize = 256;

/// The caller's own span, by its `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Parent {
    /// Its id.
    pub span_id: [u8; 8],
    /// Whether the caller's trace is recorded.
    pub is_sampled: bool,
}

/// A request that is over. Moments are in nanoseconds since 1970; a text that there is none of is empty.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Trace {
    /// The trace that it belongs to.
    pub trace_id: [u8; 16],
    /// The caller's span; `None` where the trace begins here.
    pub parent: Option<Parent>,
    /// When it came.
    pub started: u64,
    /// When it was over.
    pub ended: u64,
    /// Its method.
    pub method: String,
    /// Its path, with names in place of what varies.
    pub route: String,
    /// The status that the caller got; 499 for one that has gone.
    pub status: u16,
    /// The class of its failure.
    pub error_type: String,
    /// Its id.
    pub request_id: String,
    /// What the caller speaks.
    pub protocol: String,
    /// What is asked for, in the words of the conventions: `chat`.
    pub operation: String,
    /// The model that the caller named.
    pub requested_model: String,
    /// The model that answered.
    pub served_model: String,
    /// Whether the answer is a stream.
    pub is_stream: bool,
    /// The caller's key.
    pub api_key_id: String,
    /// Its team.
    pub team_id: String,
    /// What the cache had to do with it.
    pub cache_status: String,
    /// What guardrails have done: `blocked`, `masked`, `bypassed`.
    pub guardrail: String,
    /// Tokens of the prompt, attempts that failed included.
    pub input_tokens: u64,
    /// Tokens of the answer, attempts that failed included.
    pub output_tokens: u64,
    /// What it has cost, in dollars.
    pub cost_usd: f64,
    /// When the caller got the first part of the answer; 0 if it is no stream.
    pub first_token: u64,
    /// The attempts, in order.
    pub attempts: Vec<Attempt>,
    /// Attempts that are not among them.
    pub attempts_left_out: u32,
}

/// An attempt at an upstream.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Attempt {
    /// When it began.
    pub started: u64,
    /// When it was over.
    pub ended: u64,
    /// When the first part of the answer came; 0 if it is no stream.
    pub first_token: u64,
    /// Why it is made: `initial`, `retry`, `fallback`.
    pub kind: String,
    /// Vendor of the upstream.
    pub provider: String,
    /// The gateway's model.
    pub model: String,
    /// The upstream's name of the model.
    pub upstream_model: String,
    /// The provider key.
    pub provider_key_id: String,
    /// Host of the upstream.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The upstream's status; 0 if there was none.
    pub status: u16,
    /// The class of its failure.
    pub error_type: String,
    /// The upstream's id of the answer.
    pub response_id: String,
    /// The upstream's own name of the model that answered.
    pub response_model: String,
    /// Why the answer ended.
    pub finish_reason: String,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Tokens of the prompt that the provider had kept.
    pub cache_read_tokens: u32,
    /// Tokens of the prompt that the provider keeps from now on.
    pub cache_creation_tokens: u32,
    /// Whether nobody has counted the tokens.
    pub is_estimated: bool,
}

/// Whether a trace is one of the part `rate` that is told. At 0 none is; otherwise the caller's own decision counts where
/// there is one, so that no trace is torn, and where there is none the trace id decides: for everybody alike, and whoever is
/// told of a smaller part is told of a part of the larger.
pub fn is_sampled(rate: f64, trace_id: &[u8; 16], parent: Option<Parent>) -> bool {
    if rate.is_nan() || rate <= 0.0 {
        return false;
    }
    if let Some(parent) = parent {
        return parent.is_sampled;
    }
    if rate >= 1.0 {
        return true;
    }
    // As `TraceIdRatioBased` of the SDKs: the last eight bytes, of which W3C asks that they be random.
    let [_, _, _, _, _, _, _, _, low @ ..] = *trace_id;
    let place = u64::from_be_bytes(low) >> 1;
    (place as f64) < rate * (1_u64 << 63) as f64
}
