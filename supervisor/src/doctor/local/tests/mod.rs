//! Each fault injected into a gateway that is well otherwise, in temporary folders: `config.rs`, `identity.rs`, `state.rs`,
//! `running.rs` by group. That a fault is found, and that nothing is found beside it that it does not explain.

mod config;
mod identity;
mod machine;
mod running;
mod state;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use shared::version::VERSION;
use tempfile::TempDir;
use time::OffsetDateTime;

use super::look::Environment;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NAMES: [&str; 2] = ["x-aisix://env/e-1", "x-aisix://dp/d-1"];

/// 2030-01-01: certificates here are valid from thirty days before for ninety days.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

/// A certificate authority.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = OffsetDateTime::from(now() - 1000 * DAY);
        params.not_after = OffsetDateTime::from(now() + 1000 * DAY);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
    params.subject_alt_names = names.iter().map(uri).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = OffsetDateTime::from(now() - 30 * DAY);
    params.not_after = OffsetDateTime::from(now() + 60 * DAY);
    params
}

/// A gateway that is well: configuration, bundle as files, an empty state directory, a worker's program.
struct Site {
    folder: TempDir,
    ca: Ca,
    lines: Vec<String>,
    variables: Vec<(OsString, OsString)>,
    now: SystemTime,
    places: Places,
}

impl Site {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("state")).unwrap();
        fs::set_permissions(path("state"), Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(path("etc")).unwrap();
        fs::write(path("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        fs::write(path("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(path("worker"), format!("#!/bin/sh\necho 'aisix-worker {VERSION}'\n")).unwrap();
        fs::set_permissions(path("worker"), Permissions::from_mode(0o755)).unwrap();
        let at = folder.path().display();
        let lines = [
            "proxy: {addr: '127.0.0.1:0', workers: 1}".to_owned(),
            "observability: {metrics: {prometheus: {enabled: false}}}".to_owned(),
            format!("supervisor: {{worker_path: {at}/worker, control_socket: {at}/aisix.sock}}"),
            format!(
                "managed: {{enabled: true, cp_base_url: 'https://c.test', mtls_dir: {at}/state/mtls, dp_id_file: {at}/state/dp_id, snapshot_cache_path: {at}/state/config_cache.json}}"
            ),
        ];
        let (etc, units, state) = (path("etc"), path("units"), path("state"));
        let places = Places { etc, units, state, ..Places::default() };
        let variables = [("CERT", "client.crt"), ("KEY", "client.key"), ("CA", "ca.crt")].map(
            |(role, name)| (format!("AISIX_MANAGED__CP_{role}_FILE").into(), path(name).into()),
        );
        let site = Self {
            ca: Ca::new(),
            lines: lines.to_vec(),
            variables: variables.to_vec(),
            now: now(),
            places,
            folder,
        };
        site.issue(&params(&NAMES));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a new certificate in place, with its key and its CA.
    fn issue(&self, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.ca.issuer).unwrap().pem();
        self.put("client.crt", &chain, 0o644);
        self.put("client.key", &key.serialize_pem(), 0o600);
        self.put("ca.crt", &self.ca.pem, 0o644);
    }

    fn put(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Another line of the configuration, in place of the one that begins alike.
    fn line(&mut self, line: &str) {
        let group = line.split(':').next().unwrap();
        self.lines.retain(|known| known.split(':').next() != Some(group));
        self.lines.push(line.to_owned());
    }

    /// Changes a line.
    fn replace(&mut self, from: &str, to: &str) {
        assert!(self.lines.iter().any(|line| line.contains(from)), "{from}");
        self.lines.iter_mut().for_each(|line| *line = line.replace(from, to));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.variables.push((name.into(), value.into()));
    }

    fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    fn config(&self) -> PathBuf {
        let path = self.path("config.yaml");
        fs::write(&path, self.lines.join("\n")).unwrap();
        path
    }

    fn managed(&self) -> Box<crate::settings::Managed> {
        let loaded = Settings::load(&self.config(), self.variables.clone()).unwrap();
        match loaded.settings.source {
            Source::Managed(managed) => managed,
            _ => panic!("not managed"),
        }
    }

    /// What a start leaves behind.
    fn start(&self) {
        let managed = self.managed();
        crate::bundle::Bundle::open(&managed, self.now).unwrap();
    }

    fn look(&self) -> Local {
        self.look_at(&self.config(), None)
    }

    fn look_at(&self, config: &Path, gateway: Option<&Status>) -> Local {
        let before = listing(self.folder.path());
        let environment = Environment { variables: self.variables.clone(), uncertain: None };
        let look = Look::new(Some(config), gateway, environment, self.now, self.places.clone());
        let local = examine(look);
        assert_eq!(listing(self.folder.path()), before, "looking changed something");
        local
    }

    /// That this fault is found, and nothing beside it but what it explains; and its evidence.
    fn has(&self, code: &str) -> String {
        only(&self.look(), code)
    }
}

/// The evidence of a finding, however bad it is.
fn told(local: &Local, code: &str) -> String {
    let found = local.findings.iter().find(|finding| finding.fault.code == code);
    found.unwrap_or_else(|| panic!("no {code}")).evidence.clone()
}

fn only(local: &Local, code: &str) -> String {
    let serious = serious(local);
    let found = serious.iter().find(|finding| finding.fault.code == code);
    let found = found.unwrap_or_else(|| panic!("no {code} among {serious:#?}"));
    let is_explained = |other: &str| {
        let mut explains = found.fault.explains.iter();
        other == code
            || explains.any(|it| *it == other || it.ends_with('-') && other.starts_with(it))
    };
    let others: Vec<_> = serious.iter().filter(|other| !is_explained(other.fault.code)).collect();
    assert!(others.is_empty(), "beside {code}: {others:#?}");
    found.evidence.clone()
}

/// What is wrong with the gateway, and not with the machine that the tests run on.
fn serious(local: &Local) -> Vec<Finding> {
    let ours = |finding: &&Finding| {
        finding.fault.severity > Severity::Note
            // A script cannot be executed from a descriptor that is closed by that: it says nothing.
            && ![
                "host-landlock-",
                "host-seccomp-",
                "host-workers-",
                "host-worker-other-version",
                "state-space-",
            ]
                .iter()
                .any(|group| finding.fault.code.starts_with(group))
    };
    local.findings.iter().filter(ours).cloned().collect()
}

/// Every file with its mode, size and age.
fn listing(folder: &Path) -> Vec<(PathBuf, u32, u64, SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            all.extend(listing(&path));
        }
        all.push((path, about.permissions().mode(), about.len(), about.modified().unwrap()));
    }
    all.sort();
    all
}

