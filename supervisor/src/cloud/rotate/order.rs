//! Somebody orders a new certificate (`aisix rotate`), and is told what came of it.

use std::time::SystemTime;

use tokio::sync::oneshot;
use tracing::info;

use super::Rotator;
use crate::bundle::unix;
use crate::cloud::renewal::Mode;

/// Who may wait at a time; others are turned away.
pub const ORDERS_MAX: usize = 8;

/// Why there is nothing to ask for.
pub(super) const NAMELESS: &str = "the certificate in force names no data plane, so that the Cloud cannot be asked to renew it: supply a new bundle as files";

/// What came of it: in a sentence, or why nothing did.
pub type Outcome = Result<String, String>;

/// An order, and where what comes of it is awaited.
pub type Asked = oneshot::Sender<Outcome>;

impl Rotator {
    /// Has the Cloud asked at once. What is under way already is waited for.
    pub(super) fn ordered(&mut self, asked: Asked) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let refused = if self.renewal.mode() == Mode::Off {
            Some("managed.cert_renewal is off: set it to auto, or supply a new bundle as files")
        } else if self.waiting.len() >= ORDERS_MAX {
            Some("others wait for the same already; ask again")
        } else {
            None
        };
        if let Some(reason) = refused {
            // Who asked may have left.
            let _ = asked.send(Err(reason.to_owned()));
            return;
        }
        info!("a new certificate is asked for by order");
        self.waiting.push(asked);
        self.renewal.ordered(unix(SystemTime::now()));
    }

    /// Tells everybody who waits.
    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(outcome.clone());
        }
    }
}
