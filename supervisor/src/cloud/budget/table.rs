//! All caller keys of the projection: what is known of each, what the workers are to be told, what is to be kept. Pure: time
//! and chance are passed in.
//!
//! 1. Only keys of the projection take memory: what a worker says of others is passed over.
//! 2. Workers are told what differs from what they were told before, and nothing else.
//! 3. A key costs work when something happens to it; because it is there, only one call per stale limit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use shared::budget::Verdict;
use shared::resource::{Kind, Resource};
use shared::update::Change;

use super::calls::{Calls, Outcome};
use super::decision::FailMode;
use super::kept::{self, Kept};
use super::key::{Answer, Cloud, Key, Moment, Rules};
use super::schedule::Schedule;

/// What did not change what a key may do is kept at most once in so long.
const KEPT_EVERY: Moment = 5_000;
/// Alarms that ring in one go.
const ALARMS_AT_ONCE: usize = 1_000;
/// Keys, before the first projection, whose spending is remembered. Beyond, it is not counted until the next decision.
const EARLY_MAX: usize = 100_000;

/// One key and where it stands.
#[derive(Debug, Default)]
struct Row {
    key: Key,
    alarm: Option<Moment>,
    kept: Option<(Moment, bool, FailMode)>,
    refusal: Option<String>,
}

/// All caller keys.
#[derive(Debug)]
pub struct Table {
    rules: Rules,
    rows: HashMap<Arc<str>, Row>,
    alarms: BTreeSet<(Moment, Arc<str>)>,
    schedule: Schedule,
    /// What the workers have not been told yet.
    untold: BTreeMap<Arc<str>, Verdict>,
    /// What is not kept yet.
    unkept: BTreeSet<Arc<str>>,
    /// Kept keys that are not projected any more.
    dropped: Vec<Arc<str>>,
    /// What is known of keys before the first projection.
    early: Option<HashMap<String, (Option<Kept>, f64)>>,
    /// Keys that the Cloud refuses to decide about.
    refused: BTreeSet<Arc<str>>,
    calls: Calls,
}

impl Table {
    /// No key yet, but what was kept of some.
    pub fn new(rules: Rules, kept: Vec<(String, Vec<u8>)>, now: Moment) -> Self {
        let early = kept
            .into_iter()
            .filter_map(|(id, bytes)| Some((id, (Some(kept::read(&bytes, now)?), 0.0))));
        Self {
            rules,
            rows: HashMap::new(),
            alarms: BTreeSet::new(),
            schedule: Schedule::default(),
            untold: BTreeMap::new(),
            unkept: BTreeSet::new(),
            dropped: Vec::new(),
            early: Some(early.collect()),
            refused: BTreeSet::new(),
            calls: Calls::default(),
        }
    }

    /// Takes over the caller keys of a change of configuration; `whole` leaves no key of before.
    pub fn projected(&mut self, whole: bool, changes: &[Change], now: Moment) {
        let mut gone: BTreeSet<Arc<str>> = BTreeSet::new();
        if whole {
            gone.extend(self.rows.keys().cloned());
        }
        for change in changes {
            match change {
                Change::Put(resource) => {
                    let Resource::ApiKey(api_key) = &**resource else { continue };
                    let id: Arc<str> = api_key.id.as_str().into();
                    gone.remove(&id);
                    self.add(&id);
                    if let Some(row) = self.rows.get_mut(&id) {
                        row.key.team_id.clone_from(&api_key.team_id);
                        row.key.user_id.clone_from(&api_key.user_id);
                    }
                    self.touch(&id, now);
                }
                Change::Delete(Kind::ApiKey, id) => drop(gone.insert(id.as_str().into())),
                Change::Delete(..) => {}
            }
        }
        gone.iter().for_each(|id| self.remove(id));
        // From here on, a key that is not projected is none.
        if let Some(early) = self.early.take() {
            let kept = early.into_iter().filter(|(_, (kept, _))| kept.is_some());
            self.dropped.extend(kept.map(|(id, _)| Arc::from(id)));
        }
    }

    fn add(&mut self, id: &Arc<str>) {
        if self.rows.contains_key(id) {
            return;
        }
        let mut row = Row::default();
        let early = self.early.as_mut().and_then(|early| early.remove(&**id));
        if let Some((kept, spent)) = early {
            row.key.spend.undelivered = spent;
            if let Some(Kept { decision, at, since_answer }) = kept {
                row.kept = Some((at, decision.allow, decision.fail_mode));
                row.key.spend.since_answer = since_answer;
                row.key.answer = Some(Answer { decision, at });
            }
        }
        self.rows.insert(Arc::clone(id), row);
    }

