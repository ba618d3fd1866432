//! What the certificates say: never the keys.

use std::fmt::Write;
use std::fs;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{Case, report::Report};
use crate::bundle::check::date;
use crate::settings::control;

/// Keys whose value is PEM, or a file of it.
const INLINE: [&str; 2] = ["managed.cp_cert_pem", "managed.cp_ca_pem"];
const FILES: [&str; 6] = [
    "managed.cp_cert_file",
    "managed.cp_ca_file",
    "managed.cp_ca_cert_file",
    "proxy.tls.cert_file",
    "etcd.tls.ca_cert_file",
    "etcd.tls.client_cert_file",
];
/// The kept bundle, below `managed.mtls_dir`.
const KEPT: [&str; 4] = ["client.crt", "ca.crt", "previous/client.crt", "next/client.crt"];
/// Certificates of one file that are told: a bundle of public issuers has hundreds.
const EACH_MAX: usize = 20;

/// Adds what all of them say.
pub fn add(case: &Case<'_>, report: &mut Report) {
    let Some(config) = case.options.config.as_deref() else { return };
    let variables = case.environment.variables.iter().cloned();
    let Ok(raw) = control::as_written(config, variables) else { return };
    let mut text = String::new();
    for key in INLINE {
        if let Some(pem) = raw.text(key) {
            let pem = crate::pem::with_line_breaks(pem).unwrap_or_else(|| pem.to_owned());
            tell(&mut text, key, &pem);
        }
    }
    let mut files: Vec<_> =
        FILES.iter().filter_map(|key| Some(((*key).to_owned(), raw.path(key)?))).collect();
    if raw.flag("managed.enabled")
        && let Some(folder) = raw.path("managed.mtls_dir")
    {
        files.extend(KEPT.map(|name| ("kept".to_owned(), folder.join(name))));
    }
    for (key, path) in files {
        let title = format!("{key} ({})", path.display());
        match fs::read(&path) {
            Ok(bytes) => tell(&mut text, &title, &String::from_utf8_lossy(&bytes)),
            Err(error) => {
                let _ = writeln!(text, "{title}: {error}\n");
            }
        }
    }
    report.add("certificates.txt", &text);
}

fn tell(text: &mut String, title: &str, pem: &str) {
    let _ = writeln!(text, "{title}:");
    for (at, read) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        if at >= EACH_MAX {
            let _ = writeln!(text, "  and more");
            break;
        }
        let facts = match &read {
            Ok(der) => facts(der),
            Err(error) => crate::pem::fault(error).to_owned(),
        };
        let _ = writeln!(text, "  {}. {facts}", at + 1);
    }
    text.push('\n');
}

fn facts(der: &CertificateDer<'_>) -> String {
    let certificate = match X509Certificate::from_der(der) {
        Ok((_, certificate)) => certificate,
        Err(error) => return format!("no X.509 certificate: {error}"),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<_> =
        names.map(|names| names.value.general_names.iter().map(name).collect()).unwrap_or_default();
    let fingerprint: String =
        digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let validity = certificate.validity();
    format!(
        "subject {:?}, issuer {:?}, valid from {} until {}, names [{}]{}, SHA-256 {fingerprint}",
        certificate.subject().to_string(),
        certificate.issuer().to_string(),
        date(validity.not_before.timestamp()),
        date(validity.not_after.timestamp()),
        names.join(", "),
        if certificate.is_ca() { ", a CA" } else { "" },
    )
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::DNSName(dns) => (*dns).to_owned(),
        other => other.to_string(),
    }
}
