//! When the Cloud is asked for a new certificate, and what is made of its answer. Pure: time and chance are passed in.
//!
//! Asked for at two thirds of the certificate's life, give or take a twentieth, so that replicas spread; earlier where the
//! Cloud has named a time or asks for it in an answer to a heartbeat. What fails is tried again: soon when the end is
//! near, calmly when it is far; for ever, past the end too. A Cloud that does not offer it is asked again a day later.
//!
//! ```text
//! POST /dp/rotate-cert {"csr": PEM, "public_key": SPKI PEM}
//! 2xx {"certificate": PEM, "ca_certificate"?: PEM, "cert_expires_at"?: time, "cert_rotate_before"?: time}
//! ```

use bytes::Bytes;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::secret::Secret;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::manager::Reason;
use crate::bundle::check::Parts;

/// Where the request goes.
pub const PATH: &str = "/dp/rotate-cert";
/// Not asked more often than this, whatever the Cloud says, in seconds.
const SPACING: i64 = 5;
/// A Cloud that does not offer renewal is asked again after this long, in seconds.
const DAY: i64 = 24 * 3600;
/// Bounds of the longest pause after a failure, in seconds.
const PAUSE: (i64, i64) = (60, 3600);

/// What an answer to a heartbeat may say about the certificate. Anything else in it, or no JSON at all, is no matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Renew at once.
    pub rotate_now: bool,
    /// Renew before this time, in seconds since 1970.
    pub rotate_before_unix: Option<i64>,
}

impl Hints {
    /// What an answer says.
    pub fn of(answer: &[u8]) -> Self {
        let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return Self::default() };
        Self {
            rotate_now: answer.get("rotate_cert").and_then(Value::as_bool).unwrap_or_default(),
            rotate_before_unix: answer.get("cert_rotate_before").and_then(moment),
        }
    }
}

/// RFC 3339, or seconds since 1970.
fn moment(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => {
            OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
        }
        value => value.as_i64(),
    }
}

/// How the certificate is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the Cloud.
    Auto,
    /// By people: the Cloud does not offer it.
    Manual,
    /// By people: `managed.cert_renewal` says so.
    Off,
}

impl Mode {
    /// Its word on the status page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
            Self::Off => "off",
        }
    }
}

/// When to ask next. Times are in seconds since 1970.
#[derive(Clone, Debug)]
pub struct Renewal {
    mode: Mode,
    /// The certificate is in force, and valid, since this time.
    since: i64,
    not_after: i64,
    due: i64,
    /// Not before this time: a pause after a failure, or after the last request.
    earliest: i64,
    failures: u32,
}

impl Renewal {
    /// For a certificate with these dates. `chance` is between 0 and 1.
    pub fn new(is_auto: bool, not_before: i64, not_after: i64, chance: f64) -> Self {
        let mode = if is_auto { Mode::Auto } else { Mode::Off };
        let due = due(not_before, not_after, chance);
        Self { mode, since: not_before, not_after, due, earliest: i64::MIN, failures: 0 }
    }

    /// A new certificate is in force. `rotate_before` is what the Cloud said of it.
    pub fn replaced(
        &mut self,
        not_before: i64,
        not_after: i64,
        rotate_before: Option<i64>,
        now: i64,
        chance: f64,
    ) {
        (self.since, self.not_after) = (not_before.max(now), not_after);
        self.due = due(not_before, not_after, chance);
        self.earliest = now.saturating_add(SPACING);
        self.failures = 0;
        self.told(Hints { rotate_now: false, rotate_before_unix: rotate_before }, now, chance);
    }

    /// What the Cloud wishes. A time that is over means now; one that was over before the certificate came into force is
    /// about another, and would mean to renew without end.
    pub fn told(&mut self, hints: Hints, now: i64, chance: f64) {
        if let Some(before) = hints.rotate_before_unix.filter(|before| *before > self.since) {
            // A little earlier: by then it should be done.
            let margin = before.saturating_sub(now).max(0) as f64 * 0.05 * chance.clamp(0.0, 1.0);
            self.due = self.due.min(before.max(now) - margin as i64);
        }
        if hints.rotate_now && self.mode != Mode::Off {
            self.due = self.due.min(now);
            if self.mode == Mode::Manual {
                // Whoever asks for it offers it.
                self.mode = Mode::Auto;
                self.earliest = now;
            }
        }
    }

