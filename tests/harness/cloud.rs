//! The local Cloud, `aisix-cloud`, as a process: bundles from it, resources into it, what was reported to it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::client;
use crate::process::Process;
use crate::{Etcd, Projection, binaries, port, wait};

/// The environment that tests use unless they need a second one.
pub const ENVIRONMENT: &str = "11111111-2222-3333-4444-555555555555";

/// Files of the certificate authority.
const AUTHORITY: [&str; 2] = ["ca.crt", "ca.key"];
/// How long bundles are valid.
const DAYS: u32 = 90;

/// A Cloud with its folder and its addresses. It can be started, stopped and started again.
#[derive(Debug)]
pub struct Cloud {
    folder: TempDir,
    manager: SocketAddr,
    view: SocketAddr,
    etcd: Option<String>,
    process: Option<Process>,
}

/// A certificate bundle as files.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Leaf certificate.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Issuers.
    pub issuers: PathBuf,
}

impl Cloud {
    /// A Cloud that serves these resources in [`ENVIRONMENT`], and runs.
    pub async fn start(projection: &Projection) -> Self {
        let mut cloud = Self::stopped(projection);
        cloud.resume().await;
        cloud
    }

    /// The same, not yet running: its addresses and bundles are there.
    pub fn stopped(projection: &Projection) -> Self {
        let cloud = Self::new(None);
        cloud.project(projection);
        cloud
    }

    /// A Cloud over a real etcd, running.
    pub async fn over(etcd: &Etcd) -> Self {
        let mut cloud = Self::new(Some(etcd.url()));
        cloud.resume().await;
        cloud
    }

    /// A Cloud that is not yet running, with the certificate authority that is in a folder.
    pub fn with_authority(folder: &Path, projection: &Projection) -> Self {
        let cloud = Self::stopped(projection);
        fs::create_dir_all(cloud.data()).expect("a folder for the authority");
        for name in AUTHORITY {
            fs::copy(folder.join(name), cloud.data().join(name)).expect("an authority is there");
        }
        cloud
    }

    fn new(etcd: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the Cloud");
        Self { folder, manager: port::reserve(), view: port::reserve(), etcd, process: None }
    }

    /// Starts it, and waits until it says where it listens.
    pub async fn resume(&mut self) {
        let _ = fs::remove_file(self.data().join("addresses.json"));
        let mut command = Command::new(program());
        command.arg("serve").arg("--data").arg(self.data());
        command.arg("--listen").arg(self.manager.to_string());
        command.arg("--view").arg(self.view.to_string());
        match &self.etcd {
            Some(url) => command.arg("--etcd").arg(url),
            None => command.arg("--resources").arg(self.resources()),
        };
        let log = self.folder.path().join("cloud.log");
        let mut process = Process::spawn("aisix-cloud", command, &log).expect("aisix-cloud starts");
        let addresses = self.data().join("addresses.json");
        wait::until("aisix-cloud listens", async || {
            if let Some(status) = process.ended() {
                panic!("aisix-cloud ended ({status}):\n{}", process.log_tail());
            }
            fs::read_to_string(&addresses).map(drop)
        })
        .await;
        self.process = Some(process);
    }

    /// Kills it. Its addresses stay reserved, nobody answers there.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Where the manager and the store are, or would be.
    pub fn address(&self) -> SocketAddr {
        self.manager
    }

    /// What a gateway is told as `AISIX_MANAGED__CP_BASE_URL`.
    pub fn url(&self) -> String {
        format!("https://{}", self.manager)
    }

    /// Puts these resources in the place of all in [`ENVIRONMENT`].
    pub fn project(&self, projection: &Projection) {
        let next = self.folder.path().join("resources.next");
        fs::write(&next, projection.to_file(ENVIRONMENT)).expect("the resources file is written");
        fs::rename(next, self.resources()).expect("the resources file is replaced");
    }

    /// Has a certificate bundle issued.
    pub fn issue(&self, environment: &str) -> Bundle {
        self.issue_for(environment, DAYS)
    }

