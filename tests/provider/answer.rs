//! What the upstream says, and how it counts: a token is a word.

use serde_json::{Value, json};

use super::behaviour::{BIG_WORDS, Behaviour};

/// The answer to one request: a function of the request alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Names the answer, as a provider would.
    pub id: String,
    /// The model asked for.
    pub model: String,
    /// What is said, word by word.
    pub words: Vec<String>,
    /// Words in all the messages of the request.
    pub prompt_tokens: u32,
    /// The tools that are called, by name, with the text they are called for: all of them if one has to be, or if the last
    /// text begins with `call`.
    pub calls: Vec<(String, String)>,
}

impl Answer {
    /// Answers a request body of chat completions.
    pub fn to(request: &Value, behaviour: Behaviour) -> Self {
        let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let said: Vec<String> = messages.iter().map(|message| text(&message["content"])).collect();
        let prompt_tokens = said.iter().map(|text| count(text)).sum();
        let words = match behaviour {
            Behaviour::Big => (0..BIG_WORDS).map(|number| format!("word-{number}")).collect(),
            _ => {
                let last = said.last().map_or("nothing", String::as_str);
                format!("You said: {last}").split_whitespace().map(str::to_owned).collect()
            }
        };
        let model = request["model"].as_str().unwrap_or_default().to_owned();
        let last = said.last().cloned().unwrap_or_default();
        let has_to = request["tool_choice"] == "required" || last.starts_with("call");
        let tools = request["tools"].as_array().into_iter().flatten().filter(|_| has_to);
        let name = |tool: &Value| tool["function"]["name"].as_str().unwrap_or_default().to_owned();
        let calls = tools.map(|tool| (name(tool), last.clone())).collect();
        Self { id: format!("chatcmpl-{prompt_tokens}-{model}"), model, words, prompt_tokens, calls }
    }

    /// Words in the answer.
    pub fn completion_tokens(&self) -> u32 {
        u32::try_from(self.words.len()).unwrap_or(u32::MAX)
    }

    /// The `usage` object.
    pub fn usage(&self) -> Value {
        let completion_tokens = self.completion_tokens();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        })
    }

    /// The whole answer, as an unary call gets it.
    pub fn completion(&self) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": self.message(),
                "finish_reason": self.finish_reason(),
            }],
            "usage": self.usage(),
        })
    }

    fn message(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.words.join(" ")});
        if !self.calls.is_empty() {
            message["tool_calls"] = (0..self.calls.len()).map(|index| self.call(index)).collect();
        }
        message
    }

    fn call(&self, index: usize) -> Value {
        let (name, said) = &self.calls[index];
        json!({"id": format!("call_{index}"), "type": "function",
            "function": {"name": name, "arguments": json!({"said": said}).to_string()}})
    }

    fn finish_reason(&self) -> &'static str {
        if self.calls.is_empty() { "stop" } else { "tool_calls" }
    }

    /// The answer as the chunks of a stream: role, a word each, the reason of the end, and the usage if it was asked for.
    pub fn chunks(&self, include_usage: bool) -> Vec<Value> {
        let chunk = |choices: Value, usage: Value| {
            let mut chunk = json!({
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": 1_700_000_000,
                "model": self.model,
                "choices": choices,
            });
            if include_usage {
                chunk["usage"] = usage;
            }
            chunk
        };
        let delta = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        let role = delta(json!({"role": "assistant", "content": ""}), Value::Null);
        let mut chunks = vec![chunk(role, Value::Null)];
        for (index, word) in self.words.iter().enumerate() {
            let text = if index == 0 { word.clone() } else { format!(" {word}") };
            chunks.push(chunk(delta(json!({"content": text}), Value::Null), Value::Null));
        }
        for index in 0..self.calls.len() {
            let mut call = self.call(index);
            let arguments = call["function"]["arguments"].take();
            call["index"] = json!(index);
            call["function"]["arguments"] = json!("");
            chunks.push(chunk(delta(json!({"tool_calls": [call]}), Value::Null), Value::Null));
            for piece in arguments.as_str().unwrap_or_default().split_inclusive(' ') {
                let call = json!({"index": index, "function": {"arguments": piece}});
                chunks.push(chunk(delta(json!({"tool_calls": [call]}), Value::Null), Value::Null));
            }
        }
        chunks.push(chunk(delta(json!({}), json!(self.finish_reason())), Value::Null));
        if include_usage {
            chunks.push(chunk(json!([]), self.usage()));
        }
        chunks
    }
}

/// The text of a message: a string, or the text parts of a list.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

fn count(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        json!({"model": "small-1", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one two three"}]},
        ]})
    }

    #[test]
    fn a_token_is_a_word() {
        let answer = Answer::to(&request(), Behaviour::Plain);
        assert_eq!(answer.words, ["You", "said:", "one", "two", "three"]);
        assert_eq!(
            answer.usage(),
            json!({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10})
        );
    }

    #[test]
    fn usage_is_in_a_stream_only_if_it_was_asked_for() {
        let answer = Answer::to(&request(), Behaviour::Plain);
        let plain = answer.chunks(false);
        assert!(plain.iter().all(|chunk| chunk.get("usage").is_none()));
        let with_usage = answer.chunks(true);
        assert_eq!(with_usage.len(), plain.len() + 1);
        let last = with_usage.last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &answer.usage()));
    }
}
