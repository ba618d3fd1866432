//! The keys in force, by provider, and how the requests that need them wait.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shared::counters::{CounterKey, Counters};
use shared::key_set::KeySet;
use shared::resource::OidcProvider;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::timeout;
use tracing::warn;

use super::jwks::Keys;
use super::lease::{self, Want};

/// How long a request waits for keys that are not there.
const WAIT: Duration = Duration::from_secs(1);
/// After this, keys are fetched again.
pub(super) const REFRESH_MS: u64 = 5 * 60 * 1000;
/// After this, keys count as none: a provider that nobody could ask for a day may have withdrawn them.
const AGE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The keys of all providers, as this worker knows them.
pub struct KeyStore {
    /// By provider and by what they depend on: another worker may be ahead of this one with a change.
    sets: RefCell<HashMap<(String, String), Known>>,
    /// Providers of which a request needs newer keys.
    wanted: RefCell<BTreeSet<String>>,
    asked: Notify,
    /// An attempt to fetch has ended, here or elsewhere.
    ended: Notify,
    counters: Option<Counters>,
    /// Where the shared ones have no room.
    own_words: RefCell<HashMap<CounterKey, Rc<AtomicU64>>>,
}

/// Keys of one provider.
#[derive(Clone)]
pub(super) struct Known {
    pub fetched_at_unix_ms: u64,
    pub keys: Rc<Keys>,
}

/// The word by which workers agree on who fetches.
pub(super) enum Word {
    Shared(&'static AtomicU64),
    Own(Rc<AtomicU64>),
}

impl Deref for Word {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        match self {
            Self::Shared(word) => word,
            Self::Own(word) => word,
        }
    }
}

impl KeyStore {
    /// A store without keys. Without counters this worker fetches for itself.
    pub fn new(counters: Option<Counters>) -> Self {
        Self {
            sets: RefCell::default(),
            wanted: RefCell::default(),
            asked: Notify::new(),
            ended: Notify::new(),
            counters,
            own_words: RefCell::default(),
        }
    }

    /// Takes in what was fetched, here or by another worker.
    pub fn take_in(&self, set: KeySet) {
        let KeySet { provider_id, source, fetched_at_unix_ms, keys } = set;
        match Keys::read(&keys) {
            Ok(keys) => {
                let known = Known { fetched_at_unix_ms, keys: Rc::new(keys) };
                self.sets.borrow_mut().insert((provider_id, source), known);
                self.attempt_ended();
            }
            Err(error) => warn!(provider_id, %error, "keys of an identity provider are not usable"),
        }
    }

    /// The providers are others than before: drops the keys of those that are gone or have changed, and looks after those that
    /// are new. `source` tells what a provider's keys depend on, if it is there.
    pub fn providers_changed(&self, source: impl Fn(&str) -> Option<String>) {
        self.sets.borrow_mut().retain(|(id, of), _| source(id).as_ref() == Some(of));
        self.wanted.borrow_mut().retain(|id| source(id).is_some());
        self.asked.notify_one();
    }

    /// The keys of a provider, as its document describes it now.
    pub(super) fn known(&self, provider: &OidcProvider, now_unix_ms: u64) -> Option<Known> {
        let sets = self.sets.borrow();
        let known = sets.get(&(provider.id.clone(), provider.key_source()))?;
        let is_young = now_unix_ms < known.fetched_at_unix_ms.saturating_add(AGE_MS_MAX);
        is_young.then(|| known.clone())
    }

    /// The keys of a provider; if there are none, those that come within [`WAIT`].
    pub(super) async fn keys(&self, provider: &OidcProvider) -> Option<Known> {
        match self.known(provider, unix_ms()) {
            Some(known) => Some(known),
            None => self.wait(provider, Want::Nothing, 0).await,
        }
    }

    /// Keys that were fetched after those, if they come within [`WAIT`]. They are asked for, but not over and over.
    pub(super) async fn newer(&self, provider: &OidcProvider, than: &Known) -> Option<Known> {
        self.wait(provider, Want::Newer, than.fetched_at_unix_ms).await
    }

    async fn wait(&self, provider: &OidcProvider, want: Want, after_ms: u64) -> Option<Known> {
        let word = self.word(provider);
        let waiting = async {
            loop {
                // From here on nothing is missed.
                let ended = self.ended.notified();
                let now = unix_ms();
                let known = self.known(provider, now);
                let newer = known.filter(|known| known.fetched_at_unix_ms > after_ms);
                if newer.is_some() || !lease::is_awaitable(&word, now, want) {
                    return newer;
                }
                self.wanted.borrow_mut().insert(provider.id.clone());
                self.asked.notify_one();
                ended.await;
            }
        };
        timeout(WAIT, waiting).await.ok().flatten()
    }

    /// Whether a request has asked for newer keys; said once.
    pub(super) fn take_wanted(&self, provider_id: &str) -> bool {
        self.wanted.borrow_mut().remove(provider_id)
    }

    /// Becomes ready when there may be something to fetch.
    pub(super) fn asked(&self) -> Notified<'_> {
        self.asked.notified()
    }

    /// An attempt to fetch has ended: there may be keys, or somebody may try again.
    pub(super) fn attempt_ended(&self) {
        self.ended.notify_waiters();
        self.asked.notify_one();
    }

    /// The word by which workers agree on who fetches the keys of this provider.
    pub(super) fn word(&self, provider: &OidcProvider) -> Word {
        let key = CounterKey::of(&["identity keys", &provider.id, &provider.key_source()]);
        if let Some(word) = self.counters.and_then(|counters| counters.cell(key)) {
            return Word::Shared(word);
        }
        Word::Own(self.own_words.borrow_mut().entry(key).or_default().clone())
    }
}

/// The time, in milliseconds since 1970 UTC.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
