//! Which program calls, by its user agent: the configured rules first, then the programs that are known here. Labels stay
//! few: nothing of a user agent itself becomes one.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::{Regex, RegexBuilder};
use shared::worker_settings::ClientRule;

/// What is looked for in a user agent, in lower case, and the program it stands for. The first that is found counts: agents
/// come before the libraries they are made with. Names as published.
const KNOWN: &[(&str, &str)] = &[
    ("claude-cli", "claude-code"),
    ("claude-code", "claude-code"),
    ("codex", "codex"),
    ("roo-code", "roo-code"),
    ("roocode", "roo-code"),
    ("kilo-code", "kilocode"),
    ("kilocode", "kilocode"),
    ("zoo-code", "zoo-code"),
    ("zoocode", "zoo-code"),
    ("cline", "cline"),
    ("githubcopilot", "github-copilot"),
    ("github-copilot", "github-copilot"),
    ("copilot", "github-copilot"),
    ("cursor", "cursor"),
    ("opencode", "opencode"),
    ("qwen-code", "qwen-code"),
    ("qwencode", "qwen-code"),
    ("geminicli", "gemini-cli"),
    ("gemini-cli", "gemini-cli"),
    ("charm-crush", "crush"),
    ("crush/", "crush"),
    ("zed/", "zed"),
    ("aider", "aider"),
    ("langchain", "langchain"),
    ("llamaindex", "llamaindex"),
    ("llama-index", "llamaindex"),
    ("llama_index", "llamaindex"),
    ("litellm", "litellm"),
    ("ai-sdk", "vercel-ai-sdk"),
    ("openai/python", "openai-python"),
    ("asyncopenai/python", "openai-python"),
    ("openai/js", "openai-node"),
    ("anthropic/python", "anthropic-python"),
    ("asyncanthropic/python", "anthropic-python"),
    ("anthropic/js", "anthropic-typescript"),
    ("curl/", "curl"),
    ("python-requests", "python-requests"),
    ("python-httpx", "httpx"),
    ("aiohttp", "aiohttp"),
    ("okhttp", "okhttp"),
    ("go-http-client", "go-http-client"),
    ("postmanruntime", "postman"),
    ("undici", "node"),
    ("node-fetch", "node"),
    ("node/", "node"),
    ("mozilla/", "browser"),
];

/// User agents whose program is remembered. Strangers choose them: where there are more, all are forgotten.
const REMEMBERED_MAX: usize = 256;

/// The rules, and what they have said lately.
#[derive(Debug, Default)]
pub struct ClientTypes {
    rules: Vec<(Regex, String)>,
    remembered: RefCell<HashMap<Box<str>, Program>>,
}

/// What a user agent stands for.
#[derive(Clone, Copy, Debug)]
enum Program {
    /// What this rule says.
    Rule(usize),
    Known(&'static str),
}

impl ClientTypes {
    /// The configured rules before the known programs. The supervisor has seen that every pattern compiles.
    pub fn new(rules: &[ClientRule]) -> Self {
        let compiled = rules.iter().filter_map(|rule| {
            let pattern = RegexBuilder::new(&rule.pattern).case_insensitive(true).build().ok()?;
            Some((pattern, rule.client.clone()))
        });
        Self { rules: compiled.collect(), remembered: RefCell::default() }
    }

    /// The program of this user agent: `unknown` without one, `other` where nothing fits.
    pub fn of(&self, user_agent: &str) -> &str {
        if user_agent.is_empty() {
            return "unknown";
        }
        let mut remembered = self.remembered.borrow_mut();
        let program = remembered.get(user_agent).copied().unwrap_or_else(|| {
            let program = self.look(user_agent);
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(user_agent.into(), program);
            program
        });
        match program {
            Program::Rule(index) => self.rules.get(index).map_or("other", |(_, client)| client),
            Program::Known(client) => client,
        }
    }

    fn look(&self, user_agent: &str) -> Program {
        if let Some(index) = self.rules.iter().position(|(rule, _)| rule.is_match(user_agent)) {
            return Program::Rule(index);
        }
        let lower = user_agent.to_ascii_lowercase();
        let known = KNOWN.iter().find(|(part, _)| lower.contains(part)).map(|(_, client)| *client);
        // Node's own client names nothing but its runtime.
        Program::Known(known.unwrap_or(if lower == "node" { "node" } else { "other" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_user_agents() {
        let types = ClientTypes::default();
        for (user_agent, client) in [
            ("", "unknown"),
            ("Something/1.0", "other"),
            ("claude-cli/2.0.1 (external, cli)", "claude-code"),
            ("codex_cli_rs/0.38.0 (Ubuntu 24.04; x86_64) WindowsTerminal", "codex"),
            ("opencode/0.9 ai-sdk/openai", "opencode"),
            ("OpenAI/Python 1.99.0", "openai-python"),
            ("AsyncOpenAI/Python 1.99.0", "openai-python"),
            ("OpenAI/JS 5.1.0", "openai-node"),
            ("Anthropic/JS 0.60", "anthropic-typescript"),
            ("curl/8.5.0", "curl"),
            ("node", "node"),
            ("Mozilla/5.0 (X11; Linux x86_64)", "browser"),
            ("Mozilla/5.0 Cursor/1.2", "cursor"),
        ] {
            assert_eq!(types.of(user_agent), client, "{user_agent}");
        }
    }

    #[test]
    fn configured_rules_come_first_in_any_case_and_anywhere() {
        let rule = |pattern: &str, client: &str| ClientRule {
            pattern: pattern.to_owned(),
            client: client.to_owned(),
        };
        let types = ClientTypes::new(&[rule("batcher", "ours"), rule("BATCHER|curl", "second")]);
        assert_eq!(types.of("Py-Batcher/1"), "ours");
        assert_eq!(types.of("curl/8"), "second");
        assert_eq!(types.of("okhttp/4"), "okhttp");
        for other in 0..2 * REMEMBERED_MAX {
            assert_eq!(types.of(&format!("curl/{other}")), "second");
        }
        assert_eq!(types.of("okhttp/4"), "okhttp");
    }
}
