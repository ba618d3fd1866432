//! What each endpoint of the manager may answer in place of what it should.
//!
//! Each is probed with a request that changes nothing: heartbeat and renewal with a GET, which such a route refuses as a
//! method; usage with an empty batch; a budget without naming a key.

use super::super::{Fault, Severity};

/// An endpoint, and its faults.
#[derive(Debug)]
pub struct Endpoint {
    /// Its path.
    pub path: &'static str,
    /// The harmless request: method, what follows the path, body.
    pub probe: (&'static str, &'static str, &'static str),
    /// 401.
    pub unauthorized: Fault,
    /// 403.
    pub forbidden: Fault,
    /// 404.
    pub missing: Fault,
    /// 429.
    pub throttled: Fault,
    /// 5xx.
    pub failing: Fault,
    /// No answer in time.
    pub silent: Fault,
}

macro_rules! endpoint {
    ($code:literal, $what:literal, $path:literal, $probe:expr, $severity:ident, $missing:ident, effect $effect:literal, absent $absent:literal) => {
        Endpoint {
            path: $path,
            probe: $probe,
            unauthorized: Fault {
                code: concat!("cloud-", $code, "-unauthorized"),
                severity: Severity::Error,
                title: concat!("The Cloud answers ", $what, " with 401"),
                why: concat!("It does not take the certificate for an identity that may use ", $path, ", though TLS and other requests work. ", $effect),
                remedy: "look at this data plane in the Cloud; create a new certificate bundle for the environment and supply it",
                explains: &[],
            },
            forbidden: Fault {
                code: concat!("cloud-", $code, "-forbidden"),
                severity: Severity::Error,
                title: concat!("The Cloud forbids ", $what, " (403)"),
                why: concat!("The identity of the certificate is known and may not use ", $path, ", though other requests work. ", $effect),
                remedy: "look at the rights of this data plane and at the plan of its organisation in the Cloud",
                explains: &[],
            },
            missing: Fault {
                code: concat!("cloud-", $code, "-not-found"),
                severity: Severity::$missing,
                title: concat!("The Cloud has no endpoint for ", $what, " (404)"),
                why: concat!($path, " is answered with 404, while other requests work. ", $absent),
                remedy: "bring the Cloud's manager to a version that has it; check that a gateway in front of the manager passes all of /dp/ on",
                explains: &[],
            },
            throttled: Fault {
                code: concat!("cloud-", $code, "-throttled"),
                severity: Severity::Warning,
                title: concat!("The Cloud asks for fewer ", $what, " (429)"),
                why: concat!("More comes to ", $path, " than is permitted, from this data plane or others of its organisation. ", $effect),
                remedy: "wait: the gateway comes back when it is asked to; if it stays, look for other gateways with the same bundle, and ask the Cloud's support",
                explains: &[],
            },
            failing: Fault {
                code: concat!("cloud-", $code, "-failing"),
                severity: Severity::$severity,
                title: concat!("The Cloud fails at ", $what, " (5xx)"),
                why: concat!("What is behind ", $path, " does not work, while other requests do. ", $effect),
                remedy: "look at the Cloud's status page, or at the manager's log; nothing is to be done at the gateway",
                explains: &[],
            },
            silent: Fault {
                code: concat!("cloud-", $code, "-silent"),
                severity: Severity::$severity,
                title: concat!("The Cloud does not answer ", $what, " in time"),
                why: concat!("What is behind ", $path, " hangs, while other requests are answered. ", $effect),
                remedy: "look at the Cloud's status page, or at the manager's log; nothing is to be done at the gateway",
                explains: &[],
            },
        }
    };
}

/// The endpoints, the one that everything else depends on first.
pub static ALL: [Endpoint; 4] = [
    endpoint!("heartbeat", "heartbeats", "/dp/heartbeat", ("GET", "", ""), Error, Error,
        effect "The Cloud shows this gateway as away.",
        absent "The Cloud shows this gateway as away."),
    endpoint!("usage", "usage reports", "/dp/telemetry", ("POST", "", r#"{"events":[]}"#), Error, Error,
        effect "Usage is kept on disk until it is taken.",
        absent "Usage is kept on disk until it is taken."),
    endpoint!("budget", "questions about budgets", "/dp/budget_check", ("GET", "?api_key_id=", ""), Error, Error,
        effect "The last decision counts for a while, then the fail mode of each caller key.",
        absent "The last decision counts for a while, then the fail mode of each caller key."),
    endpoint!("renewal", "renewals of certificates", "/dp/rotate-cert", ("GET", "", ""), Warning, Note,
        effect "The certificate in force stays, and is not renewed by itself.",
        absent "This Cloud does not renew certificates: supply a new bundle before the present one ends."),
];

impl Endpoint {
    /// Its faults.
    pub fn faults(&self) -> [&Fault; 6] {
        [
            &self.unauthorized,
            &self.forbidden,
            &self.missing,
            &self.throttled,
            &self.failing,
            &self.silent,
        ]
    }
}
