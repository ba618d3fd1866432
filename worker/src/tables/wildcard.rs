//! Models that go by a pattern instead of a name.

use std::cmp::Reverse;

use shared::resource::{Model, ModelKind};

/// A direct model's name with exactly one `*`, in the order of precedence: the longest literal part first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wildcard {
    literal_bytes: Reverse<usize>,
    head: String,
    tail: String,
    id: Reverse<String>,
}

impl Wildcard {
    pub(super) fn of(model: &Model) -> Option<Self> {
        let (head, tail) = model.display_name.split_once('*')?;
        (matches!(model.kind, ModelKind::Direct(_)) && !tail.contains('*')).then(|| Self {
            literal_bytes: Reverse(head.len() + tail.len()),
            head: head.to_owned(),
            tail: tail.to_owned(),
            id: Reverse(model.id.clone()),
        })
    }

    pub(super) fn capture<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.head.as_str())?.strip_suffix(self.tail.as_str())
    }
}
