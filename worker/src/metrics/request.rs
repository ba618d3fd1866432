//! What is counted of a request when it is over.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use shared::metric::Family;
use shared::metric::family::{
    DEPLOYMENT_FAILURES, DEPLOYMENT_REQUESTS, DEPLOYMENT_SUCCESSES, E2E_LATENCY, LLM_FIRST_TOKEN,
    LLM_INPUT_TOKENS, LLM_OUTPUT_TOKENS, LLM_REQUEST_DURATION, LLM_REQUESTS, LLM_SPEND,
    LLM_TOTAL_TOKENS, PROXY_FAILED_REQUESTS, PROXY_REQUEST_DURATION, PROXY_REQUESTS,
    REQUEST_DURATION, REQUESTS, TOKENS_BY_CLIENT, TOKENS_CONSUMED, TTFT, USAGE_EVENTS_EMITTED,
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
    /// Configured name of the model that was asked last, which a group has chosen.
    pub dispatched: &'a str,
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

/// The series that a request counts in.
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
    UsageEmitted,
    Attempts,
    AttemptSuccesses,
    AttemptFailures,
}

impl In {
    const COUNT: usize = Self::AttemptFailures as usize + 1;

    const fn family(self) -> &'static Family {
        match self {
            Self::Requests => &REQUESTS,
            Self::RequestDuration => &REQUEST_DURATION,
            Self::ProxyRequests => &PROXY_REQUESTS,
            Self::ProxyFailed => &PROXY_FAILED_REQUESTS,
            Self::ProxyDuration => &PROXY_REQUEST_DURATION,
            Self::EndToEnd => &E2E_LATENCY,
            Self::TimeToFirstToken => &TTFT,
            Self::LlmFirstToken => &LLM_FIRST_TOKEN,
            Self::LlmRequests => &LLM_REQUESTS,
            Self::LlmDuration => &LLM_REQUEST_DURATION,
            Self::InputTokens => &LLM_INPUT_TOKENS,
            Self::OutputTokens => &LLM_OUTPUT_TOKENS,
            Self::TotalTokens => &LLM_TOTAL_TOKENS,
            Self::InputByClient | Self::OutputByClient | Self::TotalByClient => &TOKENS_BY_CLIENT,
            Self::Spend => &LLM_SPEND,
            Self::Consumed => &TOKENS_CONSUMED,
            Self::UsageEmitted => &USAGE_EVENTS_EMITTED,
            Self::Attempts => &DEPLOYMENT_REQUESTS,
            Self::AttemptSuccesses => &DEPLOYMENT_SUCCESSES,
            Self::AttemptFailures => &DEPLOYMENT_FAILURES,
        }
    }

    /// The labels of its series. `env_id` is the environment's.
    fn labels<'a>(
        self,
        facts: &RequestFacts<'a>,
        env_id: &'a str,
        status: &'a str,
    ) -> Vec<&'a str> {
        let RequestFacts { endpoint, inbound_protocol, provider, model, .. } = *facts;
        let RequestFacts { provider_key_id, provider_key_name, client_type, .. } = *facts;
        let (stream, outcome) = (facts.streaming(), facts.outcome());
        let class = status_class(facts.status);
        let and = |more: &[&'a str]| [&facts.of_use()[..], more].concat();
        match self {
            Self::Requests => vec![provider, model, status, outcome],
            Self::RequestDuration => vec![provider, model, status],
            Self::ProxyRequests | Self::ProxyFailed | Self::LlmRequests => {
                let is_fallback = if facts.is_fallback { "true" } else { "false" };
                and(&[stream, is_fallback, status, outcome])
            }
            Self::ProxyDuration | Self::LlmDuration => and(&[stream, status, outcome]),
            Self::EndToEnd | Self::TimeToFirstToken => {
                vec![env_id, endpoint, model, provider, class, stream]
            }
            Self::LlmFirstToken
            | Self::InputTokens
            | Self::OutputTokens
            | Self::TotalTokens
            | Self::Spend => and(&[]),
            Self::InputByClient => vec![client_type, model, "input"],
            Self::OutputByClient => vec![client_type, model, "output"],
            Self::TotalByClient => vec![client_type, model, "total"],
            Self::Consumed => vec![provider, model],
            Self::UsageEmitted => {
                vec![endpoint, class, inbound_protocol, model, provider_key_id, provider_key_name]
            }
            Self::Attempts | Self::AttemptSuccesses | Self::AttemptFailures => {
                vec![provider, facts.dispatched, facts.upstream_model, provider_key_id]
            }
        }
    }
}

