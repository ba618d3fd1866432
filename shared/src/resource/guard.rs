//! What guards traffic: guardrails, limits of policies, and who vouches for callers. What of it this build cannot enforce is
//! known to workers all the same, so that what it guards is refused, and nothing else.

use bincode::{Decode, Encode};

use super::key_source::KeySource;
use super::limits::RateLimits;

/// A regular expression of a guardrail may take so many bytes when compiled; a larger one cannot be enforced.
pub const REGEX_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A guardrail that is switched on. Without an attachment it guards nothing.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Guardrail {
    /// Resource id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What it looks with, in the words of the document: `keyword`, `pii`, …
    pub kind: String,
    /// Whether it looks at requests.
    pub on_input: bool,
    /// Whether it looks at answers.
    pub on_output: bool,
    /// Whether it only tells what it would have done.
    pub is_monitor: bool,
    /// When it was made, in milliseconds since 1970 UTC: older ones look first, those without a time last.
    pub created_at_unix_ms: Option<i64>,
    /// How it looks.
    pub check: Check,
}

/// How a guardrail looks at text.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Check {
    /// Not at all: this build has nothing for its kind, and what it guards is refused.
    NotEnforceable,
    /// Text in which one of the patterns is found is refused.
    Keyword(Vec<KeywordPattern>),
    /// Personal data and secrets are masked or refused.
    Pii(PiiCheck),
}

/// What a keyword guardrail looks for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum KeywordPattern {
    /// A text.
    Literal(String),
    /// A regular expression.
    Regex(String),
}

/// What a guardrail against personal data looks for, and how.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PiiCheck {
    /// Built-in detectors by the document's names, and what becomes of what they find.
    pub detectors: Vec<(String, PiiAction)>,
    /// The operator's own, after the built-in ones.
    pub patterns: Vec<PiiPattern>,
    /// Most bytes of a stream that are held back.
    pub buffer_bytes_max: u64,
    /// Whether more than that is let through unseen, rather than refused.
    pub opens_when_full: bool,
}

/// What becomes of what a detector finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PiiAction {
    /// It is replaced.
    Mask,
    /// What holds it is refused.
    Block,
}

/// A detector of the operator's own.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PiiPattern {
    /// Its name, which stands in place of what it masks.
    pub name: String,
    /// Regular expression; only its first group is masked, if it has one.
    pub regex: String,
    /// What becomes of what it finds.
    pub action: PiiAction,
    /// What is put in place, other than `[<NAME>_REDACTED]`.
    pub replacement: Option<String>,
}

/// Puts a guardrail in front of some requests.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct GuardrailAttachment {
    /// Resource id.
    pub id: String,
    /// Resource id of the guardrail, which need not exist.
    pub guardrail_id: String,
    /// In front of which requests.
    pub subject: Subject,
    /// Of several attachments of one guardrail the highest counts.
    pub priority: i64,
}

/// A rate limit policy that limits something.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct RateLimitPolicy {
    /// Resource id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Which requests it counts.
    pub scope: PolicyScope,
    /// How many of them are let through; `None` = this build does not understand the policy, and what it would count is
    /// refused.
    pub limits: Option<RateLimits>,
    /// When it is suspended.
    pub schedules: Vec<Schedule>,
}

/// Wall-clock windows in which a policy is suspended. Its counters go on meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Schedule {
    /// The days on which it begins.
    pub days: Days,
    /// First minute of the day.
    pub start_minute: u16,
    /// The minute after the last one, up to 1440. One before the start lies in the following day; one that equals it makes
    /// the window empty.
    pub end_minute: u16,
    /// IANA name of the time zone in which all of this is meant.
    pub timezone: String,
}

/// Days on which a window begins.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Days {
    /// Days of the week, Monday first.
    Week([bool; 7]),
    /// Dates, `YYYY-MM-DD`.
    Dates(Vec<String>),
}

/// Which requests a rate limit policy counts.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum PolicyScope {
    /// All of one subject.
    Subject(Subject),
    /// All that fulfil every condition and have every dimension by which it counts separately.
    Conditions {
        /// All of them have to be fulfilled.
        conditions: Vec<Condition>,
        /// Each of them has to be there.
        group_by: Vec<Dimension>,
    },
}

/// Whose requests something is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Subject {
    /// Everybody's.
    Everything,
    /// For the model of this id.
    Model(String),
    /// With the caller key of this id.
    ApiKey(String),
    /// Of the team of this id.
    Team(String),
    /// Of the user of this id.
    Member(String),
    /// Of every user in the team of this id; a key without a user is none.
    TeamMember(String),
    /// Through the passthrough route of this id.
    Route(String),
}

/// A condition on a request.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Condition {
    /// All of these.
    All(Vec<Condition>),
    /// At least one of these.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// The dimension has one of these values.
    IsOneOf(Dimension, Vec<String>),
    /// The dimension's value matches a regular expression somewhere.
    Matches {
        /// Of what.
        dimension: Dimension,
        /// The expression.
        pattern: String,
        /// Capitals count as small letters.
        ignore_case: bool,
    },
    /// Something that this build does not understand: it may be fulfilled.
    Unknown,
}

/// A property of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Dimension {
    /// Team of the caller key.
    Team,
    /// User of the caller key.
    Member,
    /// Id of the caller key.
    ApiKey,
    /// Id of the model.
    Model,
    /// Name of the model.
    ModelName,
    /// Vendor of the model.
    Provider,
}

/// An identity provider that is switched on: bearers in the shape of its tokens are its to judge.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct OidcProvider {
    /// Resource id.
    pub id: String,
    /// Its name: keys and mappings know it by it.
    pub name: String,
    /// What `iss` must be, byte for byte.
    pub issuer: String,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub keys: KeySource,
    /// The claim that names the caller; dots lead into objects.
    pub identity_claim: String,
    /// Seconds by which its clock may differ.
    pub leeway_secs: u64,
    /// All of these must be in `scope`.
    pub required_scopes: Vec<String>,
    /// Claims that must have (or hold) one of these values.
    pub bound_claims: Vec<(String, Vec<String>)>,
}

impl OidcProvider {
    /// What its keys depend on: with another issuer or place they are others.
    pub fn key_source(&self) -> String {
        format!("{} {}", self.issuer, self.keys)
    }
}

/// Whose key a token with certain claims stands for.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct ClaimMapping {
    /// Resource id.
    pub id: String,
    /// Its name; decides between two of one priority.
    pub name: String,
    /// Name of the identity provider.
    pub jwt_provider: String,
    /// All of them must hold.
    pub conditions: Vec<ClaimCondition>,
    /// Lower ones are tried first.
    pub priority: u64,
    /// Resource id of the caller key, which need not exist.
    pub api_key_id: String,
}

/// A condition on a claim of a token.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ClaimCondition {
    /// The claim; dots lead into objects.
    pub claim: String,
    /// Whether it must be a list that holds one of the values, rather than a text that is one of them.
    pub contains: bool,
    /// The values.
    pub values: Vec<String>,
}
