//! What the manager API, the etcd API and the view share.

use crate::{
    authority::Authority, connections::Connections, etcd::Projection, faults::Faults,
    ledger::Ledger, manager::budget::Checks, resources::Budgets,
};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The state of the local Cloud.
pub struct Cloud {
    /// Signs renewals.
    pub authority: Authority,
    /// How long a renewed certificate is valid.
    pub renewal_days: u32,
    /// The prefix of all keys.
    pub prefix: String,
    /// The resources of all environments.
    pub projection: Projection,
    /// Answers about budgets.
    pub budgets: RwLock<Budgets>,
    /// What was asked about budgets.
    pub budget_checks: Mutex<Checks>,
    /// What was reported.
    pub ledger: Mutex<Ledger>,
    /// What goes wrong on purpose.
    pub faults: Mutex<Faults>,
    /// Who is and was connected.
    pub connections: Mutex<Connections>,
    /// Data planes that are asked to renew their certificate, in the answers to their heartbeats.
    pub renewals_asked: Mutex<BTreeSet<String>>,
}

impl Cloud {
    /// The ledger, locked.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data planes that are asked to renew, locked.
    pub fn renewals_asked(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.renewals_asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The faults, locked.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 3339 in whole seconds, as the Cloud's own times are written.
pub fn timestamp(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}