    /// Has a certificate bundle issued that is valid so many days.
    pub fn issue_for(&self, environment: &str, days: u32) -> Bundle {
        let bundle = self.bundle(environment);
        let out = bundle.certificate.parent().expect("the bundle has a folder");
        let output = Command::new(program())
            .arg("issue")
            .arg("--data")
            .arg(self.data())
            .args(["--env", environment, "--days", &days.to_string()])
            .arg("--out")
            .arg(out)
            .output()
            .expect("aisix-cloud starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        bundle
    }

    /// Its certificate authority, for bundles of any kind. There is one once a bundle was issued or the Cloud has run.
    pub fn authority(&self) -> Authority {
        Authority::of(&self.data().join("ca.crt"), &self.data().join("ca.key"))
    }

    /// Who is and was connected, as `aisix-cloud` shows it.
    pub async fn connections(&self) -> Vec<Value> {
        self.view("/connections").await
    }

    /// Asks a data plane to renew its certificate.
    pub async fn ask_renewal(&self, data_plane: &str) {
        let request = client::post("/renewals", &json!({"dp_id": data_plane}));
        let answer = client::send(self.view, request).await.expect("the view answers");
        assert!(answer.status.is_success(), "the wish is taken: {}", answer.status);
    }

    /// The files of its certificate authority.
    pub fn authority_files(&self) -> [PathBuf; 2] {
        AUTHORITY.map(|name| self.data().join(name))
    }

    /// The bundle that was issued last for an environment.
    pub fn bundle(&self, environment: &str) -> Bundle {
        let out = self.folder.path().join(format!("bundle-{environment}"));
        Bundle {
            certificate: out.join("client.crt"),
            key: out.join("client.key"),
            issuers: out.join("ca.crt"),
        }
    }

    /// The latest heartbeat of every instance in [`ENVIRONMENT`].
    pub async fn heartbeats(&self) -> Vec<Value> {
        self.view(&format!("/heartbeats?env={ENVIRONMENT}")).await
    }

    /// The first heartbeat that satisfies `is_it`.
    pub async fn heartbeat(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait::until(&format!("a heartbeat says {what}"), async || {
            let heartbeats = self.heartbeats().await;
            let found = heartbeats.iter().find(|beat| is_it(beat)).cloned();
            found.ok_or_else(|| json!(heartbeats))
        })
        .await
    }

    /// The usage events of [`ENVIRONMENT`], in the order of their arrival.
    pub async fn usage(&self) -> Vec<Value> {
        self.view(&format!("/usage?env={ENVIRONMENT}")).await
    }

    /// How many usage events came again.
    pub async fn usage_repeats(&self) -> u64 {
        let answer = client::fetch(self.view, "/usage/repeats").await.expect("the view answers");
        answer.json().await.expect("the view answers").as_u64().expect("a number")
    }

    /// The usage events, once there are at least that many.
    pub async fn usage_of(&self, count: usize) -> Vec<Value> {
        wait::until(&format!("{count} usage events arrive"), async || {
            let events = self.usage().await;
            if events.len() >= count { Ok(events) } else { Err(format!("{} events", events.len())) }
        })
        .await
    }

    /// Makes the manager answer a path with a status: so many times, or until [`Cloud::heal`].
    pub async fn fail(&self, path: &str, status: u16, times: Option<u32>) {
        self.fault(&json!({"path": path, "status": status, "times": times})).await;
    }

    /// Makes the manager wait before it answers a path, until [`Cloud::heal`].
    pub async fn delay(&self, path: &str, delay: Duration) {
        self.fault(&json!({"path": path, "delay_ms": delay.as_millis() as u64})).await;
    }

    async fn fault(&self, fault: &Value) {
        let answer = client::send(self.view, client::post("/faults", fault)).await;
        let answer = answer.expect("the view answers");
        assert!(answer.status.is_success(), "the fault is taken: {}", answer.status);
    }

    /// Makes the manager refuse every batch that holds an event with that value in that field, until [`Cloud::heal`].
    pub async fn refuse_event(&self, field: &str, value: &str) {
        let pattern = json!({"field": field, "value": value});
        self.set_fault(&json!({"path": "/dp/telemetry", "refuse_event": pattern})).await;
    }

    /// Makes the manager refuse every batch of more events, until [`Cloud::heal`].
    pub async fn events_max(&self, max: usize) {
        self.set_fault(&json!({"path": "/dp/telemetry", "events_max": max})).await;
    }

    async fn set_fault(&self, fault: &Value) {
        let answer = client::send(self.view, client::post("/faults", fault)).await;
        let answer = answer.expect("the view answers");
        assert!(answer.status.is_success(), "the fault is taken: {}", answer.status);
    }

    /// What was asked about the budget of a caller key: how often, and how often at a time; zeros if never.
    pub async fn budget_checks(&self, api_key_id: &str) -> (u64, u64) {
        let checks = self.view("/budget_checks").await;
        let of_key = checks.iter().find(|check| check["api_key_id"] == api_key_id);
        let number = |name: &str| of_key.and_then(|check| check[name].as_u64()).unwrap_or_default();
        (number("calls"), number("open_max"))
    }

    /// Waits until the faults that were set so many times have all happened.
    pub async fn faults_have_happened(&self) {
        wait::until("every fault has happened", async || {
            let left = self.view("/faults").await;
            if left.is_empty() { Ok(()) } else { Err(json!(left)) }
        })
        .await;
    }

    /// Takes all faults away.
    pub async fn heal(&self) {
        let mut request = client::post("/faults", &json!({}));
        *request.method_mut() = http::Method::DELETE;
        client::send(self.view, request).await.expect("the view answers");
    }

    async fn view(&self, path: &str) -> Vec<Value> {
        let answer = client::fetch(self.view, path).await.expect("the view answers");
        match answer.json().await.expect("the view answers") {
            Value::Array(list) => list,
            other => panic!("{path} is no list: {other}"),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn resources(&self) -> PathBuf {
        self.folder.path().join("resources.yaml")
    }
}

impl Bundle {
    /// SHA-256 of its leaf, in hex.
    pub fn fingerprint(&self) -> String {
        let leaf = CertificateDer::from_pem_file(&self.certificate).expect("a certificate");
        let hash = digest(&SHA256, &leaf);
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The text of one of its files.
    pub fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("the bundle is readable")
    }
}

fn program() -> PathBuf {
    binaries::find("aisix-cloud").unwrap_or_else(|error| panic!("{error}"))
}
