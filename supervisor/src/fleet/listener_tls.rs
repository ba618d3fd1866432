//! TLS of callers: the signer gets keys, and when it has confirmed one, proxy workers get its certificate.

use shared::id::Role;
use shared::message::ToWorker;
use tracing::error;

use super::Fleet;
use super::member::Member;
use crate::listener_tls::{ListenerTls, Order};

impl Fleet {
    /// Callers speak TLS.
    #[must_use]
    pub fn with_listener_tls(mut self, tls: Option<ListenerTls>) -> Self {
        self.listener_tls = tls;
        self
    }

    /// Hands something new to those that it is for.
    pub fn hand_over_tls(&mut self, order: Order) {
        let Some(tls) = self.listener_tls.clone() else { return };
        let role = match order {
            Order::Key => Role::Signer,
            Order::Certificate => Role::Proxy,
        };
        for member in self.members_mut().filter(|it| it.role == role && it.is_welcome()) {
            hand_over(&tls, member);
        }
    }

    /// The signer has confirmed a key: what goes with it may be shown.
    pub(super) fn key_confirmed(&mut self, number: u64) {
        if self.listener_tls.as_ref().is_some_and(|tls| tls.confirmed(number)) {
            self.hand_over_tls(Order::Certificate);
        }
    }
}

/// Hands over all that a worker of this role needs to know of it. Without it, the worker ends when it is to serve.
pub(super) fn hand_over(tls: &ListenerTls, member: &mut Member) {
    let handed_over = match member.role {
        Role::Proxy => tls.certificate().map(|certificate| {
            member.hand_over(ToWorker::Certificate, certificate);
        }),
        Role::Signer => tls.keys().map(|keys| {
            for (about, key) in keys {
                member.hand_over(ToWorker::SigningKey(about), key);
            }
        }),
        Role::Status | Role::Egress | Role::Cache | Role::Export => Ok(()),
    };
    if let Err(error) = handed_over {
        error!(worker = %member.id, %error, "cannot hand over the listener's certificate or key");
    }
}
