//! `aisix doctor` names faults of this machine that were injected for real: in files, file systems, ports, limits and by a
//! filter of system calls, while the gateway is down. What each fault alone brings about is tried beside `doctor/local/`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::authority::Authority;
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::{Cloud, Projection, binaries, port, upstream};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A configuration that is right, over a Cloud that is well.
struct Site {
    folder: TempDir,
    configuration: Value,
    cloud: Cloud,
}

impl Site {
    async fn new() -> Self {
        let cloud = Cloud::start(&Projection::of(&upstream().await)).await;
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
        let bundle = cloud.issue(ENVIRONMENT);
        let configuration = json!({
            "proxy": {"addr": port::reserve(), "workers": 1},
            "observability": {"metrics": {"prometheus": {"addr": port::reserve()}}},
            "supervisor": {"control_socket": folder.path().join("none.sock")},
            "managed": {
                "enabled": true, "cp_base_url": cloud.url(),
                "mtls_dir": state.join("mtls"), "dp_id_file": state.join("dp_id"),
                "snapshot_cache_path": state.join("config_cache.json"),
            },
        });
        let mut site = Self { folder, configuration, cloud };
        site.supply(&bundle);
        site
    }

    fn supply(&mut self, bundle: &Bundle) {
        fs::set_permissions(&bundle.key, Permissions::from_mode(0o600)).unwrap();
        let managed = &mut self.configuration["managed"];
        managed["cp_cert_file"] = json!(bundle.certificate);
        managed["cp_key_file"] = json!(bundle.key);
        managed["cp_ca_file"] = json!(bundle.issuers);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        let path = self.path("config.yaml");
        fs::write(&path, self.configuration.to_string()).unwrap();
        path
    }

    /// What the doctor says, started by `starter`, if that is anything.
    async fn doctor(&self, starter: &[&str]) -> Value {
        let command = command(starter, &self.config());
        report(tokio::process::Command::from(command).output().await.unwrap())
    }

    /// That the fault comes first of all that is not always so on this machine, and alone.
    async fn has(&self, code: &str) {
        judge(&self.doctor(&[]).await, code);
    }
}

fn command(starter: &[&str], config: &Path) -> Command {
    let aisix = binaries::find("aisix").unwrap();
    let words = starter.iter().map(PathBuf::from).chain([aisix]).collect::<Vec<_>>();
    let mut command = Command::new(&words[0]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AISIX_") {
            command.env_remove(name);
        }
    }
    command.args(&words[1..]).args(["doctor", "--json", "--config"]).arg(config);
    command
}

fn report(output: Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        panic!("{error}: {said}")
    })
}

fn judge(report: &Value, code: &str) {
    let found: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    let is_standing = |finding: &&&Value| {
        let other = finding["code"].as_str().unwrap();
        finding["severity"] == "note"
            || other == "daemon-down"
            || other != code
                && ["host-", "state-space-"].iter().any(|group| other.starts_with(group))
    };
    let codes: Vec<_> =
        found.iter().filter(|it| !is_standing(it)).map(|it| it["code"].as_str().unwrap()).collect();
    assert_eq!(codes, [code], "{report:#}");
}

#[tokio::test]
async fn faults_of_files_are_named_first_and_alone() {
    let mut site = Site::new().await;
    let authority = site.cloud.authority();
    let well = site.configuration.clone();
    site.configuration["proxy"]["wokers"] = json!(1);
    site.has("config-key-unknown").await;
    site.configuration = well.clone();
    site.configuration["managed"]["cp_base_url"] = json!("http://cloud.test");
    site.has("config-manager-not-https").await;
    site.configuration = well.clone();
    site.configuration["managed"]["cp_key_file"] = json!("/nowhere/client.key");
    site.has("bundle-file-missing").await;
    site.configuration = well.clone();
    site.supply(&authority.bundle_with(ENVIRONMENT, "dp-1", -7200..-3600, |_| {}));
    site.has("bundle-expired").await;
    site.supply(&authority.bundle_with(ENVIRONMENT, "dp-1", 3600..7200, |_| {}));
    site.has("bundle-not-yet-valid").await;
    let of_a_month = || authority.bundle_with(ENVIRONMENT, "dp-1", -60..30 * 86_400, |_| {});
    let mixed = Bundle { key: of_a_month().key, ..of_a_month() };
    site.supply(&mixed);
    site.has("bundle-key-mismatch").await;
    let other = Authority::default();
    let issuers = other.bundle_with(ENVIRONMENT, "dp-1", -60..60, |_| {}).issuers;
    site.supply(&Bundle { issuers, ..of_a_month() });
    site.has("bundle-not-of-its-ca").await;
}

