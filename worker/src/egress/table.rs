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
            if let Some(row) = self.entries.borrow().get(key) {
                return Some(Rc::clone(&row.entry));
            }
            if let Some((wildcard, host)) = key.wildcard()
                && let Some(row) = self.entries.borrow().get(&wildcard)
            {
                return Some(Rc::new(Entry { host: host.to_owned(), ..(*row.entry).clone() }));
            }
            timeout_at(until, changed).await.ok()?;
        }
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