    fn remove(&mut self, id: &Arc<str>) {
        let Some(row) = self.rows.remove(id) else { return };
        if let Some(at) = row.alarm {
            self.alarms.remove(&(at, Arc::clone(id)));
        }
        self.schedule.unwant(id);
        self.refused.remove(id);
        self.unkept.remove(id);
        if row.kept.is_some() {
            self.dropped.push(Arc::clone(id));
        }
        // Workers know every key that they were asked with, told or not.
        self.untold.insert(Arc::clone(id), Verdict::Forget);
    }

    /// Requests have needed these keys, each so many.
    pub fn used(&mut self, keys: &[(String, u32)], now: Moment) {
        for (id, count) in keys {
            let Some((id, _)) = self.rows.get_key_value(id.as_str()) else { continue };
            let id = Arc::clone(id);
            let (rules, cloud) = (self.rules, self.calls.cloud(now));
            if let Some(row) = self.rows.get_mut(&id) {
                row.key.used(*count, &rules, cloud, now);
            }
            self.touch(&id, now);
        }
    }

    /// A usage event of that cost was taken in.
    pub fn spent(&mut self, id: &str, cost: f64, now: Moment) {
        if !is_amount(cost) {
            return;
        }
        if let Some(early) = &mut self.early {
            if early.len() < EARLY_MAX || early.contains_key(id) {
                early.entry(id.to_owned()).or_default().1 += cost;
            }
            return;
        }
        self.change(id, now, |key| key.spent(cost));
    }

    /// The Cloud was told of it at `at`.
    pub fn delivered(&mut self, id: &str, cost: f64, at: Moment, now: Moment) {
        if !is_amount(cost) {
            return;
        }
        if let Some((_, spent)) = self.early.as_mut().and_then(|early| early.get_mut(id)) {
            *spent = (*spent - cost).max(0.0);
        }
        self.change(id, now, |key| key.delivered(cost, at));
    }

    fn change(&mut self, id: &str, now: Moment, change: impl FnOnce(&mut Key)) {
        let Some((id, _)) = self.rows.get_key_value(id) else { return };
        let id = Arc::clone(id);
        let Some(row) = self.rows.get_mut(&id) else { return };
        let was_used_up = row.key.is_used_up();
        change(&mut row.key);
        if row.key.answer.is_some() {
            self.unkept.insert(Arc::clone(&id));
        }
        // Most events change nothing that anyone has to be told.
        if row.key.is_used_up() != was_used_up {
            self.touch(&id, now);
        }
    }

    /// The next key to ask the Cloud for; it counts as being asked for from now on.
    pub fn next(&mut self, now: Moment) -> Option<Arc<str>> {
        let id = self.schedule.next(self.calls.is_vain(), now)?;
        self.calls.begin(now);
        if let Some(row) = self.rows.get_mut(&id) {
            row.key.asked(now);
        }
        self.touch(&id, now);
        Some(id)
    }

    /// The call that [`Table::next`] asked for is over.
    pub fn done(&mut self, id: &Arc<str>, outcome: Outcome, now: Moment, chance: f64) {
        self.schedule.done();
        let was_well = self.calls.cloud(now) == Cloud::Well;
        let asked_at = self.rows.get(id).and_then(|row| row.key.asked_at);
        self.calls.note(&outcome, asked_at, now);
        if let Outcome::Away(_, Some(pause)) = &outcome {
            self.schedule.pause(now + pause);
        }
        if !was_well && self.calls.cloud(now) == Cloud::Well {
            self.look_again(now);
        }
        let Some(row) = self.rows.get_mut(id) else { return };
        self.refused.remove(id);
        row.refusal = None;
        match outcome {
            Outcome::Decided(decision) => {
                row.key.answered(*decision, now);
                self.unkept.insert(Arc::clone(id));
            }
            Outcome::Refused(reason) => {
                row.key.failed(now, chance);
                row.refusal = Some(reason);
                self.refused.insert(Arc::clone(id));
            }
            Outcome::Away(..) => row.key.failed(now, chance),
        }
        self.touch(id, now);
    }

    /// The Cloud is back: keys that were decided without it are asked for at their next use.
    fn look_again(&mut self, now: Moment) {
        for (id, row) in &mut self.rows {
            if row.key.depends_on_cloud(&self.rules, now) && row.alarm.is_none_or(|at| at > now) {
                if let Some(at) = row.alarm.replace(now) {
                    self.alarms.remove(&(at, Arc::clone(id)));
                }
                self.alarms.insert((now, Arc::clone(id)));
            }
        }
    }

    /// Does what is due, or a good part of it.
    pub fn tick(&mut self, now: Moment) {
        for _ in 0..ALARMS_AT_ONCE {
            let Some(alarm) = self.alarms.first().filter(|(at, _)| *at <= now) else { break };
            let id = Arc::clone(&alarm.1);
            self.alarms.pop_first();
            if let Some(row) = self.rows.get_mut(&id) {
                row.alarm = None;
            }
            self.touch(&id, now);
        }
    }

