//! Where requests count, for those that are like one before: found by who has asked what of whom, without a look at a label.
//!
//! What was known of is held by nothing here, so that it goes when its tables let it go; only its place in memory is kept, so
//! that nothing else can be taken for it.

use std::cell::RefCell;
use std::ptr;
use std::rc::{Rc, Weak};

use shared::resource::{ApiKey, Model};

use super::Account;
use crate::metrics::Places;
use crate::request::resolve::Target;
use crate::server::Proxy;

/// Kinds of requests that are known. Where two have the same place, the later one has it.
const KINDS: usize = 128;

thread_local! {
    static KNOWN: RefCell<Vec<Option<Kind>>> = const { RefCell::new(Vec::new()) };
}

/// What requests have in common that count in the same places: all that their labels are made of.
struct Kind {
    proxy: Weak<Proxy>,
    caller: Weak<ApiKey>,
    model: Weak<Model>,
    dispatched: Weak<Model>,
    target: Weak<Target>,
    endpoint: &'static str,
    protocol: &'static str,
    /// Status, whether it was a stream, whether the answer is that of another target than the first.
    outcome: (u16, bool, bool),
    user_agent: String,
    client_type: Rc<str>,
    places: Rc<Places>,
}

impl Kind {
    fn is(&self, account: &Account, outcome: (u16, bool, bool)) -> bool {
        self.proxy.as_ptr() == Rc::as_ptr(&account.proxy)
            && is(&self.caller, account.caller.as_ref())
            && is(&self.model, account.model.as_ref())
            && is(&self.dispatched, account.dispatched.as_ref())
            && is(&self.target, account.target.as_ref())
            && ptr::eq(self.endpoint, account.endpoint.template)
            && ptr::eq(self.protocol, account.protocol())
            && self.outcome == outcome
            && self.user_agent == account.user_agent
    }

    /// `None` for a request that came to no target, of which there are not many, and for one to a target that nobody else holds,
    /// such as what a wildcard stands for: it is not met again.
    fn of(
        account: &Account,
        outcome: (u16, bool, bool),
        counted: (&str, Rc<Places>),
    ) -> Option<Self> {
        let target = account.target.as_ref().filter(|target| Rc::strong_count(target) > 1)?;
        Some(Self {
            proxy: Rc::downgrade(&account.proxy),
            caller: Rc::downgrade(account.caller.as_ref()?),
            model: Rc::downgrade(account.model.as_ref()?),
            dispatched: Rc::downgrade(account.dispatched.as_ref()?),
            target: Rc::downgrade(target),
            endpoint: account.endpoint.template,
            protocol: account.protocol(),
            outcome,
            user_agent: account.user_agent.clone(),
            client_type: counted.0.into(),
            places: counted.1,
        })
    }
}

fn is<T>(known: &Weak<T>, there: Option<&Rc<T>>) -> bool {
    there.is_some_and(|there| known.as_ptr() == Rc::as_ptr(there))
}

/// Lets `count` count a request that ends with this status: by the program that calls, and in the places of its labels, if they
/// are known. It returns them.
pub(super) fn with(
    account: &Account,
    status: u16,
    count: impl FnOnce(&str, Option<&Rc<Places>>) -> Rc<Places>,
) {
    let outcome = (status, account.is_stream, account.fallbacks > 0);
    let index = index(account, status);
    let known = KNOWN.with_borrow(|known| {
        let kind = known.get(index)?.as_ref().filter(|kind| kind.is(account, outcome))?;
        Some((Rc::clone(&kind.client_type), Rc::clone(&kind.places)))
    });
    if let Some((client_type, places)) = known {
        count(&client_type, Some(&places));
        return;
    }
    let client_type = account.proxy.client_types.of(&account.user_agent);
    let places = count(client_type, None);
    let Some(kind) = Kind::of(account, outcome, (client_type, places)) else { return };
    KNOWN.with_borrow_mut(|known| {
        known.resize_with(KINDS, || None);
        if let Some(place) = known.get_mut(index) {
            *place = Some(kind);
        }
    });
}

/// Where to look.
fn index(account: &Account, status: u16) -> usize {
    let caller = account.caller.as_ref().map_or(0, |it| Rc::as_ptr(it).addr());
    let target = account.target.as_ref().map_or(0, |it| Rc::as_ptr(it).addr());
    let other = account.user_agent.len().wrapping_add(usize::from(status));
    let mix = caller ^ target.rotate_left(9) ^ other.rotate_left(20);
    mix.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - KINDS.ilog2())
}