#[test]
fn nothing_is_wrong_with_a_gateway_that_is_well_before_its_start_and_after_it() {
    let site = Site::new();
    let local = site.look();
    assert_eq!(serious(&local), []);
    assert!(local.settings.is_some() && local.identity.is_some());
    site.start();
    assert_eq!(serious(&site.look()), []);
}

#[test]
fn every_fault_has_a_code_and_a_title_that_no_other_has_and_says_why_and_what_to_do() {
    let faults = catalogue();
    let (mut codes, mut titles) = (HashSet::new(), HashSet::new());
    for fault in &faults {
        assert!(codes.insert(fault.code), "{}", fault.code);
        assert!(titles.insert(fault.title), "{}", fault.title);
        let groups = ["config-", "bundle-", "state-", "host-", "gateway-"];
        assert!(groups.iter().any(|group| fault.code.starts_with(group)), "{}", fault.code);
        assert!(!fault.title.ends_with('.') && fault.why.ends_with('.'), "{}", fault.code);
        assert!(!fault.remedy.is_empty() && !fault.explains.contains(&fault.code));
    }
    // What is explained here is there.
    for code in faults.iter().flat_map(|fault| fault.explains) {
        let known =
            codes.iter().any(|it| it == code || code.ends_with('-') && it.starts_with(code));
        let theirs = ["cloud-", "dns-", "tls-", "clock-", "daemon-"];
        let elsewhere = theirs.iter().any(|group| code.starts_with(group));
        assert!(known || elsewhere, "{code}");
    }
}

#[test]
fn what_explains_a_fault_stands_before_it() {
    let faults = catalogue();
    let place = |code: &str| faults.iter().position(|fault| fault.code == code);
    for (at, fault) in faults.iter().enumerate() {
        let explained = fault.explains.iter().filter(|code| !code.ends_with('-'));
        let earlier: Vec<_> =
            explained.filter(|code| place(code).is_some_and(|place| place < at)).collect();
        assert!(earlier.is_empty(), "{} explains what stands before it: {earlier:?}", fault.code);
    }
}
