//! What guards traffic and cannot be enforced by this build: known to workers so that what it guards is refused, and
//! nothing else.

use bincode::{Decode, Encode};

/// A guardrail that is switched on and decides, rather than only watches. Without an attachment it guards nothing.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Guardrail {
    /// Resource id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What it looks with: `keyword`, `pii`, …
    pub kind: String,
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
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct OidcProvider {
    /// Resource id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
}