    /// When there is something to do again, if nothing happens before.
    pub fn next_at(&self, now: Moment) -> Option<Moment> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        alarm.into_iter().chain(self.schedule.next_at(now)).min()
    }

    /// Something happened to a key: what follows from it is noted.
    fn touch(&mut self, id: &Arc<str>, now: Moment) {
        let cloud = self.calls.cloud(now);
        let Some(row) = self.rows.get_mut(id) else { return };
        row.key.settle(cloud == Cloud::Away, now);
        let verdict = row.key.verdict(&self.rules, cloud, now);
        if verdict != row.key.told {
            row.key.told.clone_from(&verdict);
            self.untold.insert(Arc::clone(id), verdict.unwrap_or(Verdict::Forget));
        }
        match row.key.question(&self.rules, now) {
            Some((at, class)) if at <= now => self.schedule.want(id, class, row.key.uses),
            Some(_) | None => self.schedule.unwant(id),
        }
        let alarm = row.key.next_change(&self.rules, now);
        if alarm != row.alarm {
            if let Some(at) = std::mem::replace(&mut row.alarm, alarm) {
                self.alarms.remove(&(at, Arc::clone(id)));
            }
            self.alarms.extend(alarm.map(|at| (at, Arc::clone(id))));
        }
    }

    /// Whether the Cloud does not answer at all.
    pub fn is_away(&self) -> bool {
        self.calls.is_away()
    }

    /// It could not be told to the workers after all.
    pub fn give_back(&mut self, untold: BTreeMap<Arc<str>, Verdict>) {
        for (id, verdict) in untold {
            self.untold.entry(id).or_insert(verdict);
        }
    }

    /// What the workers have not been told yet.
    pub fn take_untold(&mut self) -> BTreeMap<Arc<str>, Verdict> {
        std::mem::take(&mut self.untold)
    }

    /// Whether there is something to tell the workers.
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Everything that a worker which knows nothing is to be told.
    pub fn verdicts(&self) -> Vec<(&str, &Verdict)> {
        self.rows.iter().filter_map(|(id, row)| Some((&**id, row.key.told.as_ref()?))).collect()
    }

    /// What is to be kept now: all that changed what a key may do, the rest from time to time, or `all` of it. `ahead` is by
    /// how much the clock on the wall is ahead of ours.
    pub fn take_unkept(
        &mut self,
        all: bool,
        now: Moment,
        ahead: Moment,
    ) -> Vec<(String, Option<Vec<u8>>)> {
        let dropped = std::mem::take(&mut self.dropped);
        let mut changes: Vec<_> = dropped.iter().map(|id| (id.to_string(), None)).collect();
        let rows = &mut self.rows;
        self.unkept.retain(|id| {
            let Some(row) = rows.get_mut(id) else { return false };
            let Some(Answer { decision, at }) = &row.key.answer else { return false };
            let due = row.kept.is_none_or(|(kept_at, allow, fail_mode)| {
                let is_same = (allow, fail_mode) == (decision.allow, decision.fail_mode);
                all || !is_same || now - kept_at >= KEPT_EVERY
            });
            if due {
                row.kept = Some((now, decision.allow, decision.fail_mode));
                let bytes =
                    kept::write(decision, at.saturating_add(ahead), row.key.spend.since_answer);
                changes.push((id.to_string(), Some(bytes)));
            }
            !due
        });
        changes
    }

    /// Every decision is to be kept anew, as after a change of the clock on the wall.
    pub fn keep_all(&mut self) {
        let decided = self.rows.iter().filter(|(_, row)| row.key.answer.is_some());
        self.unkept.extend(decided.map(|(id, _)| Arc::clone(id)));
    }

    /// Whether something waits to be kept.
    pub fn has_unkept(&self) -> bool {
        !self.unkept.is_empty() || !self.dropped.is_empty()
    }

    /// How many decisions wait to be kept.
    pub fn unkept(&self) -> usize {
        self.unkept.len()
    }

    /// Counters of calls.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.rows.iter().map(|(id, row)| (&**id, &row.key))
    }

    /// A key that the Cloud refuses to decide about, the reason, and how many there are.
    pub fn refused(&self) -> Option<(&str, &str, usize)> {
        let id = self.refused.first()?;
        let reason = self.rows.get(id)?.refusal.as_deref()?;
        Some((id, reason, self.refused.len()))
    }

    /// How many keys wait to be asked for.
    pub fn waiting(&self) -> usize {
        self.schedule.waiting()
    }
}

/// A worker that was taken over may claim anything.
fn is_amount(cost: f64) -> bool {
    cost.is_finite() && cost > 0.0
}

#[cfg(test)]
mod tests;
