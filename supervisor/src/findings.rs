//! What is not as it should be right now, and what to do about it: one finding per topic, for the log, the metrics and the
//! status page. Nothing here stops traffic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tracing::{info, warn};

/// What findings are about; at most one of each at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The bundle that is in force: its dates, its files' modes.
    Certificate,
    /// The certificate and key of the listener of callers.
    ListenerCertificate,
    /// A bundle that should have come into force, and did not.
    Rotation,
    /// The state directory as a whole.
    StateDirectory,
    /// The snapshot of resources on disk.
    Snapshot,
    /// The spool of usage events on disk.
    Spool,
    /// Usage events that the Cloud will never accept, or that were shed.
    Usage,
    /// Budget decisions that cannot be had.
    Budgets,
    /// The worker that makes connections is not there.
    Egress,
    /// The confinement of the workers.
    Sandbox,
    /// The control socket.
    ControlSocket,
    /// Resources that guard traffic and that this build cannot enforce.
    NotEnforced,
    /// Changes of the configuration that workers died of.
    Quarantine,
    /// The Redis that limits are shared by.
    Redis,
    /// More requests than the workers can serve.
    Overload,
    /// A replacement of all workers that did not come to its end, or a reload that was refused.
    Replacement,
    /// An upgrade that was asked for, and did not take place.
    Upgrade,
    /// Exporters of traces that do not get through.
    Export,
}

impl Topic {
    /// Every topic, for whoever tells also of those that are well.
    pub const ALL: [Self; 17] = [
        Self::Certificate,
        Self::ListenerCertificate,
        Self::Rotation,
        Self::StateDirectory,
        Self::Snapshot,
        Self::Spool,
        Self::Usage,
        Self::Budgets,
        Self::Egress,
        Self::Sandbox,
        Self::ControlSocket,
        Self::NotEnforced,
        Self::Quarantine,
        Self::Redis,
        Self::Overload,
        Self::Replacement,
        Self::Upgrade,
    ];

    /// Its name in metrics and on the status page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::ListenerCertificate => "listener_certificate",
            Self::Rotation => "rotation",
            Self::StateDirectory => "state_directory",
            Self::Snapshot => "snapshot",
            Self::Spool => "spool",
            Self::Usage => "usage",
            Self::Budgets => "budgets",
            Self::Egress => "egress",
            Self::Sandbox => "sandbox",
            Self::ControlSocket => "control_socket",
            Self::NotEnforced => "not_enforced",
            Self::Quarantine => "quarantine",
            Self::Redis => "redis",
            Self::Overload => "overload",
            Self::Replacement => "replacement",
            Self::Upgrade => "upgrade",
            Self::Export => "export",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, where, why, and what to do.
    pub text: String,
    /// Since when something is wrong with this topic.
    pub since: SystemTime,
}

/// All findings of the node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Findings(Arc<Mutex<BTreeMap<Topic, Finding>>>);

impl Findings {
    /// Notes what is wrong; logged when it is new or has changed.
    pub fn found(&self, topic: Topic, text: impl Into<String>) {
        let text = text.into();
        let mut findings = self.lock();
        let before = findings.get(&topic);
        if before.is_some_and(|before| before.text == text) {
            return;
        }
        warn!(topic = topic.name(), "{text}");
        let since = before.map_or_else(SystemTime::now, |before| before.since);
        findings.insert(topic, Finding { text, since });
    }

    /// Notes that a topic is well again; logged if it was not.
    pub fn settled(&self, topic: Topic) {
        if self.lock().remove(&topic).is_some() {
            info!(topic = topic.name(), "settled: what was reported about it is over");
        }
    }

    /// Whether something is wrong with a topic.
    pub fn has(&self, topic: Topic) -> bool {
        self.lock().contains_key(&topic)
    }

    /// Every finding, by topic.
    pub fn list(&self) -> Vec<(Topic, Finding)> {
        self.lock().iter().map(|(topic, finding)| (*topic, finding.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Topic, Finding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_among_all_and_the_last_one_is_last() {
        for (place, topic) in Topic::ALL.into_iter().enumerate() {
            assert_eq!(topic as usize, place);
        }
        // Whoever appends a topic names it here and in `ALL`.
        assert_eq!(Topic::ALL.last(), Some(&Topic::Upgrade));
    }

    #[test]
    fn a_topic_has_one_finding_until_it_is_settled() {
        let findings = Findings::default();
        findings.found(Topic::Spool, "disk full");
        let since = findings.list()[0].1.since;
        findings.found(Topic::Spool, "disk still full");
        let list = findings.list();
        assert_eq!(list, [(Topic::Spool, Finding { text: "disk still full".to_owned(), since })]);
        findings.settled(Topic::Spool);
        assert!(findings.list().is_empty());
    }
}