/// Where requests with the same labels count: a series' slot, once it was looked up. Most requests are like one before.
#[derive(Debug, Default)]
pub struct Places([Cell<Option<u32>>; In::COUNT]);

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
        for label in facts.of_use().into_iter().chain([facts.dispatched, facts.client_type]) {
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
    /// Where requests count that are like this one in all labels.
    pub fn places(&self, facts: &RequestFacts<'_>) -> Rc<Places> {
        self.requests.borrow_mut().of(facts)
    }

    /// Counts an attempt at an upstream that is over.
    pub fn attempt(&self, facts: &RequestFacts<'_>, places: &Places, success: bool) {
        let answered = if success { In::AttemptSuccesses } else { In::AttemptFailures };
        self.add_at(places, In::Attempts, facts, 1);
        self.add_at(places, answered, facts, 1);
    }

    /// Counts a usage event that was handed on.
    pub fn usage_emitted(&self, facts: &RequestFacts<'_>, places: &Places) {
        self.add_at(places, In::UsageEmitted, facts, 1);
    }

    /// Counts a request that is over. `places` are those of its labels.
    pub fn request(&self, facts: &RequestFacts<'_>, places: &Places) {
        let add = |place| self.add_at(places, place, facts, 1);
        let time = |place, duration| {
            let slot = self.slot_at(places, place, facts);
            self.time_at(slot, place.family(), duration);
        };

        add(In::Requests);
        time(In::RequestDuration, facts.duration);
        add(In::ProxyRequests);
        if facts.status >= 400 {
            add(In::ProxyFailed);
        }
        time(In::ProxyDuration, facts.duration);
        time(In::EndToEnd, facts.duration);
        if let Some(ttft) = facts.ttft {
            time(In::TimeToFirstToken, ttft);
            time(In::LlmFirstToken, ttft);
        }
        if facts.reached_llm {
            add(In::LlmRequests);
            time(In::LlmDuration, facts.duration);
            self.tokens(facts, places);
        }
    }

    fn tokens(&self, facts: &RequestFacts<'_>, places: &Places) {
        let total = facts.prompt_tokens.saturating_add(facts.completion_tokens);
        for (place, by_client, tokens) in [
            (In::InputTokens, In::InputByClient, facts.prompt_tokens),
            (In::OutputTokens, In::OutputByClient, facts.completion_tokens),
            (In::TotalTokens, In::TotalByClient, total),
        ] {
            if tokens > 0 {
                self.add_at(places, place, facts, tokens);
                self.add_at(places, by_client, facts, tokens);
            }
        }
        if facts.spend_micro_usd > 0 {
            self.add_at(places, In::Spend, facts, facts.spend_micro_usd);
        }
        if total > 0 {
            self.add_at(places, In::Consumed, facts, total);
        }
    }

    fn add_at(&self, places: &Places, place: In, facts: &RequestFacts<'_>, amount: u64) {
        if let Some(slot) = self.slot_at(places, place, facts) {
            self.slots.borrow().add(slot, amount);
        }
    }

    /// The slot of the series, from where it was found before. One without room is looked for, and counted, each time.
    fn slot_at(&self, places: &Places, place: In, facts: &RequestFacts<'_>) -> Option<usize> {
        let known = places.0.get(place as usize)?;
        if let Some(slot) = known.get() {
            return Some(slot as usize);
        }
        let status = StatusText::new(facts.status);
        let env_id = self.env_id();
        let labels = place.labels(facts, &env_id, status.as_str());
        let slot = self.slot(place.family(), &labels)?;
        known.set(u32::try_from(slot).ok());
        Some(slot)
    }
}
