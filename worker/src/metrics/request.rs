//! What is counted of a request when it is over.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use shared::metric::Family;
use shared::metric::family::{
    E2E_LATENCY, LLM_FIRST_TOKEN, LLM_INPUT_TOKENS, LLM_OUTPUT_TOKENS, LLM_REQUEST_DURATION,
    LLM_REQUESTS, LLM_SPEND, LLM_TOTAL_TOKENS, PROXY_FAILED_REQUESTS, PROXY_REQUEST_DURATION,
    PROXY_REQUESTS, REQUEST_DURATION, REQUESTS, TOKENS_BY_CLIENT, TOKENS_CONSUMED, TTFT,
};

use super::{Metrics, StatusText, status_class};
use crate::Map;

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

/// The families that a request counts in.
#[derive(Clone, Copy)]
enum In {
    Requests,
    RequestDuration,
    ProxyRequests,
    ProxyFailed,
    ProxyDuration,
    EndToEnd,
    TimeToFirstToken,
    LlmFirstToken,
    LlmRequests,
    LlmDuration,
    InputTokens,
    OutputTokens,
    TotalTokens,
    InputByClient,
    OutputByClient,
    TotalByClient,
    Spend,
    Consumed,
}

/// Where requests with the same labels count: a family's slot, once it was looked up. Most requests are like one before.
#[derive(Default)]
pub(super) struct Places([Cell<Option<u32>>; In::Consumed as usize + 1]);

/// Kinds of requests that are remembered. Where there are more, all are looked up anew.
const REMEMBERED_MAX: usize = 1024;

/// The places of requests, by all their labels, each followed by a byte that no text holds.
#[derive(Default)]
pub(super) struct Remembered {
    places: Map<Box<[u8]>, Rc<Places>>,
    /// The key looked for last; kept for its room.
    key: Vec<u8>,
}

impl Remembered {
    fn of(&mut self, facts: &RequestFacts<'_>) -> Rc<Places> {
        self.key.clear();
        for label in facts.of_use().into_iter().chain([facts.client_type]) {
            self.key.extend_from_slice(label.as_bytes());
            self.key.push(u8::MAX);
        }
        let [high, low] = facts.status.to_be_bytes();
        self.key.extend([high, low, u8::from(facts.stream), u8::from(facts.is_fallback)]);
        if let Some(places) = self.places.get(self.key.as_slice()) {
            return Rc::clone(places);
        }
        if self.places.len() >= REMEMBERED_MAX {
            self.places.clear();
        }
        let places = Rc::<Places>::default();
        self.places.insert(self.key.as_slice().into(), Rc::clone(&places));
        places
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
        let places = self.requests.borrow_mut().of(facts);
        let add = |place, family, labels: &[&str]| self.add_at(&places, place, family, labels, 1);
        let time = |place, family, labels: &[&str], duration| {
            let slot = self.slot_at(&places, place, family, labels);
            self.time_at(slot, family, duration);
        };

        add(In::Requests, &REQUESTS, &[provider, model, status_text, outcome]);
        time(In::RequestDuration, &REQUEST_DURATION, &[provider, model, status_text], duration);
        add(In::ProxyRequests, &PROXY_REQUESTS, &counted);
        if status >= 400 {
            add(In::ProxyFailed, &PROXY_FAILED_REQUESTS, &counted);
        }
        time(In::ProxyDuration, &PROXY_REQUEST_DURATION, &timed, duration);
        let env_id = self.env_id();
        let latency = [&*env_id, endpoint, model, provider, status_class(status), stream];
        time(In::EndToEnd, &E2E_LATENCY, &latency, duration);
        if let Some(ttft) = facts.ttft {
            time(In::TimeToFirstToken, &TTFT, &latency, ttft);
            time(In::LlmFirstToken, &LLM_FIRST_TOKEN, &facts.of_use(), ttft);
        }
        if facts.reached_llm {
            add(In::LlmRequests, &LLM_REQUESTS, &counted);
            time(In::LlmDuration, &LLM_REQUEST_DURATION, &timed, duration);
            self.tokens(facts, &places);
        }
    }

    fn tokens(&self, facts: &RequestFacts<'_>, places: &Places) {
        let of_use = facts.of_use();
        let total = facts.prompt_tokens.saturating_add(facts.completion_tokens);
        for (place, family, by_client, token_type, tokens) in [
            (In::InputTokens, &LLM_INPUT_TOKENS, In::InputByClient, "input", facts.prompt_tokens),
            (
                In::OutputTokens,
                &LLM_OUTPUT_TOKENS,
                In::OutputByClient,
                "output",
                facts.completion_tokens,
            ),
            (In::TotalTokens, &LLM_TOTAL_TOKENS, In::TotalByClient, "total", total),
        ] {
            if tokens > 0 {
                self.add_at(places, place, family, &of_use, tokens);
                let labels = [facts.client_type, facts.model, token_type];
                self.add_at(places, by_client, &TOKENS_BY_CLIENT, &labels, tokens);
            }
        }
        if facts.spend_micro_usd > 0 {
            self.add_at(places, In::Spend, &LLM_SPEND, &of_use, facts.spend_micro_usd);
        }
        if total > 0 {
            let labels = [facts.provider, facts.model];
            self.add_at(places, In::Consumed, &TOKENS_CONSUMED, &labels, total);
        }
    }

    fn add_at(&self, places: &Places, place: In, family: &Family, labels: &[&str], amount: u64) {
        if let Some(slot) = self.slot_at(places, place, family, labels) {
            self.slots.borrow().add(slot, amount);
        }
    }

    /// The slot of the series, from where it was found before. One without room is looked for, and counted, each time.
    fn slot_at(
        &self,
        places: &Places,
        place: In,
        family: &Family,
        labels: &[&str],
    ) -> Option<usize> {
        let place = places.0.get(place as usize)?;
        if let Some(slot) = place.get() {
            return Some(slot as usize);
        }
        let slot = self.slot(family, labels)?;
        place.set(u32::try_from(slot).ok());
        Some(slot)
    }
}
