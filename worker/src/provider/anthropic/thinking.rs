//! How much the model thinks, in Anthropic's words. <https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking>

use serde_json::{Map, Value, json};

use super::model;
use crate::chat::{Conversation, Effort, Message, Part, Reasoning, Role};

/// Anthropic takes no smaller budget.
const BUDGET_MIN: u64 = 1024;

/// Writes `thinking`, `max_tokens` and what depends on them. `must_call`: the model has to call a tool, which Anthropic does
/// not allow together with thinking; then it does not think.
pub fn write(
    conversation: &Conversation,
    model: &str,
    must_call: bool,
    body: &mut Map<String, Value>,
) {
    let reasoning = conversation
        .reasoning
        .filter(|_| !must_call && !continues_without_thoughts(&conversation.messages));
    let default = model::max_tokens(model);
    let max_tokens = conversation.max_tokens.unwrap_or(default);
    let (budget, effort) = match reasoning {
        None | Some(Reasoning::Off) => {
            body.insert("max_tokens".to_owned(), max_tokens.into());
            return sampling(conversation, model, body);
        }
        Some(Reasoning::Effort(effort)) => (effort.budget(), effort),
        Some(Reasoning::Budget(budget)) => (budget, Effort::of_budget(budget)),
    };
    if model::is_adaptive(model) {
        body.insert("max_tokens".to_owned(), max_tokens.into());
        // Else the newer models think unseen.
        let thinking = json!({"type": "adaptive", "display": "summarized"});
        body.insert("thinking".to_owned(), thinking);
        let word = if effort == Effort::Minimal { Effort::Low } else { effort }.word();
        body.insert("output_config".to_owned(), json!({"effort": word}));
        return;
    }
    // The limit covers thoughts and answer, and must leave room for the latter.
    let budget = match conversation.max_tokens {
        None => budget.min(default / 2),
        Some(max_tokens) if max_tokens > budget => budget,
        Some(max_tokens) => max_tokens / 2,
    };
    let budget = budget.max(BUDGET_MIN);
    body.insert("max_tokens".to_owned(), max_tokens.into());
    if budget >= max_tokens {
        return sampling(conversation, model, body);
    }
    body.insert("thinking".to_owned(), json!({"type": "enabled", "budget_tokens": budget}));
}

/// Measures of randomness, which do not go with thinking. The newer models take only one of the first two, and the newest
/// none. Anthropic's scale of temperature ends at 1.
fn sampling(conversation: &Conversation, model: &str, body: &mut Map<String, Value>) {
    if model::is_adaptive(model) {
        return;
    }
    match (conversation.temperature, conversation.top_p) {
        (Some(temperature), _) => {
            body.insert("temperature".to_owned(), temperature.min(1.0).into());
        }
        (None, Some(top_p)) => {
            body.insert("top_p".to_owned(), top_p.into());
        }
        (None, None) => {}
    }
    if let Some(top_k) = conversation.top_k {
        body.insert("top_k".to_owned(), top_k.into());
    }
}

/// Whether the model is in the middle of calling tools, and its caller has not kept what it thought: then Anthropic refuses
/// to let it think on.
pub(in crate::provider) fn continues_without_thoughts(messages: &[Message]) -> bool {
    let is_result = |part: &Part| matches!(part, Part::ToolResult { .. });
    let mut turns = messages.iter().rev().filter(|message| message.role != Role::System);
    let assistant = turns
        .find(|message| message.role == Role::Assistant || !message.parts.iter().any(is_result));
    let Some(Message { role: Role::Assistant, parts }) = assistant else { return false };
    let is_thought = |part: &Part| {
        matches!(part, Part::Reasoning { signature: Some(_), .. } | Part::HiddenReasoning(_))
    };
    let calls = parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
    calls && !parts.iter().any(is_thought)
}
