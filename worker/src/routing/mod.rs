//! Where a request for a group of models goes: which targets, in which order, and what follows from a failure.
//!
//! ```text
//! targets ── tags ──▶ eligible ── health, cool-down ──▶ available ── priority ──▶ tiers ── strategy ──▶ the order
//! ```
//! What workers must know together lies in the counters (`shared::deployment`), and where a rotation stands too, so that it
//! does not matter which worker is asked. The strategies themselves are functions of what they are given.

mod background;
mod key;
mod pause;
mod rank;
mod ring;
mod rotation;
mod tags;
mod verdict;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use shared::counters::{CounterKey, Counters};
use shared::deployment::{Deployment, State};
use shared::resource::{Model, ModelKind, Routing, Strategy};

use crate::request::RequestError;
use crate::tables::{FoundModel, Tables};

pub use background::run as check_in_background;
pub use key::Sources;
pub use pause::before as pause_before;
pub use verdict::{cool_down, may_fall_back, may_repeat};

use ring::Ring;
use rotation::Rotation;

/// When to ask again where nothing tells when a target will be available.
const RETRY_AFTER_SECONDS: u64 = 30;
/// Tables that are kept, for the next request of the same group; then they are made anew.
const KEPT_MAX: usize = 1024;
/// Rotations of one group and tier: one for each set of targets that is available, as far as there are so many.
const ROTATIONS: u64 = 64;

/// A target of a group, that exists.
struct Member {
    found: FoundModel,
    /// As the group knows it.
    name: String,
    weight: u32,
    priority: i32,
}

impl Member {
    fn deployment(&self, counters: Counters) -> Deployment<'_> {
        Deployment::new(counters, &self.found.model.id)
    }
}

/// The ring of a group, and the group it was made of.
type Kept = (Rc<Model>, Rc<Ring>);

/// What was worked out for groups and is good for their next requests.
#[derive(Debug, Default)]
pub struct Groups {
    rings: RefCell<HashMap<String, Kept>>,
    rotations: RefCell<HashMap<Vec<u32>, Rc<Rotation>>>,
    /// The position of all rotations, if there is no room in the counters.
    position: Cell<u64>,
}

/// A request, as far as its way depends on it.
pub struct Asking<'a> {
    /// What a key can be taken from.
    pub sources: Sources<'a>,
    /// The id of the request, for what is to be spread.
    pub request_id: &'a str,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

