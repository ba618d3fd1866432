//! JSON as the answer: a tool that the model has to call, whose input is the answer.
//!
//! Every model and every provider of Messages knows tools, and what comes is JSON of the schema; Anthropic's own
//! `output_config.format` is known to the newer models only. The caller never sees the tool.

use serde_json::{Value, json};

use crate::chat::{Conversation, Format, ToolChoice};

/// The tool's name.
pub const NAME: &str = "json_answer";

/// The tool that is added, if the answer must be JSON; none where the caller asks for a call of a certain tool.
pub fn tool(conversation: &Conversation) -> Option<Value> {
    if matches!(conversation.tool_choice, Some(ToolChoice::Tool(_))) {
        return None;
    }
    let schema = match conversation.format.as_ref()? {
        Format::Text => return None,
        Format::Json => json!({"type": "object", "additionalProperties": true}),
        Format::Schema { schema, .. } => schema.clone(),
    };
    let description = "Gives the answer to the user. What is not in its input is not seen.";
    Some(json!({"name": NAME, "description": description, "input_schema": schema}))
}

/// What the model has to call then: this tool, or one of the caller's on the way to the answer.
pub fn choice(conversation: &Conversation) -> Value {
    let only_this =
        conversation.tools.is_empty() || conversation.tool_choice == Some(ToolChoice::None);
    let mut choice = if only_this {
        json!({"type": "tool", "name": NAME, "disable_parallel_tool_use": true})
    } else {
        json!({"type": "any"})
    };
    if conversation.parallel_tools == Some(false) {
        choice["disable_parallel_tool_use"] = true.into();
    }
    choice
}
