//! Guardrails: what text may not come, or not as it is, in requests and in answers.
//!
//! ```text
//! document ─ compile, once per change ─▶ Rule ─ several in order ─▶ Chain ─▶ texts of a body, texts of a stream
//! ```
//! The order of guardrails is that of their `created_at`, those without one last, then by id. Each works on what the one
//! before it has made of the text. One that only watches changes nothing for those behind it.
//!
//! Of a stream, text is held back only from where something that a guardrail looks for may have begun, and only until it is
//! clear whether it has. More than 64 KiB (`keyword`) or `max_buffer_bytes` (`pii`, at most 8 MiB) is never held back: then
//! the stream is refused, or with `on_buffer_exceeded: fail_open` let through unseen by this guardrail.

mod chain;
mod look;
mod text;

use std::cmp::Ordering;

use shared::resource::Guardrail;

use look::{Bound, Look};

pub use chain::{Chain, Record, whole};
pub use look::Tally;
pub use text::{Shape, Stop, StreamFilter, answer, multipart, plain, request};

/// A guardrail, ready to look.
#[derive(Debug)]
pub struct Rule {
    /// Resource id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What it looks with: `keyword`, `pii`, …
    pub kind: String,
    /// Whether it looks at requests.
    pub on_input: bool,
    /// Whether it looks at answers.
    pub on_output: bool,
    /// Whether it only tells what it would have done.
    pub is_monitor: bool,
    created_at: Option<i64>,
    /// `None` if this build cannot look that way.
    looks: Option<Vec<Look>>,
    bound: Bound,
}

impl Rule {
    /// Compiles a guardrail.
    pub fn new(guardrail: &Guardrail) -> Self {
        let compiled = look::compile(&guardrail.check);
        let (looks, bound) = match compiled {
            Some((looks, bound)) => (Some(looks), bound),
            None => (None, Bound { bytes: 0, opens: false }),
        };
        Self {
            id: guardrail.id.clone(),
            name: guardrail.name.clone(),
            kind: guardrail.kind.clone(),
            on_input: guardrail.on_input,
            on_output: guardrail.on_output,
            is_monitor: guardrail.is_monitor,
            created_at: guardrail.created_at_unix_ms,
            looks,
            bound,
        }
    }

    /// Whether it would decide, but cannot be carried out: what it guards is refused.
    pub fn is_unenforceable(&self) -> bool {
        self.looks.is_none() && !self.is_monitor
    }

    /// Whether it looks at anything at all.
    pub fn looks(&self) -> bool {
        self.looks.is_some()
    }

    /// Which of two looks first.
    pub fn order(&self, other: &Self) -> Ordering {
        let age = |rule: &Self| (rule.created_at.is_none(), rule.created_at);
        age(self).cmp(&age(other)).then_with(|| self.id.cmp(&other.id))
    }
}
