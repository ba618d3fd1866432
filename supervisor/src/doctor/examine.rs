//! What `aisix doctor` looks at, together: the gateway that runs, or an egress worker of its own; and this machine.

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::causes::again;
use super::egress::OwnEgress;
use super::local::{self, Local};
use super::network::{self, Access, EGRESS};
use super::{Finding, Found, Options, Report, asked, diagnose};
use crate::bundle::check::Parts;
use crate::cli::ask;
use crate::cloud::tls::Identity;
use crate::control::status::Status;
use std::time::Duration;

/// What is seen on this machine takes no longer.
const LOCAL_LIMIT: Duration = Duration::from_millis(4000);
/// All of it takes no longer.
const LIMIT: Duration = Duration::from_millis(9500);

/// Examines, within a `LocalSet`. Takes ten seconds at most.
pub async fn examine(options: &Options) -> Report {
    let begun = Instant::now();
    let (target, note) = ask::target(options.socket.as_deref(), options.config.as_deref());
    let asking = target.clone();
    let status = spawn_blocking(move || asked::status(&asking)).await;
    let mut strange = Vec::new();
    let findings = match status {
        Ok(Ok(status)) => {
            let telling = spawn_blocking(move || asked::report(&target));
            let (local, told) = tokio::join!(look(options, Some(status)), telling);
            let mut findings = local.findings;
            match told {
                Ok(Ok(report)) => {
                    let (theirs, unknown) = again(report);
                    findings.extend(theirs);
                    strange = unknown;
                }
                Ok(Err(finding)) => findings.push(finding),
                Err(_) => {}
            }
            findings
        }
        Ok(Err(mut finding)) => {
            finding.evidence.push_str(&note.unwrap_or_default());
            let mut local = look(options, None).await;
            let mut findings = std::mem::take(&mut local.findings);
            findings.extend(by_ourselves(local, begun + LIMIT).await);
            findings.push(finding);
            findings
        }
        Err(_) => look(options, None).await.findings,
    };
    with(diagnose(findings), strange)
}

/// What this version does not know stands behind what it does.
fn with(mut report: Report, strange: Vec<Found>) -> Report {
    report.findings.extend(strange);
    report
}

async fn look(options: &Options, gateway: Option<Box<Status>>) -> Local {
    let config = options.config.clone();
    let looking = spawn_blocking(move || local::check(config.as_deref(), gateway.as_deref()));
    timeout(LOCAL_LIMIT, looking).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Looks at the network without a gateway.
async fn by_ourselves(local: Local, deadline: Instant) -> Vec<Finding> {
    let Some(settings) = local.settings else { return Vec::new() };
    let egress = match OwnEgress::start(&settings).await {
        Ok(egress) => egress,
        Err(evidence) => return vec![Finding { fault: &EGRESS, evidence }],
    };
    let env_id = local.identity.as_ref().and_then(environment).unwrap_or_default();
    let dial = egress.dial.clone();
    let Some(mut access) = Access::of(&settings.source, local.identity, &env_id, dial) else {
        return Vec::new();
    };
    access.deadline = access.deadline.min(deadline);
    network::check(&access).await
}

/// The environment that a bundle names.
fn environment(identity: &Identity) -> Option<String> {
    let parts = Parts {
        chain: identity.chain_pem.clone(),
        key: identity.key_pem.clone(),
        roots: identity.roots_pem.clone(),
    };
    parts.read().ok().map(|leaf| leaf.identity.env_id)
}
