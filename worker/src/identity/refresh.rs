//! Has the keys of every provider fetched before they are needed: at once when a provider is new, again and again while it
//! is there, and when a token is signed with a key that nobody knows. One worker of the node does it, see `lease`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use shared::key_set::KeySet;
use shared::message::ToSupervisor;
use shared::resource::OidcProvider;
use tokio::time::sleep;
use tracing::{info, warn};

use super::fetch;
use super::lease::{self, Lease, Want};
use super::store::{REFRESH_MS, unix_ms};
use crate::server::Proxy;

/// Without anything to do, it is looked again after this.
const LOOK_MS: u64 = 60_000;

/// One worker's part in it.
struct Refresher<T> {
    proxy: Rc<Proxy>,
    tell: T,
    /// Providers that this worker is asking.
    asking: RefCell<HashSet<String>>,
    /// Providers whose last answer was none, as this worker saw it.
    failed: RefCell<HashSet<String>>,
}

/// Runs for the life of the worker. What is fetched is told to the supervisor with `tell`.
pub async fn run<T: Fn(ToSupervisor) + 'static>(proxy: Rc<Proxy>, tell: T) {
    let (asking, failed) = (RefCell::default(), RefCell::default());
    let refresher = Rc::new(Refresher { proxy, tell, asking, failed });
    loop {
        let asked = refresher.proxy.identity_keys.asked();
        let now = unix_ms();
        let next = refresher.look(now);
        let pause = Duration::from_millis(next.saturating_sub(now).max(10));
        tokio::select! {
            () = asked => {}
            () = sleep(pause) => {}
        }
    }
}

impl<T: Fn(ToSupervisor) + 'static> Refresher<T> {
    /// Begins to fetch what is to be fetched. Returns when to look again.
    fn look(self: &Rc<Self>, now: u64) -> u64 {
        let store = &self.proxy.identity_keys;
        let providers: Vec<_> =
            self.proxy.tables.borrow().identities().providers().cloned().collect();
        let mut next = now + LOOK_MS;
        for provider in providers {
            let known = store.known(&provider, now);
            let due = known.as_ref().map_or(0, |known| known.fetched_at_unix_ms + REFRESH_MS);
            let is_wanted = store.take_wanted(&provider.id);
            if due > now && !is_wanted {
                next = next.min(due);
                continue;
            }
            if self.asking.borrow().contains(&provider.id) {
                continue;
            }
            let want = if known.is_some() { Want::Newer } else { Want::Nothing };
            match lease::take(&store.word(&provider), now, want) {
                Ok(lease) => {
                    self.asking.borrow_mut().insert(provider.id.clone());
                    tokio::task::spawn_local(Rc::clone(self).fetch(provider, lease));
                }
                Err(later) => next = next.min(later),
            }
        }
        next
    }

    async fn fetch(self: Rc<Self>, provider: Rc<OidcProvider>, lease: Lease) {
        let store = &self.proxy.identity_keys;
        let fetched = fetch::keys(&self.proxy.upstreams, &provider).await;
        let now = unix_ms();
        let has_succeeded = fetched.is_ok();
        let next = lease.done(&store.word(&provider), now, has_succeeded);
        self.asking.borrow_mut().remove(&provider.id);
        match fetched {
            Ok(keys) => {
                if self.failed.borrow_mut().remove(&provider.id) {
                    info!(provider = provider.name, "the signing keys are available again");
                }
                let set = KeySet {
                    provider_id: provider.id.clone(),
                    source: provider.key_source(),
                    fetched_at_unix_ms: now,
                    keys,
                };
                if set.fits() {
                    (self.tell)(ToSupervisor::KeySet(set.clone()));
                }
                store.take_in(set);
            }
            Err(error) => {
                self.failed.borrow_mut().insert(provider.id.clone());
                let left = if store.known(&provider, now).is_some() {
                    "those that were fetched before are still used"
                } else {
                    "its tokens are answered with 503"
                };
                warn!(
                    provider = provider.name,
                    next_attempt_ms = next.saturating_sub(now),
                    %error,
                    "cannot fetch the signing keys of an identity provider; {left}"
                );
                store.attempt_ended();
            }
        }
    }
}