/// Now, in milliseconds since 1970, as the counters have it.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Groups {
    /// The targets for a request, in the order in which they are to be tried.
    ///
    /// # Errors
    /// None of the group's targets exists, none is for such a request, or none is available.
    pub fn order(
        &self,
        group: &Rc<Model>,
        routing: &Routing,
        tables: &Tables,
        counters: Counters,
        asking: &Asking<'_>,
    ) -> Result<Vec<FoundModel>, RequestError> {
        let eligible = tags::eligible(&routing.targets, &tags::asked(asking.sources.headers));
        if eligible.is_empty() {
            return Err(RequestError::NoTarget { retry_after: None });
        }
        let mut members: Vec<_> =
            eligible.iter().filter_map(|index| member(routing, *index, tables)).collect();
        if members.is_empty() {
            let reason =
                format!("model '{}' is not usable: no target of it exists", group.display_name);
            return Err(RequestError::Unusable(reason));
        }
        let states: Vec<_> = members
            .iter()
            .map(|member| member.deployment(counters).state(&member.found.model, asking.now_ms))
            .collect();
        if !states.contains(&State::Healthy) {
            if routing.try_anyway {
                return Ok(members.into_iter().map(|member| member.found).collect());
            }
            return Err(RequestError::NoTarget {
                retry_after: Some(retry_after(&states, asking.now_ms)),
            });
        }
        let mut states = states.into_iter();
        members.retain(|_| states.next() == Some(State::Healthy));
        let mut tiers = BTreeMap::<_, Vec<_>>::new();
        for member in members {
            tiers.entry(Reverse(member.priority)).or_default().push(member);
        }
        let mut order = Vec::new();
        for tier in tiers.into_values() {
            let places = match tier.len() {
                1 => vec![0],
                _ => self.rank(group, routing, &tier, counters, asking),
            };
            // Whom the strategy has no place for comes last. A model that is named twice has one place only.
            let mut is_in = vec![false; tier.len()];
            for index in places.into_iter().chain(0..tier.len()) {
                if let (Some(is_in), Some(member)) = (is_in.get_mut(index), tier.get(index))
                    && !std::mem::replace(is_in, true)
                {
                    order.push(member.found.clone());
                }
            }
        }
        Ok(order)
    }

    /// The members of a tier in the order of the strategy, by their positions.
    fn rank(
        &self,
        group: &Rc<Model>,
        routing: &Routing,
        tier: &[Member],
        counters: Counters,
        asking: &Asking<'_>,
    ) -> Vec<usize> {
        let deployments = || tier.iter().map(|member| member.deployment(counters));
        match routing.strategy {
            Strategy::Failover => (0..tier.len()).collect(),
            Strategy::RoundRobin => {
                let weights: Vec<_> = tier.iter().map(|member| member.weight).collect();
                let position = self.next_position(group, tier, counters);
                self.rotation(weights).order(position)
            }
            Strategy::ConsistentHash => {
                let ring = self.ring(group, routing);
                let key = key::find(&routing.hash_on, &asking.sources);
                let place = ring::place(&[key.as_deref().unwrap_or(asking.request_id)]);
                let names = ring.order(place).into_iter();
                let names =
                    names.filter_map(|index| Some(routing.targets.get(index)?.model.as_str()));
                names
                    .filter_map(|name| tier.iter().position(|member| member.name == name))
                    .collect()
            }
            Strategy::LeastCost => {
                let cost = |member: &Member| match &member.found.model.kind {
                    ModelKind::Direct(direct) => {
                        direct.cost.map(|cost| cost.input_per_1k + cost.output_per_1k)
                    }
                    ModelKind::Routing(_) | ModelKind::Ensemble | ModelKind::Semantic => None,
                };
                rank::by_cost(&tier.iter().map(cost).collect::<Vec<_>>())
            }
            Strategy::LeastLatency => {
                let latencies: Vec<_> = deployments().map(|it| it.latency()).collect();
                rank::by_latency(&latencies, asking.now_ms / 1000)
            }
            Strategy::LeastBusy => {
                let weights = tier.iter().map(|member| member.weight);
                let loads: Vec<_> = deployments().map(|it| it.in_flight()).zip(weights).collect();
                rank::by_load(&loads)
            }
        }
    }

    /// Takes the next position of the rotation over these members, which all workers share.
    fn next_position(&self, group: &Model, tier: &[Member], counters: Counters) -> u64 {
        let names: Vec<_> = tier.iter().map(|member| member.name.as_str()).collect();
        // A caller's tags must not take ever more words.
        let set = (CounterKey::of(&names).get() % ROTATIONS).to_string();
        match counters.cell(CounterKey::of(&["rotation", &group.id, &set])) {
            Some(cell) => cell.fetch_add(1, Relaxed),
            None => self.position.replace(self.position.get().wrapping_add(1)),
        }
    }

    fn rotation(&self, weights: Vec<u32>) -> Rc<Rotation> {
        let mut kept = self.rotations.borrow_mut();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let new = || Rc::new(Rotation::of(&weights));
        match kept.get(&weights) {
            Some(rotation) => rotation.clone(),
            None => {
                let rotation = new();
                kept.insert(weights, rotation.clone());
                rotation
            }
        }
    }

    /// The ring of all targets of a group. Those that are not available are passed over on it, so that only their keys move.
    fn ring(&self, group: &Rc<Model>, routing: &Routing) -> Rc<Ring> {
        let mut kept = self.rings.borrow_mut();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        if let Some((known, ring)) = kept.get(&group.id)
            && Rc::ptr_eq(known, group)
        {
            return ring.clone();
        }
        let targets = routing.targets.iter().map(|target| (target.model.as_str(), target.weight));
        let ring = Rc::new(Ring::of(targets));
        kept.insert(group.id.clone(), (group.clone(), ring.clone()));
        ring
    }
}

/// The target, if it is a direct model that exists.
fn member(routing: &Routing, index: usize, tables: &Tables) -> Option<Member> {
    let target = routing.targets.get(index)?;
    let found = tables.model(&target.model)?;
    matches!(found.model.kind, ModelKind::Direct(_)).then(|| Member {
        found,
        name: target.model.clone(),
        weight: target.weight,
        priority: target.priority,
    })
}

/// Seconds until the first of them is available again, as far as that is known.
fn retry_after(states: &[State], now_ms: u64) -> u64 {
    let ends = states.iter().filter_map(|state| match state {
        State::Cooldown(cooling) => Some(cooling.until_ms.saturating_sub(now_ms).div_ceil(1000)),
        State::Healthy | State::Unhealthy(_) => None,
    });
    ends.min().unwrap_or(RETRY_AFTER_SECONDS).max(1)
}

#[cfg(test)]
mod tests;
