//! The lines that a request leaves in the log.

use super::{Account, MESSAGE_CHARS_MAX, cut, millis};
use crate::provider::TokenUsage;
use crate::request::RequestError;

impl Account {
    pub(super) fn log(&self, status: u16, error: Option<&RequestError>, tokens: TokenUsage) {
        let seen = self.attempt.as_ref().map(|attempt| &attempt.seen);
        let provider_request_id = seen.map_or("", |seen| seen.id.as_str());
        let labels = self.labels();
        if let Some(attempt) = self.attempt.as_ref().filter(|_| !provider_request_id.is_empty()) {
            tracing::info!(
                provider = labels.provider,
                model = labels.model,
                upstream_model = labels.upstream_model,
                provider_request_id,
                request_id = self.id(),
                latency_ms = millis(attempt.started.elapsed()),
                "provider call completed"
            );
        }
        if !self.proxy.settings.access_log {
            return;
        }
        tracing::info!(
            method = self.method,
            path = self.path,
            status,
            latency_ms = millis(self.started.elapsed()),
            provider = labels.provider,
            model = labels.model,
            api_key_id = self.caller.as_ref().map_or("", |key| key.id.as_str()),
            prompt_tokens = tokens.prompt,
            completion_tokens = tokens.completion,
            total_tokens = u64::from(tokens.prompt) + u64::from(tokens.completion),
            request_id = self.id(),
            provider_request_id,
            served_by_model = if self.attempt.is_some() { self.dispatched_name() } else { "" },
            routing_attempt_count = self.failed_attempts + u32::from(self.attempt.is_some()),
            routing_fallback_count = self.fallbacks,
            error_kind = error.map_or("", RequestError::kind),
            error = error.map(|error| cut(&error.detail(), MESSAGE_CHARS_MAX)).unwrap_or_default(),
            "proxy request completed"
        );
    }
}
