//! A model: a name that callers ask for, and what stands behind it.

use bincode::{Decode, Encode};

use crate::cidr::Cidr;

/// A configured model.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Model {
    /// Resource id.
    pub id: String,
    /// The name callers use; may hold one `*` on a direct model.
    pub display_name: String,
    /// What stands behind the name.
    pub kind: ModelKind,
    /// Limit of an unary call, in milliseconds: `None` = the deployment's, `Some(0)` = none.
    pub timeout_ms: Option<u64>,
    /// Longest silence within a stream, in milliseconds: `None` or `Some(0)` = the deployment's.
    pub stream_timeout_ms: Option<u64>,
    /// Callers' addresses that may use the model; empty = all.
    pub allowed_cidrs: Vec<Cidr>,
}

/// What stands behind a model's name.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ModelKind {
    /// One upstream model.
    Direct(DirectModel),
    /// A group of direct models.
    Routing,
    /// A panel with a judge.
    Ensemble,
    /// A choice by the meaning of the request.
    Semantic,
}

/// One upstream model behind one provider key.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct DirectModel {
    /// Vendor of the upstream: decides dispatch, shown in metrics and logs.
    pub provider: String,
    /// Name of the model at the upstream; a `*` stands for what the caller's name had in its place.
    pub model_name: String,
    /// Resource id of the provider key.
    pub provider_key_id: String,
    /// What its tokens cost; `None` = nothing.
    pub cost: Option<Cost>,
}

/// What tokens cost, in dollars per thousand.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Cost {
    /// Of the prompt, cached or not.
    pub input_per_1k: f64,
    /// Of the answer.
    pub output_per_1k: f64,
}

impl Cost {
    /// What so many tokens cost, in dollars.
    pub fn of(self, prompt_tokens: u32, completion_tokens: u32) -> f64 {
        let (prompt, completion) = (f64::from(prompt_tokens), f64::from(completion_tokens));
        (prompt * self.input_per_1k + completion * self.output_per_1k) / 1000.0
    }
}
