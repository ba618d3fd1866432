//! The attempts of a request, as its line in the log lists them: `gpt-4o@openai:500:12ms,claude@anthropic:200:340ms`.

use std::borrow::Cow;
use std::time::Duration;

use super::millis;
use super::text::cut;
use crate::request::{RequestError, UpstreamError};

/// Attempts that are listed; of further ones the number is.
const LISTED_MAX: u32 = 16;
/// Longest name of a model or provider, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Most of what is told beside the names takes no more, in bytes.
const REST_BYTES: usize = 24;

/// The attempts so far, in order.
#[derive(Debug, Default)]
pub struct Attempts {
    list: String,
    count: u32,
}

impl Attempts {
    /// One has ended.
    pub fn add(
        &mut self,
        model: &str,
        provider: &str,
        status: u16,
        error: Option<&RequestError>,
        took: Duration,
    ) {
        self.count = self.count.saturating_add(1);
        if self.count > LISTED_MAX {
            return;
        }
        let mut number = itoa::Buffer::new();
        self.list.reserve(
            model.len().min(NAME_CHARS_MAX) + provider.len().min(NAME_CHARS_MAX) + REST_BYTES,
        );
        if self.count > 1 {
            self.list.push(',');
        }
        self.list.push_str(&cut(model, NAME_CHARS_MAX));
        self.list.push('@');
        self.list.push_str(&cut(provider, NAME_CHARS_MAX));
        self.list.push(':');
        self.list.push_str(match outcome(status, error) {
            Ok(status) => number.format(status),
            Err(class) => class,
        });
        self.list.push(':');
        self.list.push_str(number.format(millis(took)));
        self.list.push_str("ms");
    }

    /// All of them.
    pub fn text(&self) -> Cow<'_, str> {
        match self.count.saturating_sub(LISTED_MAX) {
            0 => self.list.as_str().into(),
            more => format!("{},+{more}", self.list).into(),
        }
    }
}

/// The status that the upstream has answered with; or, if it has not, what has failed.
fn outcome(status: u16, error: Option<&RequestError>) -> Result<u16, &'static str> {
    match error {
        None => Ok(status),
        Some(RequestError::Upstream(
            UpstreamError::Refused { status, .. } | UpstreamError::Failed { status, .. },
        )) => Ok(status.as_u16()),
        Some(error) => Err(error.class()),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn the_list_has_each_attempt_with_what_came_of_it_in_order() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.text(), "");
        let failed = |status| {
            RequestError::from(UpstreamError::Failed {
                status: StatusCode::from_u16(status).unwrap(),
                retry_after: None,
            })
        };
        let slow = RequestError::from(UpstreamError::Timeout(Duration::from_secs(1)));
        let took = Duration::from_micros(12_700);
        // What the caller would be told is another matter.
        attempts.add("gpt-4o", "openai", 502, Some(&failed(500)), took);
        attempts.add("gpt-4o", "openai", 504, Some(&slow), took);
        attempts.add("claude", "anthropic", 200, None, took * 2);
        assert_eq!(
            attempts.text(),
            "gpt-4o@openai:500:12ms,gpt-4o@openai:timeout:12ms,claude@anthropic:200:25ms"
        );
    }

    #[test]
    fn a_list_without_end_is_cut_and_counted() {
        let mut attempts = Attempts::default();
        for _ in 0..100 {
            attempts.add(&"m".repeat(500), "p\n", 200, None, Duration::ZERO);
        }
        let text = attempts.text();
        assert!(text.ends_with(",+84") && text.len() < 2_048, "{text}");
        assert_eq!(text.matches("@p:200:0ms").count(), 16);
    }
}