    /// Somebody wants it now, whatever was planned. What is off stays off.
    pub fn ordered(&mut self, now: i64) {
        if self.mode != Mode::Off {
            self.mode = Mode::Auto;
            (self.due, self.earliest) = (self.due.min(now), now);
        }
    }

    /// When to ask; `None` = never.
    pub fn at(&self) -> Option<i64> {
        (self.mode != Mode::Off).then(|| self.due.max(self.earliest))
    }

    /// How the certificate is renewed.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The request failed, or what came of it was refused.
    pub fn failed(&mut self, now: i64, chance: f64) {
        self.mode = Mode::Auto;
        let left = self.not_after.saturating_sub(now);
        let longest = (left / 20).clamp(PAUSE.0, PAUSE.1);
        let bound = (1_i64 << self.failures.min(12)).clamp(2, longest);
        self.failures = self.failures.saturating_add(1);
        let pause = (bound as f64 * chance.clamp(0.1, 1.0)).ceil();
        self.earliest = now.saturating_add(pause as i64);
    }

    /// The Cloud does not offer it.
    pub fn not_offered(&mut self, now: i64, chance: f64) {
        self.mode = Mode::Manual;
        let pause = DAY as f64 * (0.95 + 0.1 * chance);
        self.earliest = now.saturating_add(pause as i64);
    }
}

fn due(not_before: i64, not_after: i64, chance: f64) -> i64 {
    let life = not_after.saturating_sub(not_before) as f64;
    let share = 2.0 / 3.0 + 0.1 * (chance.clamp(0.0, 1.0) - 0.5);
    not_before.saturating_add((life * share) as i64)
}

/// Whether an answer means that there is no such thing as renewal there.
pub fn is_not_offered(reason: &Reason) -> bool {
    match reason {
        Reason::Status { status, .. } | Reason::WebPage { status } => {
            matches!(status, 404 | 405 | 501)
        }
        Reason::Connection(_) | Reason::Timeout | Reason::TooLong => false,
    }
}

/// A request on its way: a new key, which never leaves this process but for its own disk.
pub struct Request {
    key_pem: Secret<String>,
    /// What is sent.
    pub body: Bytes,
}

/// What the Cloud has made of it.
#[derive(Debug)]
pub struct Renewed {
    /// Its certificate, our key, its CA.
    pub parts: Parts,
    /// When the next renewal should be done.
    pub rotate_before_unix: Option<i64>,
}

#[derive(Deserialize)]
struct Answer {
    certificate: String,
    ca_certificate: Option<String>,
    cert_rotate_before: Option<Value>,
}

