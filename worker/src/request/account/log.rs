//! The lines that a request leaves in the log. Nothing of a prompt, of an answer or of what an upstream has said is in them.

use shared::log_line::name;
use tracing::Level;

use super::text::cut;
use super::{Account, MESSAGE_CHARS_MAX, millis};
use crate::log;
use crate::provider::TokenUsage;
use crate::request::{RequestError, UpstreamError};

/// What filters of the log know these lines by.
const TARGET: &str = module_path!();

impl Account {
    /// The line of the request, its last.
    pub(super) fn log(&self, status: u16, error: Option<&RequestError>, tokens: TokenUsage) {
        if !tracing::enabled!(Level::INFO) {
            return;
        }
        self.say_call();
        if !self.proxy.settings.access_log {
            return;
        }
        let labels = self.labels();
        let seen = self.attempt.as_ref().map(|attempt| &attempt.seen);
        let latency_ms = millis(self.took());
        let routing_attempts = self.failed_attempts + u32::from(self.attempt.is_some());
        let (attempts, error_text) = (self.attempts.text(), error.map(words).unwrap_or_default());
        log::say(TARGET, "proxy request completed", |line| {
            line.text(name!(text "method"), &self.method);
            line.text(name!(text "path"), &self.path);
            line.number(name!(number "status"), status.into());
            line.number(name!(number "latency_ms"), latency_ms.into());
            line.text(name!(text "provider"), labels.provider);
            line.text(name!(text "model"), labels.model);
            line.text(
                name!(text "api_key_id"),
                self.caller.as_ref().map_or("", |key| key.id.as_str()),
            );
            line.number(name!(number "prompt_tokens"), tokens.prompt.into());
            line.number(name!(number "completion_tokens"), tokens.completion.into());
            line.number(
                name!(number "total_tokens"),
                u64::from(tokens.prompt) + u64::from(tokens.completion),
            );
            line.text(name!(text "request_id"), self.id());
            line.text(name!(text "provider_request_id"), seen.map_or("", |seen| seen.id.as_str()));
            let served_by = if self.attempt.is_some() { self.dispatched_name() } else { "" };
            line.text(name!(text "served_by_model"), served_by);
            line.number(name!(number "routing_attempt_count"), routing_attempts.into());
            line.number(name!(number "routing_fallback_count"), self.fallbacks.into());
            line.text(name!(text "attempts"), &attempts);
            line.text(name!(text "trace_id"), &self.trace_id);
            line.shown(name!(shown "client_ip"), &self.client_address);
            line.text(name!(text "cache"), self.cache.map_or("", |cache| cache.name()));
            line.text(name!(text "error_kind"), error.map_or("", RequestError::kind));
            line.text(name!(text "error"), &error_text);
        });
    }

    /// A stream begins.
    pub(super) fn log_opened(&self) {
        let labels = self.labels();
        tracing::info!(
            provider = labels.provider,
            model = labels.model,
            request_id = self.id(),
            "stream opened"
        );
    }

    /// An attempt ends: a line, if the provider has named what it did.
    pub(super) fn log_call(&self) {
        if tracing::enabled!(Level::INFO) {
            self.say_call();
        }
    }

    fn say_call(&self) {
        let Some(attempt) = self.attempt.as_ref().filter(|it| !it.seen.id.is_empty()) else {
            return;
        };
        let labels = self.labels();
        let latency_ms = millis(self.attempt_took());
        log::say(TARGET, "provider call completed", |line| {
            line.text(name!(text "provider"), labels.provider);
            line.text(name!(text "model"), labels.model);
            line.text(name!(text "upstream_model"), labels.upstream_model);
            line.text(name!(text "provider_request_id"), &attempt.seen.id);
            line.text(name!(text "request_id"), self.id());
            line.number(name!(number "latency_ms"), latency_ms.into());
        });
    }

    /// An attempt has failed, and another one follows.
    pub(super) fn log_failed(&self, error: &RequestError, at_same_target: bool) {
        tracing::warn!(
            request_id = self.id(),
            attempt = self.failed_attempts,
            model = self.dispatched_name(),
            at_same_target,
            error = words(error),
            "an attempt at an upstream failed and another follows"
        );
    }
}

/// What has failed, for the log. What an upstream says of it the caller is told, and the Cloud: it may quote the prompt, or the
/// key that it was asked with.
fn words(error: &RequestError) -> String {
    let coded = |text: String, code: Option<&String>| match code.filter(|code| is_code(code)) {
        Some(code) => format!("{text} ({code})"),
        None => text,
    };
    let words = match error {
        RequestError::Upstream(UpstreamError::Refused { status, error, .. }) => coded(
            format!("upstream refused the request with {}", status.as_u16()),
            error.code.as_ref(),
        ),
        RequestError::Upstream(UpstreamError::InBand(error)) => {
            coded("upstream told an error within its stream".to_owned(), error.code.as_ref())
        }
        error => unquoted(&error.detail()),
    };
    cut(&words, MESSAGE_CHARS_MAX).into_owned()
}

/// Whether it is a word of a machine.
fn is_code(code: &str) -> bool {
    let is_word = code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    (1..=40).contains(&code.len()) && is_word
}

/// Without what is quoted: those who cannot read a text quote it.
fn unquoted(text: &str) -> String {
    let (mut unquoted, mut characters) = (String::with_capacity(text.len()), text.chars());
    while let Some(character) = characters.next() {
        unquoted.push(character);
        if !matches!(character, '"' | '`') {
            continue;
        }
        unquoted.push('…');
        while let Some(quoted) = characters.next() {
            if quoted == '\\' {
                characters.next();
            } else if quoted == character {
                unquoted.push(character);
                break;
            }
        }
    }
    unquoted
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::provider::ProviderError;

    #[test]
    fn what_an_upstream_says_is_not_in_the_log() {
        let error = |code: &str| ProviderError {
            message: "the key sk-1 does not like the prompt".to_owned(),
            code: Some(code.to_owned()),
            param: None,
            status: None,
        };
        let refused = |code| {
            RequestError::from(UpstreamError::Refused {
                status: StatusCode::BAD_REQUEST,
                error: error(code),
                retry_after: None,
            })
        };
        let expected = "upstream refused the request with 400 (invalid_api_key)";
        assert_eq!(words(&refused("invalid_api_key")), expected);
        assert_eq!(words(&refused("sk-1")), "upstream refused the request with 400");
        let told = words(&UpstreamError::InBand(error("overloaded")).into());
        assert_eq!(told, "upstream told an error within its stream (overloaded)");
    }

    #[test]
    fn what_could_not_be_read_is_not_quoted() {
        for (text, expected) in [
            (
                r#"invalid type: string "a \"b\" c", expected u32"#,
                r#"invalid type: string "…", expected u32"#,
            ),
            ("unknown field `x`, expected `y`", "unknown field `…`, expected `…`"),
            (r#"it ends in "the mid"#, r#"it ends in "…"#),
            ("model 'a' not found", "model 'a' not found"),
        ] {
            assert_eq!(unquoted(text), expected);
            assert_eq!(words(&RequestError::Invalid(text.to_owned())), expected);
        }
    }
}
