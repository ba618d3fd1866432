//! The destination table as egress has it: changed by the supervisor only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use shared::egress::{Change, Entry, Key};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a question waits for an entry that is not there: a client may know a change of configuration before us.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(1);

/// Destinations by key.
#[derive(Default)]
pub struct Table {
    entries: RefCell<HashMap<Key, Row>>,
    changed: Notify,
}

struct Row {
    entry: Rc<Entry>,
    /// Why it was last refused, as it stands in the log.
    told: Option<String>,
}

impl Table {
    /// Puts changes in force, or all of it.
    pub fn apply(&self, whole: bool, changes: Vec<Change>) {
        let mut entries = self.entries.borrow_mut();
        if whole {
            entries.clear();
        }
        for change in changes {
            match change {
                Change::Put(key, entry) => {
                    entries.insert(key, Row { entry: Rc::new(entry), told: None });
                }
                Change::Delete(key) => {
                    entries.remove(&key);
                }
            }
        }
        drop(entries);
        self.changed.notify_waiters();
    }

    /// The entry of that key. One that is not there is waited for a moment.
    pub async fn find(&self, key: &Key) -> Option<Rc<Entry>> {
        let until = Instant::now() + UNKNOWN_LIMIT;
        loop {
            let changed = self.changed.notified();
            if let Some(entry) = self.entry(key) {
                return Some(entry);
            }
            timeout_at(until, changed).await.ok()?;
        }
    }

    fn entry(&self, key: &Key) -> Option<Rc<Entry>> {
        let entries = self.entries.borrow();
        if let Some(row) = entries.get(key) {
            return Some(Rc::clone(&row.entry));
        }
        // A host of a passthrough route that is named by its caller: bounded by what the route says.
        let (wildcard, host) = key.wildcard()?;
        let row = entries.get(&wildcard)?;
        Some(Rc::new(Entry { host: host.to_owned(), ..(*row.entry).clone() }))
    }

    /// Whether this reason for a refusal has not been told yet, since the entry is as it is. Told once, not per request.
    pub fn is_news(&self, key: &Key, reason: &str) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(row) = entries.get_mut(key) else { return false };
        let is_news = row.told.as_deref() != Some(reason);
        if is_news {
            row.told = Some(reason.to_owned());
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use shared::egress::Origin;

    use super::*;

    #[test]
    fn a_wildcard_of_a_route_leads_to_hosts_of_one_more_label_and_to_no_others() {
        let table = Table::default();
        let entry = Entry { host: "*.x.test".to_owned(), port: 443, origin: Origin::Projection };
        table.apply(true, vec![Change::Put(Key::route_host("r 1", "*.x.test"), entry)]);
        let host = |id: &str, host: &str| {
            table.entry(&Key::route_host(id, host)).map(|entry| entry.host.clone())
        };
        assert_eq!(host("r 1", "api.x.test").as_deref(), Some("api.x.test"));
        for (id, other) in [
            ("r 1", "x.test"),
            ("r 1", "a.b.x.test"),
            ("r 1", "a/b.x.test"),
            ("r 2", "api.x.test"),
            ("r 1", ".x.test"),
        ] {
            assert_eq!(host(id, other), None, "{id} {other}");
        }
        assert_eq!(table.entry(&Key::provider("r 1 api.x.test")), None);
    }
}
