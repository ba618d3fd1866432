//! What is counted of a request when it is over.

use std::time::Duration;

use shared::metric::family::{
    E2E_LATENCY, LLM_FIRST_TOKEN, LLM_INPUT_TOKENS, LLM_OUTPUT_TOKENS, LLM_REQUEST_DURATION,
    LLM_REQUESTS, LLM_SPEND, LLM_TOTAL_TOKENS, PROXY_FAILED_REQUESTS, PROXY_REQUEST_DURATION,
    PROXY_REQUESTS, REQUEST_DURATION, REQUESTS, TOKENS_BY_CLIENT, TOKENS_CONSUMED, TTFT,
};

use super::{Metrics, StatusText, status_class};

/// What is known of a request when it is over. Texts may be empty where nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFacts<'a> {
    /// Route template, such as `/v1/chat/completions`.
    pub endpoint: &'a str,
    /// Dialect of the caller: `openai`, `anthropic`, …
    pub inbound_protocol: &'a str,
    /// Vendor of the upstream.
    pub provider: &'a str,
    /// Configured name of the model, or `unresolved`.
    pub model: &'a str,
    /// Name of the model at the upstream.
    pub upstream_model: &'a str,
    /// Resource id of the provider key.
    pub provider_key_id: &'a str,
    /// Label of the provider key.
    pub provider_key_name: &'a str,
    /// Resource id of the caller key.
    pub api_key_id: &'a str,
    /// Team of the caller key.
    pub team_id: &'a str,
    /// Owner of the caller key.
    pub user_id: &'a str,
    /// Name of the owner.
    pub user_name: &'a str,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// HTTP status of the answer; 499 if the caller left before.
    pub status: u16,
    /// From the request to the end of the answer.
    pub duration: Duration,
    /// From the request to the first token of a stream.
    pub ttft: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// The program that calls, by its user agent.
    pub client_type: &'a str,
    /// Whether an upstream was asked.
    pub reached_llm: bool,
    /// Whether the answer is that of a target which the group has fallen back to.
    pub is_fallback: bool,
    /// What the tokens have cost, in millionths of a dollar.
    pub spend_micro_usd: u64,
}

impl<'a> RequestFacts<'a> {
    fn outcome(&self) -> &'static str {
        match self.status {
            429 => "rate_limited",
            200..400 => "success",
            400..500 => "client_error",
            _ => "upstream_error",
        }
    }

    fn streaming(&self) -> &'static str {
        if self.stream { "true" } else { "false" }
    }

    /// Labels of `USE` families.
    fn of_use(&self) -> [&'a str; 11] {
        [
            self.endpoint,
            self.inbound_protocol,
            self.provider,
            self.model,
            self.upstream_model,
            self.provider_key_id,
            self.provider_key_name,
            self.api_key_id,
            self.team_id,
            self.user_id,
            self.user_name,
        ]
    }
}

impl Metrics {
    /// Counts a request that is over.
    pub fn request(&self, facts: &RequestFacts<'_>) {
        let RequestFacts { endpoint, provider, model, status, duration, .. } = *facts;
        let status_text = StatusText::new(status);
        let (status_text, outcome) = (status_text.as_str(), facts.outcome());
        let [a, b, c, d, e, f, g, h, i, j, k] = facts.of_use();
        let stream = facts.streaming();
        let is_fallback = if facts.is_fallback { "true" } else { "false" };
        let counted = [a, b, c, d, e, f, g, h, i, j, k, stream, is_fallback, status_text, outcome];
        let timed = [a, b, c, d, e, f, g, h, i, j, k, stream, status_text, outcome];

        self.add(&REQUESTS, &[provider, model, status_text, outcome], 1);
        self.time(&REQUEST_DURATION, &[provider, model, status_text], duration);
        self.add(&PROXY_REQUESTS, &counted, 1);
        if status >= 400 {
            self.add(&PROXY_FAILED_REQUESTS, &counted, 1);
        }
        self.time(&PROXY_REQUEST_DURATION, &timed, duration);
        let env_id = self.env_id();
        let latency = [&*env_id, endpoint, model, provider, status_class(status), stream];
        self.time(&E2E_LATENCY, &latency, duration);
        if let Some(ttft) = facts.ttft {
            self.time(&TTFT, &latency, ttft);
            self.time(&LLM_FIRST_TOKEN, &facts.of_use(), ttft);
        }
        if facts.reached_llm {
            self.add(&LLM_REQUESTS, &counted, 1);
            self.time(&LLM_REQUEST_DURATION, &timed, duration);
            self.tokens(facts);
        }
    }

    fn tokens(&self, facts: &RequestFacts<'_>) {
        let of_use = facts.of_use();
        let total = facts.prompt_tokens.saturating_add(facts.completion_tokens);
        for (family, token_type, tokens) in [
            (&LLM_INPUT_TOKENS, "input", facts.prompt_tokens),
            (&LLM_OUTPUT_TOKENS, "output", facts.completion_tokens),
            (&LLM_TOTAL_TOKENS, "total", total),
        ] {
            if tokens > 0 {
                self.add(family, &of_use, tokens);
                let by_client = [facts.client_type, facts.model, token_type];
                self.add(&TOKENS_BY_CLIENT, &by_client, tokens);
            }
        }
        if facts.spend_micro_usd > 0 {
            self.add(&LLM_SPEND, &of_use, facts.spend_micro_usd);
        }
        if total > 0 {
            self.add(&TOKENS_CONSUMED, &[facts.provider, facts.model], total);
        }
    }
}
