//! What the egress worker is told beside its settings: where it may connect to, and how names are resolved. One that starts
//! anew is told all of it before it is introduced to anybody, and later each change, before the workers whom it concerns.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use shared::egress::{self, Resolver};
use shared::id::Role;
use shared::message::ToWorker;
use shared::update::Change;
use tracing::error;

use super::Fleet;
use super::life::Input;
use crate::destinations::Destinations;

/// What egress works with.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// Where it may connect to.
    pub destinations: Destinations,
    /// How names are resolved.
    pub resolver: Resolver,
}

impl Fleet {
    /// What the configuration file and the system's files say, before anything is started.
    pub fn egress_knows(&mut self, knowledge: Knowledge) {
        self.egress = knowledge;
    }

    /// A change of the projection: to be called before the proxy workers are told.
    pub fn destinations_changed(&mut self, whole: bool, changes: &[Change]) {
        let mut told = self.egress.destinations.apply(whole, changes);
        if whole {
            // One that was taken over from another image may know what is gone.
            told = self.egress.destinations.whole();
        }
        if whole || !told.is_empty() {
            let memory = || egress::table(&told);
            self.tell_egress(&ToWorker::Destinations { whole }, &memory);
        }
    }

    /// The system's files have changed.
    pub fn resolver_changed(&mut self, resolver: Resolver) {
        let memory = || resolver.seal();
        self.tell_egress(&ToWorker::Resolver, &memory);
        self.egress.resolver = resolver;
    }

    /// Tells the egress worker at `index`, which has just been welcomed, everything.
    pub(super) fn brief_egress(&mut self, index: usize) {
        let resolver = self.egress.resolver.seal();
        let table = egress::table(&self.egress.destinations.whole());
        self.hand_to(index, ToWorker::Resolver, resolver);
        self.hand_to(index, ToWorker::Destinations { whole: true }, table);
    }

    fn tell_egress(&mut self, message: &ToWorker, memory: &dyn Fn() -> io::Result<OwnedFd>) {
        for index in 0..self.members.len() {
            let member = self.member(index);
            if member.is_some_and(|member| member.role == Role::Egress && member.is_welcome()) {
                self.hand_to(index, message.clone(), memory());
            }
        }
    }

    /// One that cannot be told is started anew, and then told all of it.
    fn hand_to(&mut self, index: usize, message: ToWorker, memory: io::Result<OwnedFd>) {
        match memory {
            Ok(memory) => {
                if let Some(member) = self.member_mut(index) {
                    member.hand_over(message, memory);
                }
            }
            Err(error) => {
                error!(%error, "cannot hand the destination table to the egress worker");
                self.input(index, Input::Misbehaved, Instant::now());
            }
        }
    }
}
