//! By what else than their id documents are known, and which of them claim the same: workers use the one with the highest
//! id, and the clash is reported until it is over.

use std::collections::{BTreeMap, HashMap};

use tracing::{info, warn};

use crate::cloud::heartbeat::PartiallyCompatible;

/// Counts the holders of every name.
#[derive(Debug, Default)]
pub struct Names {
    holders: HashMap<(&'static str, String), u64>,
    /// Documents that share a name with another, by kind.
    sharing: BTreeMap<&'static str, u64>,
}

impl Names {
    /// One more document of the kind has the name.
    pub fn add(&mut self, kind: &'static str, name: &str) {
        let holders = self.holders.entry((kind, name.to_owned())).or_default();
        *holders += 1;
        if *holders < 2 {
            return;
        }
        // The second makes two of them share.
        *self.sharing.entry(kind).or_default() += if *holders == 2 { 2 } else { 1 };
        if *holders == 2 {
            let what = shown(kind, name);
            warn!("{kind}: two documents share {what}; the one with the highest id is used");
        }
    }

    /// One document less of the kind has it.
    pub fn remove(&mut self, kind: &'static str, name: &str) {
        let holder = (kind, name.to_owned());
        let Some(holders) = self.holders.get_mut(&holder) else { return };
        *holders = holders.saturating_sub(1);
        let (left, sharing) = (*holders, self.sharing.entry(kind).or_default());
        match left {
            0 => drop(self.holders.remove(&holder)),
            1 => {
                *sharing = sharing.saturating_sub(2);
                let what = shown(kind, name);
                info!("{kind}: no two documents share {what} any more");
            }
            _ => *sharing = sharing.saturating_sub(1),
        }
        if self.sharing.get(kind) == Some(&0) {
            self.sharing.remove(kind);
        }
    }

    /// A row for each kind in which names are shared.
    pub fn rows(&self) -> impl Iterator<Item = PartiallyCompatible> {
        self.sharing.iter().map(|(kind, count)| PartiallyCompatible {
            kind: (*kind).to_owned(),
            field: format!("duplicate:{}", field(kind)),
            count: *count,
        })
    }
}

/// The field that the name of a kind is in.
fn field(kind: &str) -> &'static str {
    match kind {
        "api_keys" => "key_hash",
        "models" | "provider_keys" => "display_name",
        // There should be one document of the kind.
        "mcp_auth_settings" => "mcp_auth_settings",
        _ => "name",
    }
}

fn shown(kind: &str, name: &str) -> String {
    match field(kind) {
        // A key hash is no secret, but nobody knows a key by it either.
        field @ ("key_hash" | "mcp_auth_settings") => format!("one {field}"),
        field => format!("the {field} {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &Names) -> Vec<(String, u64)> {
        names.rows().map(|row| (row.field, row.count)).collect()
    }

    #[test]
    fn documents_that_share_a_name_are_counted_until_none_does() {
        let mut names = Names::default();
        names.add("models", "chat");
        names.add("api_keys", "chat");
        assert_eq!(rows(&names), []);
        names.add("models", "chat");
        names.add("models", "other");
        assert_eq!(rows(&names), [("duplicate:display_name".to_owned(), 2)]);
        names.add("models", "chat");
        names.add("api_keys", "chat");
        assert_eq!(
            rows(&names),
            [("duplicate:key_hash".to_owned(), 2), ("duplicate:display_name".to_owned(), 3)]
        );
        names.remove("models", "chat");
        assert_eq!(rows(&names)[1].1, 2);
        names.remove("models", "chat");
        names.remove("api_keys", "chat");
        assert_eq!(rows(&names), []);
        names.remove("models", "chat");
        names.add("models", "chat");
        assert_eq!(rows(&names), []);
    }
}
