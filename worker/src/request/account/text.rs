//! Texts of a caller's and of providers', as they are told.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderValue;

use crate::provider::is_plain;

/// Longest of a caller's own texts, in characters.
pub(super) const CALLER_TEXT_CHARS_MAX: usize = 256;

/// An address as it is written everywhere. Nearly all are four numbers, which the standard library takes its time for.
pub(super) fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let (mut text, mut number) = (String::with_capacity(15), itoa::Buffer::new());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(number.format(octet));
    }
    text
}

/// A text of the caller's as it is told, which mostly is `usual`.
pub(super) fn shown_as(usual: &'static str, text: &str) -> Cow<'static, str> {
    if text == usual { usual.into() } else { cut(text, CALLER_TEXT_CHARS_MAX).into_owned().into() }
}

pub(super) fn user_agent_text(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => cut(text, CALLER_TEXT_CHARS_MAX).into_owned(),
        Err(_) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            cut(&text, CALLER_TEXT_CHARS_MAX).into_owned()
        }
    }
}

/// The text without control characters and line separators, at most so many characters of it.
pub(super) fn cut(text: &str, chars_max: usize) -> Cow<'_, str> {
    if is_plain(text, chars_max) {
        return text.into();
    }
    let is_shown = |c: &char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
    text.chars().filter(is_shown).take(chars_max).collect::<String>().into()
}
