//! The head of a successful answer. It is copied from that of an earlier one with the same headers, so that no place has to be
//! found for any of them.

use std::cell::RefCell;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::account::{Account, CacheStatus};
use super::{REQUEST_ID, repeat};
use crate::call::Operation;
use crate::limits::Shown;

/// Names the call in a successful answer; the same id as the request's.
const CALL_ID: HeaderName = HeaderName::from_static("x-aisix-call-id");
/// Names the model of a group that has answered.
const SERVED_BY: HeaderName = HeaderName::from_static("x-aisix-served-by");

/// Heads that are remembered, by which headers they have.
const KNOWN_MAX: usize = 32;
/// Headers for which there is room in them at once.
const ROOM: usize = 20;

thread_local! {
    static KNOWN: RefCell<Vec<(u32, HeaderMap)>> = const { RefCell::new(Vec::new()) };
}

/// What is told in a head, beside what the answer itself says.
pub struct Head {
    /// How long the answer may be kept elsewhere, if anything is said of that.
    pub cache_control: Option<HeaderValue>,
    cache: Option<CacheStatus>,
    is_chat: bool,
    /// What is left to the caller's key.
    left: Option<Shown>,
    server: HeaderValue,
    id: HeaderValue,
}

impl Head {
    /// What there is to tell of a request before it is settled.
    pub fn of(operation: Operation, account: &Account) -> Self {
        let is_chat = operation == Operation::ChatCompletions;
        let permit = account.permit.as_ref().filter(|_| is_chat);
        Self {
            cache_control: None,
            cache: account.cache,
            is_chat,
            left: permit.map(|permit| permit.shown().clone()),
            server: account.proxy.server_name.clone(),
            id: account.request_id.clone(),
        }
    }

    /// The head of the answer, after so many tokens were used, at that moment in seconds since 1970 UTC.
    pub fn map(
        self,
        content_type: HeaderValue,
        served_by: Option<HeaderValue>,
        (tokens, now): (u64, u64),
    ) -> HeaderMap {
        let left = self.left.map_or([const { None }; 8], |left| left.values(tokens, now));
        let [cache, cache_layer] = repeat::told(self.cache);
        let [a, b, c, d, e, f, g, h] = left;
        let call_id = self.is_chat.then(|| self.id.clone());
        let served_by = served_by.filter(|_| self.is_chat);
        let (server, id) = (Some(self.server), Some(self.id));
        with_values([
            Some(content_type),
            self.cache_control,
            cache,
            cache_layer,
            call_id,
            served_by,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            server,
            id,
        ])
    }
}

const COUNT: usize = 16;

/// The headers of a head, in their order.
fn names() -> [HeaderName; COUNT] {
    let [a, b, c, d, e, f, g, h] = Shown::NAMES;
    [
        CONTENT_TYPE,
        CACHE_CONTROL,
        repeat::CACHE,
        repeat::CACHE_LAYER,
        CALL_ID,
        SERVED_BY,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        SERVER,
        REQUEST_ID,
    ]
}

/// A head with those that have values.
fn with_values(values: [Option<HeaderValue>; COUNT]) -> HeaderMap {
    let is_there =
        |present: u32, value: &Option<HeaderValue>| present << 1 | u32::from(value.is_some());
    let present = values.iter().fold(0, is_there);
    let mut head = KNOWN.with_borrow_mut(|known| {
        if let Some((_, head)) = known.iter().find(|(headers, _)| *headers == present) {
            return head.clone();
        }
        let mut head = HeaderMap::with_capacity(ROOM);
        for (name, _) in names().into_iter().zip(&values).filter(|(_, value)| value.is_some()) {
            head.insert(name, HeaderValue::from_static(""));
        }
        if known.len() < KNOWN_MAX {
            known.push((present, head.clone()));
        }
        head
    });
    for (place, value) in head.values_mut().zip(values.into_iter().flatten()) {
        *place = value;
    }
    head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_is_what_its_headers_make_one_after_the_other(heads in prop::collection::vec(any::<[bool; COUNT]>(), 1..80)) {
            for (number, present) in heads.into_iter().enumerate() {
                let mut place = 0;
                let values = present.map(|is_there| {
                    place += 1;
                    is_there.then(|| HeaderValue::try_from(format!("{number}-{place}")).unwrap())
                });
                let mut expected = HeaderMap::new();
                for (name, value) in names().into_iter().zip(values.clone()) {
                    value.map(|value| expected.insert(name, value));
                }
                let head = with_values(values);
                prop_assert!(head.iter().eq(expected.iter()), "{head:?}");
                prop_assert!(expected.iter().all(|(name, value)| head.get(name) == Some(value)));
            }
        }
    }
}
