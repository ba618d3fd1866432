//! What workers are told.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use shared::id::{Role, WorkerId};
use shared::key_set::KeySet;
use shared::message::ToWorker;
use shared::update::Change;

use super::Fleet;
use super::member::Member;
use crate::configuration::Delivery;

impl Fleet {
    /// Sends a change of configuration to every worker that has been told the one before, but for one that has it already.
    pub fn deliver(&mut self, delivery: &Delivery, except: Option<WorkerId>) {
        let told = |member: &&mut Member| {
            member.role == Role::Proxy && member.is_welcome() && Some(member.id) != except
        };
        for member in self.members_mut().filter(told) {
            member.deliver(delivery.clone());
        }
    }

    /// Sends a change of configuration to one worker, and asks for a sign of life after it.
    pub fn deliver_to(&mut self, id: WorkerId, delivery: &Delivery) {
        let round = self.round;
        if let Some(member) = self.members_mut().find(|member| member.id == id) {
            member.deliver(delivery.clone());
            member.tell(ToWorker::Ping(round));
        }
    }

    /// Sends budget verdicts that changed to every worker that has been told the others.
    pub fn tell_budgets(&mut self, memory: &Rc<OwnedFd>) {
        let told = |member: &&mut Member| member.role == Role::Proxy && member.is_welcome();
        for member in self.members_mut().filter(told) {
            member.tell_budgets(false, Rc::clone(memory));
        }
    }

    /// A change of the projection: to be called before the proxy workers are told.
    pub fn identity_providers_changed(&mut self, whole: bool, changes: &[Change]) {
        self.key_sets.apply(whole, changes);
    }

    /// Tells every proxy worker of keys that one of them has fetched, that one included.
    pub(super) fn share_keys(&mut self, set: KeySet) {
        if !self.key_sets.keep(&set) {
            return;
        }
        let told = |member: &&mut Member| member.role == Role::Proxy && member.is_welcome();
        for member in self.members_mut().filter(told) {
            member.tell(ToWorker::KeySet(set.clone()));
        }
    }

    /// What is logged from now on, by workers that run and by those that are started.
    pub fn set_log_filter(&mut self, directives: &str) {
        let former = self.roll.iter_mut().flat_map(|roll| roll.former_mut());
        let posts = self.posts.iter_mut().map(|post| &mut post.settings);
        for settings in posts.chain(former) {
            directives.clone_into(&mut settings.log_filter);
        }
        for member in self.members_mut().filter(|member| member.is_welcome()) {
            member.tell(ToWorker::LogFilter(directives.to_owned()));
        }
    }

    /// Sends the answer to a page that the status worker asked for.
    pub fn answer(&mut self, id: WorkerId, request: u64, page: ToWorker, body: OwnedFd) {
        if let Some(member) = self.members_mut().find(|member| member.id == id) {
            member.answer(page, request, body);
        }
    }

    /// Tells one worker, if it is still there.
    pub fn tell(&mut self, id: WorkerId, message: ToWorker) {
        if let Some(member) = self.members_mut().find(|member| member.id == id) {
            member.tell(message);
        }
    }
}
