//! Asking the Cloud: whether it accepts a candidate, and for a new certificate.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Rotator, order};
use crate::backoff::chance;
use crate::bundle::candidate::{self, Rejection};
use crate::bundle::check::date;
use crate::bundle::rotation::{By, Candidate, Input, Rotation};
use crate::bundle::unix;
use crate::cloud::heartbeat;
use crate::cloud::manager::{Broken, Manager, ManagerError, Reason, Session};
use crate::cloud::renewal::{self, Mode, Request};
use crate::cloud::tls::InForce;

impl Rotator {
    /// A heartbeat with the candidate, over a connection of its own.
    pub(super) fn prove(&mut self, candidate: &Candidate) {
        let in_force = match InForce::new(candidate.bundle.clone()) {
            Ok(in_force) => in_force,
            // It was made once already, when it was judged.
            Err(error) => return error!(%error, "a checked bundle cannot be used"),
        };
        let (_, credentials) = watch::channel(Arc::new(in_force));
        let mut session = Session::new(Manager { credentials, ..self.parts.manager.clone() });
        let author = Rc::clone(&self.parts.author);
        let dp_id = candidate.bundle.dp_id.clone().unwrap_or_default();
        self.proof = Some(Box::pin(async move {
            let facts = author.turn().await;
            session.post(heartbeat::PATH, author.write(&dp_id, facts)).await.map(drop)
        }));
    }

    /// What has come of that heartbeat.
    pub(super) async fn proved(&mut self, result: Result<(), ManagerError>) {
        let Err(error) = result else { return self.step(Input::Proved).await };
        let (Rotation::Proving(candidate, _) | Rotation::Waiting { candidate, .. }) =
            &self.rotation
        else {
            return;
        };
        let by = candidate.by;
        let is_refusal = is_refusal(&error.reason);
        let text = if is_refusal {
            let rejection = Rejection::Refused(error.to_string());
            if !self.is_refusal_counted {
                self.is_refusal_counted = true;
                self.parts.report.rejected(&rejection, unix(SystemTime::now()));
            }
            rejection.to_string()
        } else {
            format!("the Cloud could not be asked whether it accepts it: {error}")
        };
        let until = date(self.bundle.not_after_unix);
        let text = format!(
            "a new certificate bundle is not yet in use: {text}; trying again, the bundle in force (valid until {until}) stays"
        );
        match by {
            By::Files => self.files.trouble = Some(text),
            By::Cloud => {
                self.outcome(&Err(text.clone()));
                self.renewal_trouble = Some(text);
            }
        }
        self.tell();
        self.step(if is_refusal { Input::Refused } else { Input::Unreachable }).await;
    }

    /// Asks for a certificate for a new key.
    pub(super) fn ask(&mut self) {
        let Some(dp_id) = &self.bundle.dp_id else {
            // Nobody to ask for: a persisted bundle without a name, which is a finding of its own.
            self.outcome(&Err(order::NAMELESS.to_owned()));
            return self.renewal.not_offered(unix(SystemTime::now()), chance());
        };
        let request = match Request::new(&self.bundle.env_id, dp_id) {
            Ok(request) => request,
            Err(error) => {
                warn!(%error, "no request for a new certificate can be made");
                self.outcome(&Err(format!(
                    "no request for a new certificate can be made: {error}"
                )));
                return self.renewal.failed(unix(SystemTime::now()), chance());
            }
        };
        info!("asking the Cloud for a new certificate");
        let mut session = Session::new(self.parts.manager.clone());
        self.request = Some(Box::pin(async move {
            let answer = session.post(renewal::PATH, request.body.clone()).await;
            (request, answer)
        }));
    }

    /// What the Cloud has answered to that.
    pub(super) async fn answered(
        &mut self,
        request: &Request,
        answer: Result<Bytes, ManagerError>,
    ) {
        let now = unix(SystemTime::now());
        let told = match answer {
            Err(error) if renewal::is_not_offered(&error.reason) => {
                if self.renewal.mode() != Mode::Manual {
                    info!(
                        "the Cloud does not renew certificates ({error}): it is done by files, and asked for again in a day"
                    );
                }
                self.outcome(&Err(format!(
                    "the Cloud does not renew certificates ({error}): supply a new bundle as files"
                )));
                self.renewal.not_offered(now, chance());
                self.renewal_trouble = None;
                return self.tell();
            }
            Err(error) => error.to_string(),
            Ok(answer) => {
                let roots = &self.bundle.roots_pem;
                let renewed = request.answered(&answer, roots).map_err(Rejection::Answer);
                let judged = renewed.and_then(|renewed| {
                    self.rotate_before = renewed.rotate_before_unix;
                    candidate::renewed(renewed.parts, &self.bundle, SystemTime::now())
                });
                match judged {
                    Ok(bundle) => return self.offer(bundle, By::Cloud).await,
                    Err(rejection) => {
                        self.parts.report.rejected(&rejection, now);
                        rejection.to_string()
                    }
                }
            }
        };
        self.renewal.failed(now, chance());
        let until = date(self.bundle.not_after_unix);
        let text =
            format!("the certificate (valid until {until}) is not renewed: {told}; trying again");
        self.outcome(&Err(text.clone()));
        self.renewal_trouble = Some(text);
        self.tell();
    }
}

/// Whether somebody has said no, rather than that nobody could be asked.
fn is_refusal(reason: &Reason) -> bool {
    match reason {
        Reason::Connection(Broken::Tls(_)) | Reason::WebPage { .. } => true,
        Reason::Status { status, .. } => {
            (400..500).contains(status) && !matches!(status, 408 | 429)
        }
        Reason::Connection(Broken::Network(_)) | Reason::Timeout | Reason::TooLong => false,
    }
}