#[tokio::test]
async fn faults_of_ports_and_programs_are_named_first_and_alone() {
    let mut site = Site::new().await;
    let well = site.configuration.clone();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    site.configuration["proxy"]["addr"] = json!(taken.local_addr().unwrap());
    let report = site.doctor(&[]).await;
    judge(&report, "host-port-in-use");
    let evidence = report["findings"][0]["evidence"].as_str().unwrap();
    assert!(evidence.contains(&std::process::id().to_string()), "{evidence}");
    site.configuration = well.clone();
    site.configuration["supervisor"]["worker_path"] = json!("/nowhere/aisix-worker");
    site.has("host-worker-missing").await;
    site.configuration["supervisor"]["worker_path"] = json!("/bin/true");
    site.has("host-worker-other-version").await;
    fs::copy("/bin/true", site.path("worker")).unwrap();
    fs::set_permissions(site.path("worker"), Permissions::from_mode(0o644)).unwrap();
    site.configuration["supervisor"]["worker_path"] = json!(site.path("worker"));
    site.has("host-worker-not-executable").await;
}

#[tokio::test]
async fn a_limit_of_open_files_that_is_too_low_is_named() {
    let site = Site::new().await;
    judge(&site.doctor(&["prlimit", "--nofile=512:512"]).await, "host-open-files-low");
}

#[tokio::test]
async fn a_state_directory_that_is_full_or_read_only_is_named_first_and_alone() {
    let site = Site::new().await;
    let state = site.path("state").display().to_string();
    let mount = |arguments: &[&str]| {
        Command::new("mount").args(arguments).status().is_ok_and(|status| status.success())
    };
    // Seen by this thread and what it starts only.
    let mounted = geteuid().is_root()
        && unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && mount(&["--make-rprivate", "/"])
        && mount(&["-t", "tmpfs", "-o", "size=1m,mode=0700", "none", &state]);
    if !mounted {
        println!("skipped: mounting a file system needs root");
        return;
    }
    site.has("state-full").await;
    assert!(mount(&["-o", "remount,ro", &state]));
    site.has("state-read-only").await;
}

#[tokio::test]
async fn confinement_that_is_kept_from_the_gateway_is_named() {
    let site = Site::new().await;
    for (call, errno, code) in [
        (libc::SYS_seccomp, libc::EPERM, "host-seccomp-blocked"),
        (libc::SYS_landlock_create_ruleset, libc::ENOSYS, "host-landlock-missing"),
        (libc::SYS_landlock_create_ruleset, libc::EPERM, "host-landlock-blocked"),
    ] {
        let mut command = command(&[], &site.config());
        // A filter of a thread holds for what that thread starts.
        let filtered = std::thread::spawn(move || {
            let rules = BTreeMap::from([(call, Vec::new())]);
            let refuse = SeccompAction::Errno(errno.unsigned_abs());
            let machine = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, machine).unwrap();
            seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
            command.output().unwrap()
        });
        let output = tokio::task::spawn_blocking(|| filtered.join().unwrap()).await.unwrap();
        let report = report(output);
        let findings = report["findings"].as_array().unwrap();
        assert!(findings.iter().any(|finding| finding["code"] == code), "{code}: {report:#}");
    }
}

#[tokio::test]
async fn what_a_stranger_may_not_look_at_is_a_note_and_no_wrong_finding() {
    if !geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    let mut site = Site::new().await;
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    open(site.folder.path());
    // Keys of our own, for us alone.
    fs::create_dir(site.path("keys")).unwrap();
    for (key, name) in [("cp_cert_file", "crt"), ("cp_key_file", "key"), ("cp_ca_file", "ca")] {
        let from = site.configuration["managed"][key].as_str().unwrap().to_owned();
        fs::copy(from, site.path("keys").join(name)).unwrap();
        site.configuration["managed"][key] = json!(site.path("keys").join(name));
    }
    fs::set_permissions(site.path("keys"), Permissions::from_mode(0o700)).unwrap();
    site.config();
    open(&site.path("config.yaml"));
    let aisix = binaries::find("aisix").unwrap();
    let copy = site.path("aisix");
    fs::copy(aisix, &copy).unwrap();
    open(&copy);
    let worker = site.path("aisix-worker");
    fs::copy(binaries::find("aisix-worker").unwrap(), &worker).unwrap();
    open(&worker);
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--reuid=54321", "--regid=54321", "--clear-groups"]);
    command.arg(copy).args(["doctor", "--json", "--config"]).arg(site.path("config.yaml"));
    let report = report(command.output().await.unwrap());
    let findings = report["findings"].as_array().unwrap();
    let hidden = findings.iter().find(|finding| finding["code"] == "host-view-limited");
    let hidden = hidden.unwrap_or_else(|| panic!("{report:#}"));
    assert!(hidden["evidence"].as_str().unwrap().contains("keys/crt"), "{hidden}");
    let wrong: Vec<_> = findings
        .iter()
        .filter(|it| it["severity"] == "error" && it["code"] != "daemon-down")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