impl Request {
    /// With a fresh P-256 key, for this identity.
    pub fn new(env_id: &str, dp_id: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, dp_id);
        for name in [format!("x-aisix://env/{env_id}"), format!("x-aisix://dp/{dp_id}")] {
            params.subject_alt_names.push(SanType::URI(name.try_into()?));
        }
        let csr = params.serialize_request(&key)?.pem()?;
        let body = json!({"csr": csr, "public_key": key.public_key_pem()}).to_string();
        Ok(Self { key_pem: Secret::new(key.serialize_pem()), body: body.into() })
    }

    /// The bundle that an answer makes with our key. Without a CA in it the one in force stays.
    pub fn answered(&self, answer: &[u8], roots_in_force: &str) -> Result<Renewed, String> {
        let answer: Answer = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let roots = answer.ca_certificate.filter(|pem| !pem.trim().is_empty());
        let parts = Parts {
            chain: answer.certificate,
            key: self.key_pem.clone(),
            roots: roots.unwrap_or_else(|| roots_in_force.to_owned()),
        };
        let rotate_before_unix = answer.cert_rotate_before.as_ref().and_then(moment);
        Ok(Renewed { parts, rotate_before_unix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: i64 = 90 * DAY;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_give_or_take() {
        let at = |chance| Renewal::new(true, 0, LIFE, chance).at().unwrap() as f64 / LIFE as f64;
        assert!((at(0.5) - 2.0 / 3.0).abs() < 0.001);
        assert!((0.61..0.62).contains(&at(0.0)) && (0.71..0.72).contains(&at(1.0)));
        assert_eq!(Renewal::new(false, 0, LIFE, 0.5).at(), None);
    }

    #[test]
    fn the_cloud_can_bring_a_renewal_forward_but_not_put_it_off() {
        let mut renewal = Renewal::new(true, 0, LIFE, 0.5);
        let first = renewal.at();
        let told = |before| Hints { rotate_now: false, rotate_before_unix: Some(before) };
        renewal.told(told(80 * DAY), 0, 0.0);
        assert_eq!(renewal.at(), first);
        renewal.told(told(30 * DAY), 0, 0.0);
        assert_eq!(renewal.at(), Some(30 * DAY));
        renewal.told(told(10 * DAY), 20 * DAY, 0.0);
        assert_eq!(renewal.at(), Some(20 * DAY), "a time that is over means now");
        renewal.failed(20 * DAY, 1.0);
        renewal.told(told(10 * DAY), 20 * DAY, 0.0);
        assert!(renewal.at() > Some(20 * DAY), "a pause after a failure is kept");
        renewal.replaced(19 * DAY, 19 * DAY + LIFE, None, 20 * DAY, 0.5);
        renewal.told(told(10 * DAY), 21 * DAY, 0.0);
        assert!(renewal.at() > Some(70 * DAY), "it was about the certificate before");
        renewal.told(Hints { rotate_now: true, rotate_before_unix: None }, 21 * DAY, 0.0);
        assert_eq!(renewal.at(), Some(21 * DAY));
    }

    #[test]
    fn a_cloud_that_always_asks_is_not_obeyed_without_end() {
        let mut renewal = Renewal::new(true, 0, LIFE, 0.5);
        renewal.replaced(100, 100 + LIFE, Some(50), 100, 0.5);
        assert!(renewal.at().unwrap() > 100 + 50 * DAY);
        renewal.told(Hints { rotate_now: true, rotate_before_unix: None }, 101, 0.5);
        assert_eq!(renewal.at(), Some(100 + SPACING));
    }

    #[test]
    fn pauses_after_failures_are_short_near_the_end_and_go_on_past_it() {
        let pauses = |now: i64| {
            let mut renewal = Renewal::new(true, 0, LIFE, 0.5);
            let mut longest = 0;
            for _ in 0..40 {
                renewal.failed(now, 1.0);
                longest = longest.max(renewal.at().unwrap().max(now) - now);
            }
            longest
        };
        assert_eq!(pauses(61 * DAY), 3600);
        assert_eq!(pauses(LIFE - 600), 60);
        assert_eq!(pauses(LIFE + DAY), 60);
    }

    #[test]
    fn an_order_goes_before_every_pause_but_not_before_the_configuration() {
        let mut renewal = Renewal::new(true, 0, LIFE, 0.5);
        renewal.not_offered(10, 0.5);
        renewal.ordered(20);
        assert_eq!((renewal.mode(), renewal.at()), (Mode::Auto, Some(20)));
        let mut off = Renewal::new(false, 0, LIFE, 0.5);
        off.ordered(20);
        assert_eq!((off.mode(), off.at()), (Mode::Off, None));
    }

    #[test]
    fn where_renewal_is_not_offered_it_is_asked_for_a_day_later() {
        let mut renewal = Renewal::new(true, 0, LIFE, 0.5);
        renewal.not_offered(61 * DAY, 0.5);
        assert_eq!((renewal.mode(), renewal.at()), (Mode::Manual, Some(62 * DAY)));
        for status in [404, 405, 501, 403, 500] {
            let reason = Reason::Status { status, retry_after: None, excerpt: String::new() };
            assert_eq!(is_not_offered(&reason), matches!(status, 404 | 405 | 501));
        }
    }

    #[test]
    fn answers_are_read_leniently() {
        assert_eq!(Hints::of(b"{\"ok\":true}"), Hints::default());
        assert_eq!(Hints::of(b"fine"), Hints::default());
        assert_eq!(Hints::of(b"{\"rotate_cert\":\"yes\"}"), Hints::default());
        let told =
            Hints::of(b"{\"rotate_cert\":true,\"cert_rotate_before\":\"1970-01-02T00:00:00Z\"}");
        assert_eq!(told, Hints { rotate_now: true, rotate_before_unix: Some(DAY) });

        let request = Request::new("e-1", "d-1").unwrap();
        let sent: Value = serde_json::from_slice(&request.body).unwrap();
        assert!(sent["csr"].as_str().unwrap().contains("CERTIFICATE REQUEST"));
        assert!(sent["public_key"].as_str().unwrap().contains("PUBLIC KEY"));
        assert!(!String::from_utf8_lossy(&request.body).contains("PRIVATE"));
        let renewed = request.answered(b"{\"certificate\":\"c\",\"ca_certificate\":\"\"}", "r");
        assert_eq!(renewed.unwrap().parts.roots, "r");
        assert!(request.answered(b"{}", "r").unwrap_err().contains("certificate"));
    }
}
