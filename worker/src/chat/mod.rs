//! A conversation in nobody's words: what lies between the dialect of a caller and the protocol of a provider where the two
//! differ. Where they are the same, nothing passes through here: the caller's bytes are forwarded, and the provider's relayed.
//!
//! ```text
//! caller's request ─ dialect ─▶ Conversation ─ provider ─▶ provider's request
//! provider's answer ─ Decoder ─▶ Answer, Events ─ Encoder ─▶ caller's answer
//! ```
//! A part that the other side has no words for is left out where it only helps (a mark for a cache, a signature), and refused
//! where it changes what is asked for.

mod effort;
mod event;
mod translate;

use serde_json::Value;

use crate::provider::TokenUsage;

pub use event::{Decoder, Encoder, Event};
pub use translate::Translation;

/// What is asked of a model. `None` and empty mean that the caller says nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// What the model is told before the conversation. Only [`Part::Text`].
    pub system: Vec<Part>,
    /// The turns, in order; two in a row may be of the same role.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it has to.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several tools at once.
    pub parallel_tools: Option<bool>,
    /// Most tokens of the answer, reasoning included.
    pub max_tokens: Option<u64>,
    /// Randomness, 0 to 2 in OpenAI's scale.
    pub temperature: Option<f64>,
    /// Share of the likeliest tokens.
    pub top_p: Option<f64>,
    /// Number of the likeliest tokens.
    pub top_k: Option<u64>,
    /// OpenAI's parameter of that name.
    pub frequency_penalty: Option<f64>,
    /// OpenAI's parameter of that name.
    pub presence_penalty: Option<f64>,
    /// For answers that can be repeated.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// How many answers.
    pub n: Option<u64>,
    /// What the answer must be.
    pub format: Option<Format>,
    /// How much the model thinks first.
    pub reasoning: Option<Reasoning>,
    /// The caller's word for its end user.
    pub user: Option<String>,
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Whose it is.
    pub role: Role,
    /// What it consists of, in order.
    pub parts: Vec<Part>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An instruction in the middle of the conversation. Only [`Part::Text`].
    System,
    /// The caller's; results of tools are parts of it.
    User,
    /// The model's.
    Assistant,
}

/// A piece of a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// A mark for the provider's prompt cache behind it.
        cache: Option<CacheMark>,
    },
    /// A picture, a document or a sound.
    Media {
        /// What it is.
        kind: MediaKind,
        /// Where it is.
        source: MediaSource,
        /// Its name, if it has one.
        name: Option<String>,
        /// A mark for the provider's prompt cache behind it.
        cache: Option<CacheMark>,
    },
    /// The model calls a tool.
    ToolCall {
        /// By what the result will refer to it.
        id: String,
        /// Which tool.
        name: String,
        /// A JSON object, as text; empty for none.
        arguments: String,
        /// A mark for the provider's prompt cache behind it.
        cache: Option<CacheMark>,
    },
    /// What a tool has brought.
    ToolResult {
        /// To which call.
        id: String,
        /// Text and media.
        parts: Vec<Part>,
        /// Whether the tool failed.
        is_error: bool,
        /// A mark for the provider's prompt cache behind it.
        cache: Option<CacheMark>,
    },
    /// What the model has thought.
    Reasoning {
        /// Its words; may be empty.
        text: String,
        /// By which the provider knows them as its own; opaque.
        signature: Option<String>,
    },
    /// What the model has thought and does not show; opaque.
    HiddenReasoning(String),
}

/// What kind of media a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A document such as a PDF.
    Document,
    /// A sound.
    Audio,
}

/// Where media is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaSource {
    /// Here.
    Base64 {
        /// MIME type.
        media_type: String,
        /// Standard base64.
        data: String,
    },
    /// Elsewhere: the provider fetches it, never the gateway.
    Url(String),
    /// At the provider, under an id of its own.
    FileId(String),
}

/// A mark for a provider's prompt cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMark {
    /// For five minutes, or what the provider thinks best.
    Short,
    /// For an hour.
    Hour,
}

/// What the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// By what it is called.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether arguments must fit the schema.
    pub strict: Option<bool>,
    /// A mark for the provider's prompt cache behind it.
    pub cache: Option<CacheMark>,
}

/// Whether the model has to call a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    Auto,
    /// It must not.
    None,
    /// It must.
    Any,
    /// It must call this one.
    Tool(String),
}

/// What the answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Anything.
    Text,
    /// A JSON object.
    Json,
    /// JSON of this schema.
    Schema {
        /// A name for it.
        name: String,
        /// JSON Schema.
        schema: Value,
        /// Whether it must fit exactly.
        strict: Option<bool>,
    },
}

/// How much the model thinks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reasoning {
    /// Not at all.
    Off,
    /// In OpenAI's words.
    Effort(Effort),
    /// At most so many tokens.
    Budget(u64),
}

/// How much the model thinks, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// `minimal`
    Minimal,
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The provider's id of it; empty if it gave none.
    pub id: String,
    /// The model that the provider says it was; empty if it says nothing.
    pub model: String,
    /// [`Part::Text`], [`Part::ToolCall`], [`Part::Reasoning`] and [`Part::HiddenReasoning`].
    pub parts: Vec<Part>,
    /// Why it ended.
    pub stop: Stop,
    /// The provider's count, if it gave one.
    pub usage: Option<TokenUsage>,
}

/// Why an answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// In our words.
    pub reason: StopReason,
    /// In the provider's.
    pub word: String,
    /// The text of the caller's that ended it.
    pub sequence: Option<String>,
}

/// Why an answer ended, in our words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopReason {
    /// It is complete.
    #[default]
    End,
    /// At most so many tokens were asked for.
    Length,
    /// At one of the caller's texts.
    Sequence,
    /// The model calls tools.
    ToolCalls,
    /// The provider or the model does not want to say it.
    Refusal,
    /// The provider has paused a long turn, to be continued by another request.
    Pause,
}
