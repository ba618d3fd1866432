//! The certificate bundle: examined as a start examines it, without keeping anything.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::look::Look;
use super::{Fault, error, warning};
use crate::bundle::check::{self, Parts, date};
use crate::bundle::source::{BundleSource, CREDENTIALS};
use crate::bundle::{self, Bundle, BundleError, unix};
use crate::cloud::tls::{Credentials, Identity};
use crate::denied;
use crate::settings::Managed;

/// What follows from a bundle that the Cloud would not take, or that keeps a gateway from starting.
const REFUSED: &[&str] = &[
    "daemon-down",
    "tls-client-",
    "gateway-certificate",
    "gateway-rotation-refused",
    "gateway-heartbeat-failing",
    "gateway-source-away",
];

/// The same of a CA by which the Cloud cannot be known either.
const UNTRUSTED: &[&str] = &[
    "daemon-down",
    "tls-client-",
    "tls-unknown-issuer",
    "gateway-certificate",
    "gateway-rotation-refused",
    "gateway-heartbeat-failing",
    "gateway-source-away",
];

static ABSENT: Fault = error(
    "bundle-absent",
    "there is no certificate bundle: none is given, and none is kept in the state directory",
    "In managed mode the gateway is known by a certificate. The first start needs a bundle; later ones use the one that was kept.",
    "get the bundle of this environment from AISIX Cloud, and give it by AISIX_MANAGED__CP_CERT_FILE, _KEY_FILE and _CA_FILE",
    REFUSED,
);
static FILE_MISSING: Fault = error(
    "bundle-file-missing",
    "a file of the certificate bundle does not exist",
    "The path may be mistyped, or the secret's volume is not mounted.",
    "put the file there, or correct the variable that names it",
    REFUSED,
);
static FILE_UNREADABLE: Fault = error(
    "bundle-file-unreadable",
    "a file of the certificate bundle cannot be read",
    "The gateway reads the files as the user that it runs as.",
    "make it readable for the user that runs the gateway, not for everybody: chown it to that user, or chgrp it to that user's group and chmod g+r; the folders above it need x. In a container that is user 10001 of group 0: `chgrp -R 0 mtls && chmod -R g+rX mtls`",
    REFUSED,
);
static NOT_PEM: Fault = error(
    "bundle-not-pem",
    "a part of the certificate bundle is not PEM",
    "Often line breaks were lost on the way through a variable, the file is another one, or the key is encrypted.",
    "give the file as AISIX Cloud issued it, with its line breaks, the key not encrypted",
    REFUSED,
);
static KEY_MISMATCH: Fault = error(
    "bundle-key-mismatch",
    "the private key belongs to another certificate",
    "Parts of two bundles were mixed, as after half of a replacement.",
    "give certificate and key of one and the same bundle",
    REFUSED,
);
static EXPIRED: Fault = error(
    "bundle-expired",
    "the certificate of the gateway has expired",
    "The Cloud refuses it, so nothing is projected and nothing reported. A gateway that has a snapshot serves it meanwhile.",
    "get a new bundle for this environment from AISIX Cloud and give it; if the date looks wrong, set this machine's clock",
    REFUSED,
);
static NOT_YET: Fault = error(
    "bundle-not-yet-valid",
    "the certificate of the gateway is not valid yet",
    "Certificates are judged by this machine's clock, which may be behind.",
    "set this machine's clock (chronyc tracking, timedatectl); if it is right, wait, or get another bundle",
    REFUSED,
);
static NOT_OF_CA: Fault = error(
    "bundle-not-of-its-ca",
    "the certificate is not issued by the CA of its own bundle",
    "The Cloud would refuse it. Parts of bundles of two environments may have been mixed.",
    "give certificate and CA of one and the same bundle; the certificate's file also holds its intermediate issuers",
    UNTRUSTED,
);
static PURPOSE: Fault = error(
    "bundle-not-for-clients",
    "the certificate may not be used by a client",
    "Its purpose is another one, so that the Cloud would refuse it.",
    "give the client certificate that AISIX Cloud issued for this data plane, not one of a server or of a CA",
    REFUSED,
);
static CA: Fault = error(
    "bundle-ca-unusable",
    "the CA of the bundle cannot be used",
    "The gateway trusts the Cloud by this CA, and no other.",
    "give the CA certificates of this environment's bundle; if their dates look wrong, set this machine's clock",
    UNTRUSTED,
);
static NO_ENVIRONMENT: Fault = error(
    "bundle-names-no-environment",
    "the certificate names no environment",
    "Which environment the gateway belongs to stands in the certificate and nowhere else.",
    "give the certificate that AISIX Cloud issued for this environment: its URI name begins with x-aisix://env/",
    REFUSED,
);
static NO_DATA_PLANE: Fault = error(
    "bundle-names-no-data-plane",
    "the certificate names no data plane",
    "Who reports stands in the certificate and nowhere else.",
    "give the certificate that AISIX Cloud issued for this data plane: its URI name begins with x-aisix://dp/",
    REFUSED,
);
static NAMES: Fault = error(
    "bundle-names-ambiguous",
    "the names in the certificate are no identity",
    "Whoever read the names in another order would take the gateway for somebody else.",
    "get a new bundle from AISIX Cloud",
    REFUSED,
);
static REFUSED_CHAIN: Fault = error(
    "bundle-chain-refused",
    "the certificate or its key cannot be used",
    "It is damaged, or of a kind that TLS cannot use.",
    "get a new bundle from AISIX Cloud",
    REFUSED,
);
static CONTRADICTED: Fault = error(
    "bundle-state-contradicts",
    "the kept bundle belongs to another environment than the state directory says",
    "The state directory is a mix of two, as after copying files between machines.",
    "give the bundle of the right environment again, or start with an empty state directory",
    REFUSED,
);
static KEPT: Fault = error(
    "bundle-kept-unreadable",
    "the bundle that is kept in the state directory cannot be read",
    "Without a given bundle the kept one is the only identity.",
    "make the state directory readable for the user that runs the gateway, or give the bundle again",
    REFUSED,
);
static OTHER_ENVIRONMENT: Fault = warning(
    "bundle-other-environment",
    "the given bundle is of another environment than the one that is kept",
    "A gateway moves to the environment of the bundle that it is given; the snapshot of the other one is set aside.",
    "if the gateway is to move there, nothing needs to be done; otherwise give the bundle of its own environment",
    &["state-foreign-environment", "gateway-snapshot"],
);
static KEY_OPEN: Fault = warning(
    "bundle-key-open",
    "the private key of the bundle can be read by every user",
    "Whoever has the key can pass for this gateway.",
    "chmod 600 the file, and get a new bundle if others may have read it",
    &[],
);
static SOON: Fault = warning(
    "bundle-expires-soon",
    "the certificate expires soon, and has not been renewed",
    "The Cloud is asked for a new one long before; that it has not come means that it was refused, or could not be asked for.",
    "aisix rotate asks the Cloud for a new one now, and says why not; or give a new bundle",
    &["gateway-certificate"],
);
static MANUAL: Fault = warning(
    "bundle-renewal-manual",
    "the certificate is not renewed by itself, and little of its time is left",
    "managed.cert_renewal is off, or the Cloud asks for renewal by hand.",
    "get a new bundle from AISIX Cloud and put it in place of the old one, or set managed.cert_renewal to auto",
    &["gateway-certificate", "bundle-expires-soon"],
);
static NO_EXTRA: Fault = warning(
    "bundle-extra-ca-empty",
    "the file of additional CAs holds no certificate",
    "Nothing is trusted because of it.",
    "correct managed.cp_ca_cert_file, or remove the key",
    &["gateway-certificate"],
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[
    &ABSENT,
    &FILE_MISSING,
    &FILE_UNREADABLE,
    &NOT_PEM,
    &KEY_MISMATCH,
    &EXPIRED,
    &NOT_YET,
    &NOT_OF_CA,
    &PURPOSE,
    &CA,
    &NO_ENVIRONMENT,
    &NO_DATA_PLANE,
    &NAMES,
    &REFUSED_CHAIN,
    &CONTRADICTED,
    &KEPT,
    &OTHER_ENVIRONMENT,
    &MANUAL,
    &SOON,
    &KEY_OPEN,
    &NO_EXTRA,
];

/// Said beside a bundle that is to be replaced.
const IN_CREDENTIALS: &str = "; it is given as a credential of the service manager, which reads it when the unit is started: after a new one, restart the unit";

/// A day, in seconds.
const DAY: i64 = 86_400;

/// Who the gateway is towards the Cloud, if TLS can use it.
pub fn check(managed: &Managed, look: &mut Look<'_>) -> Option<Identity> {
    modes(managed, look);
    closed(managed, look);
    match Bundle::examine(managed, look.now) {
        Ok(bundle) => {
            in_force(managed, &bundle, look);
            Some(Identity {
                chain_pem: bundle.chain_pem,
                key_pem: bundle.key_pem,
                roots_pem: bundle.roots_pem,
                extra_roots_pem: bundle.extra_roots_pem,
            })
        }
        Err(error) => {
            refused(&error, remark(managed, look), look);
            // Whatever its dates and names say, a connection shows what the Cloud makes of it.
            let Parts { chain, key, roots } = parts(managed)?;
            let identity = Identity {
                chain_pem: chain,
                key_pem: key,
                roots_pem: roots,
                extra_roots_pem: None,
            };
            Credentials::new(&identity).is_ok().then_some(identity)
        }
    }
}

fn parts(managed: &Managed) -> Option<Parts> {
    match &managed.bundle {
        BundleSource::Inline { chain, key, roots } => {
            Some(Parts { chain: chain.clone(), key: key.clone(), roots: roots.clone() })
        }
        BundleSource::Files { chain, key, roots } => bundle::read_files(chain, key, roots).ok(),
        BundleSource::Persisted => Some(bundle::store(managed).read().ok()??.parts),
    }
}

/// What there is to say of a bundle that a start would take.
fn in_force(managed: &Managed, bundle: &Bundle, look: &mut Look<'_>) {
    let parts = bundle.parts();
    let whose = format!("the {} bundle ({})", bundle.origin, bundle.why);
    match parts.read().and_then(|leaf| parts.verify(&leaf, look.now)) {
        Err(fault) => {
            let remark = remark(managed, look);
            look.found(of_fault(&fault), format!("{whose}: {fault}{remark}"));
        }
        Ok(()) => dates(managed, bundle, look),
    }
    if bundle.dp_id.is_none() {
        look.found(&NO_DATA_PLANE, whose);
    }
    if managed.extra_roots.is_some() && bundle.extra_roots_pem.is_none() {
        let path = managed.extra_roots.as_deref().unwrap_or(Path::new(""));
        look.found(&NO_EXTRA, path.display().to_string());
    }
    if managed.bundle == BundleSource::Persisted {
        return;
    }
    match Bundle::persisted(managed, look.now) {
        Ok(Some(kept)) if kept.env_id != bundle.env_id => look.found(
            &OTHER_ENVIRONMENT,
            format!(
                "given: environment {}; kept in {}: {}",
                bundle.env_id,
                managed.mtls_dir.display(),
                kept.env_id
            ),
        ),
        Err(BundleError::Store(error)) if look.is_hidden(error.path(), error.kind()) => {}
        _ => {}
    }
}

fn dates(managed: &Managed, bundle: &Bundle, look: &mut Look<'_>) {
    let left = bundle.not_after_unix.saturating_sub(unix(look.now));
    let life = bundle.not_after_unix.saturating_sub(bundle.not_before_unix);
    let told = look.gateway.and_then(|gateway| gateway.certificate.as_ref()?.renewal.clone());
    let is_manual = told.map_or(!managed.renew_certificate, |renewal| renewal != "auto");
    let evidence = format!(
        "{} day(s) of {} are left, until {}{}",
        left / DAY,
        life / DAY,
        date(bundle.not_after_unix),
        remark(managed, look)
    );
    if is_manual && left < life / 3 {
        look.found(&MANUAL, evidence);
    } else if left < life / 6 {
        look.found(&SOON, evidence);
    }
}

/// What the remedies do not say: that a new bundle alone is not enough.
fn remark(managed: &Managed, look: &Look<'_>) -> &'static str {
    let folder = look.environment.variables.iter().find(|(name, _)| name == CREDENTIALS);
    let folder = folder.map(|(_, folder)| Path::new(folder));
    if managed.bundle.is_credential(folder) { IN_CREDENTIALS } else { "" }
}

/// Root may read everything: whether the user of a gateway that does not run could.
fn closed(managed: &Managed, look: &mut Look<'_>) {
    let BundleSource::Files { chain, key, roots } = &managed.bundle else { return };
    if look.us != 0 || look.runs_as == 0 || look.gateway.is_some() {
        return;
    }
    let there = [chain, key, roots].into_iter().filter(|path| path.exists());
    if let Some(reason) = there.filter_map(|path| denied::to_gateway(path, look.runs_as)).next() {
        look.found(&FILE_UNREADABLE, reason);
    }
}

/// The private keys, given and kept: whoever else may read them.
fn modes(managed: &Managed, look: &mut Look<'_>) {
    let mut keys = vec![bundle::store(managed).key_file()];
    if let BundleSource::Files { key, .. } = &managed.bundle {
        keys.push(key.clone());
    }
    keys.dedup();
    for key in keys {
        let Ok(metadata) = fs::metadata(&key) else { continue };
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_file() && mode & 0o006 != 0 {
            look.found(&KEY_OPEN, format!("{} has the mode {mode:04o}", key.display()));
        }
    }
}

fn refused(error: &BundleError, remark: &str, look: &mut Look<'_>) {
    let evidence = format!("{error}{remark}");
    let fault = match error {
        BundleError::Read { path, source, .. } => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => &FILE_MISSING,
            kind if look.is_hidden(path, kind) => return,
            io::ErrorKind::InvalidData => &NOT_PEM,
            _ => &FILE_UNREADABLE,
        },
        BundleError::Supplied { fault, .. } | BundleError::Persisted { fault, .. } => {
            of_fault(fault)
        }
        BundleError::Identity(_) => &NOT_PEM,
        BundleError::Store(error) if look.is_hidden(error.path(), error.kind()) => return,
        BundleError::Store(_) => &KEPT,
        BundleError::Seal(_) => &REFUSED_CHAIN,
        // A folder that we may not enter looks empty.
        BundleError::Absent { folder } if !may_enter(folder) && !look.stands_for_gateway() => {
            return look.hidden(format!("{}: permission denied", folder.display()));
        }
        BundleError::Absent { folder } if !may_enter(folder) => &KEPT,
        BundleError::Absent { .. } => &ABSENT,
        BundleError::WrongEnvironment { .. } => &CONTRADICTED,
    };
    look.found(fault, evidence);
}

/// Whether we may look into the folder, if it is there at all.
fn may_enter(folder: &Path) -> bool {
    let looked = fs::metadata(folder.join("client.crt")).map(drop);
    !looked.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn of_fault(fault: &check::Fault) -> &'static Fault {
    use check::Fault as F;
    match fault {
        F::Pem { .. } => &NOT_PEM,
        F::KeyMismatch => &KEY_MISMATCH,
        F::Expired(_) => &EXPIRED,
        F::NotYetValid(_) => &NOT_YET,
        F::UnknownIssuer => &NOT_OF_CA,
        F::NotForClients | F::IsCa | F::KeyUsage => &PURPOSE,
        F::NoCa | F::CaNotValid(..) => &CA,
        F::NoEnvironment => &NO_ENVIRONMENT,
        F::NoDataPlane => &NO_DATA_PLANE,
        F::TwoNames(..) | F::BadName(_) => &NAMES,
        F::Certificate(_) | F::Key(_) | F::Chain(_) => &REFUSED_CHAIN,
    }
}
