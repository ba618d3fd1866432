//! What a failed handshake means.

use std::error::Error;

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError, PeerIncompatible};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::faults_tls::{
    ALPN, BAD_SERVER, CLIENT_EXPIRED, CLIENT_MISSING, CLIENT_REFUSED, CLIENT_REVOKED,
    CLIENT_UNKNOWN_CA, CLOSED, NO_COMMON, NOT_TLS, OLD_VERSION, SERVER_EARLY, SERVER_EXPIRED,
    SILENT, STALLS, UNKNOWN_ISSUER, WRONG_NAME,
};
use super::tls::Failure;
use crate::bundle::check::date;
use crate::doctor::Fault;
use crate::process::TcpFacts;

/// Names of a certificate that evidence shows.
const NAMES_MAX: usize = 8;

/// The fault, and the reason in words.
pub(super) fn failure(failure: &Failure) -> (&'static Fault, String) {
    match failure {
        Failure::Silent(facts) if is_stalled(*facts) => (
            &STALLS,
            format!(
                "the handshake stopped after {} bytes ({} packets with data came, {} of ours were sent again)",
                facts.bytes_in, facts.segments_in, facts.retransmits
            ),
        ),
        Failure::Silent(_) => (&SILENT, "no answer to the greeting of TLS".to_owned()),
        Failure::Protocol(Some(other)) => (&ALPN, format!("it speaks {other} inside TLS")),
        Failure::Protocol(None) => (&ALPN, "it agrees on no protocol inside TLS".to_owned()),
        Failure::Own(words) => (&NO_COMMON, words.clone()),
        Failure::Io(error) => match crate::cloud::tls::find(error) {
            Some(tls) => (of(tls), tls.to_string()),
            None => (&CLOSED, error.to_string()),
        },
    }
}

/// Something came, and not all of it; or something of ours does not get through.
pub(super) fn is_stalled(facts: TcpFacts) -> bool {
    facts.bytes_in > 0 || facts.segments_in > 0
}

fn of(error: &TlsError) -> &'static Fault {
    match error {
        TlsError::InvalidCertificate(error) => of_certificate(error),
        TlsError::AlertReceived(alert) => of_alert(*alert),
        TlsError::InvalidMessage(_) => &NOT_TLS,
        TlsError::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => &OLD_VERSION,
        _ => &NO_COMMON,
    }
}

fn of_certificate(error: &CertificateError) -> &'static Fault {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => &UNKNOWN_ISSUER,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            &WRONG_NAME
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => &SERVER_EXPIRED,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            &SERVER_EARLY
        }
        // A certificate that somebody has made for himself, as a CA: the verifier has no word of its own for it.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            &UNKNOWN_ISSUER
        }
        _ => &BAD_SERVER,
    }
}

fn of_alert(alert: Alert) -> &'static Fault {
    match alert {
        Alert::ProtocolVersion => &OLD_VERSION,
        Alert::NoApplicationProtocol => &ALPN,
        Alert::UnrecognisedName => &WRONG_NAME,
        alert => client(alert).unwrap_or(&NO_COMMON),
    }
}

/// What an alert says about our certificate.
fn client(alert: Alert) -> Option<&'static Fault> {
    match alert {
        // Of a CA that has the name of one it trusts, and another key.
        Alert::UnknownCA | Alert::DecryptError => Some(&CLIENT_UNKNOWN_CA),
        Alert::CertificateExpired => Some(&CLIENT_EXPIRED),
        Alert::CertificateRevoked => Some(&CLIENT_REVOKED),
        Alert::CertificateRequired | Alert::NoCertificate => Some(&CLIENT_MISSING),
        Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::UnsupportedCertificate
        | Alert::AccessDenied => Some(&CLIENT_REFUSED),
        _ => None,
    }
}

/// What an error after the handshake says about our certificate, which TLS 1.3 judges only then.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<(&'static Fault, String)> {
    match crate::cloud::tls::find(error)? {
        TlsError::AlertReceived(alert) => Some((client(*alert)?, format!("alert {alert:?}"))),
        _ => None,
    }
}

/// The same where only words are left of the error.
pub(super) fn refusal_in_words(words: &str) -> Option<&'static Fault> {
    let alerts = [
        ("UnknownCA", Alert::UnknownCA),
        ("CertificateExpired", Alert::CertificateExpired),
        ("CertificateRevoked", Alert::CertificateRevoked),
        ("CertificateRequired", Alert::CertificateRequired),
        ("BadCertificate", Alert::BadCertificate),
        ("CertificateUnknown", Alert::CertificateUnknown),
        ("UnsupportedCertificate", Alert::UnsupportedCertificate),
        ("AccessDenied", Alert::AccessDenied),
        ("DecryptError", Alert::DecryptError),
    ];
    alerts.iter().find(|(name, _)| words.contains(name)).and_then(|(_, alert)| client(*alert))
}

/// A certificate in words: whose, whose issuer, from when until when. Nothing of it is believed.
pub(super) fn certificate(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return "it has shown what is no certificate".to_owned();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let names: Vec<_> = names.iter().filter_map(name).take(NAMES_MAX).collect();
    let validity = certificate.validity();
    harmless(&format!(
        "it shows the certificate of {} for [{}], issued by {}, valid from {} until {}",
        certificate.subject(),
        names.join(", "),
        certificate.issuer(),
        date(validity.not_before.timestamp()),
        date(validity.not_after.timestamp()),
    ))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            ref bytes => {
                let octets: [u8; 16] = bytes.try_into().ok()?;
                Some(std::net::Ipv6Addr::from(octets).to_string())
            }
        },
        _ => None,
    }
}

/// Somebody else's words, fit for a line.
pub(super) fn harmless(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_stops_is_told_apart_from_one_that_never_began() {
        let facts = |bytes_in, segments_in| TcpFacts { bytes_in, segments_in, retransmits: 0 };
        assert_eq!(failure(&Failure::Silent(facts(0, 0))).0.code, "tls-silent");
        assert_eq!(failure(&Failure::Silent(facts(100, 1))).0.code, "tls-stalls");
        // A small packet has overtaken the large one that never comes.
        assert_eq!(failure(&Failure::Silent(facts(0, 1))).0.code, "tls-stalls");
    }

    #[test]
    fn every_alert_about_our_certificate_is_told_as_that() {
        for (alert, code) in [
            (Alert::UnknownCA, "tls-client-unknown-ca"),
            (Alert::CertificateExpired, "tls-client-expired"),
            (Alert::CertificateRevoked, "tls-client-revoked"),
            (Alert::CertificateRequired, "tls-client-required"),
            (Alert::DecryptError, "tls-client-unknown-ca"),
            (Alert::BadCertificate, "tls-client-refused"),
            (Alert::ProtocolVersion, "tls-version"),
            (Alert::HandshakeFailure, "tls-nothing-in-common"),
        ] {
            assert_eq!(of_alert(alert).code, code);
            if let Some(fault) = client(alert) {
                assert_eq!(refusal_in_words(&format!("alert: {alert:?}")), Some(fault));
            }
        }
    }

    #[test]
    fn what_is_no_certificate_is_told_without_its_bytes() {
        assert_eq!(certificate(b"\x30\x1b[31m"), "it has shown what is no certificate");
    }
}
