//! `aisix bundle-report`: one archive that has what a support case needs, and no secret, with the gateway up and down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use harness::cloud::ENVIRONMENT;
use harness::command::command;
use harness::provider::KEY;
use harness::{Builder, Cloud, Gateway, Projection, projection, upstream};
use serde_json::json;

const REDIS_PASSWORD: &str = "planted-redis-password";
const PROXY_PASSWORD: &str = "planted-proxy-password";
const STRANGE: &str = "planted-value-of-a-variable";

/// `aisix bundle-report` with these variables, and nothing else of ours.
async fn bundle_report(config: &Path, output: &str, variables: &[(String, String)]) -> Output {
    let mut command = command(&["bundle-report", "--output", output, "--config"]);
    command.envs(variables.iter().cloned()).current_dir(config.parent().unwrap());
    command.arg(config).output().await.unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// Names and contents of an archive, one behind the other.
fn unpacked(path: &Path) -> (String, String) {
    let tar = |flags: &str| {
        let output = std::process::Command::new("tar").arg(flags).arg(path).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    (tar("-tzf"), tar("-xOzf"))
}

/// What must be nowhere.
fn secrets(key_pem: &str) -> Vec<String> {
    let lines = key_pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 16);
    let planted = [KEY, projection::CALLER_KEY, REDIS_PASSWORD, PROXY_PASSWORD, STRANGE];
    planted.iter().map(|&it| it.to_owned()).chain(lines.map(str::to_owned)).collect()
}

fn assert_clean(text: &str, secrets: &[String]) {
    for secret in secrets {
        let at = text.find(secret.as_str());
        let around = at.map(|at| &text[at.saturating_sub(200)..at]);
        assert_eq!(around, None, "{secret} is in the archive");
    }
}

/// Variables that hold secrets.
fn variables(key_pem: &str, certificate: &str, issuers: &str) -> Vec<(String, String)> {
    [
        ("AISIX_MANAGED__CP_KEY_PEM", key_pem.to_owned()),
        ("AISIX_MANAGED__CP_CERT_PEM", certificate.to_owned()),
        ("AISIX_MANAGED__CP_CA_PEM", issuers.to_owned()),
        ("AISIX_RATELIMIT__REDIS__URL", format!("redis://user:{REDIS_PASSWORD}@127.0.0.1:1/0")),
        ("SOME_PROVIDER_API_KEY", STRANGE.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

struct Case {
    gateway: Gateway,
    _cloud: Cloud,
    _upstream: harness::Upstream,
    variables: Vec<(String, String)>,
    secrets: Vec<String>,
    config: PathBuf,
}

async fn case() -> Case {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let key = read(&bundle.key);
    let variables = variables(&key, &read(&bundle.certificate), &read(&bundle.issuers));
    let mut builder = Builder::unprovisioned(&cloud);
    let socket = builder.configuration_path().with_file_name("aisix.sock");
    builder = builder.set("/supervisor/control_socket", json!(socket));
    for (name, value) in &variables {
        builder = builder.env(name, value);
    }
    let gateway = builder.start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    let config = gateway.folder().join("config.managed.yaml");
    let mut all = variables;
    all.push(("AISIX_MANAGED__CP_BASE_URL".to_owned(), cloud.url()));
    Case {
        gateway,
        _cloud: cloud,
        _upstream: upstream,
        variables: all,
        secrets: secrets(&key),
        config,
    }
}

#[tokio::test]
async fn the_archive_of_a_gateway_that_runs_has_everything_and_no_secret() {
    let case = case().await;
    let archive = case.gateway.folder().join("report.tar.gz");
    let begun = Instant::now();
    let output = bundle_report(&case.config, archive.to_str().unwrap(), &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    let about = fs::metadata(&archive).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    assert!(about.len() < 10 * 1024 * 1024);
    let (names, contents) = unpacked(&archive);
    for name in [
        "manifest.txt",
        "status.json",
        "doctor.json",
        "configuration.txt",
        "environment.txt",
        "certificates.txt",
        "state-directory.txt",
        "versions.txt",
        "machine.txt",
        "cgroup.txt",
        "processes.txt",
        "pages/metrics.txt",
        "pages/config.json",
        "pages/managed.json",
    ] {
        assert!(names.contains(&format!("aisix-report/{name}\n")), "{name} is not among {names}");
        assert!(name == "manifest.txt" || said(&output).contains(name), "{}", said(&output));
    }
    for told in [
        "aisix_workers_up",
        "x-aisix://env/",
        "config_cache.json",
        "managed.cp_key_pem = (set, not shown)    # AISIX_MANAGED__CP_KEY_PEM",
        "SOME_PROVIDER_API_KEY\n",
        "Seccomp:",
    ] {
        assert!(contents.contains(told), "{told}");
    }
    assert_clean(&contents, &case.secrets);
    assert_clean(&said(&output), &case.secrets);
}

#[tokio::test]
async fn a_gateway_that_is_down_is_reported_all_the_same_with_what_is_missing_and_why() {
    let mut case = case().await;
    case.gateway.kill_at_once().await;
    let proxy = format!("http://user:{PROXY_PASSWORD}@127.0.0.1:1");
    case.variables.push(("AISIX_MANAGED__PROXY_URL".to_owned(), proxy));
    // What another key file holds is a secret as well.
    let archive = case.gateway.folder().join("down.tar.gz");
    let output = bundle_report(&case.config, archive.to_str().unwrap(), &case.variables).await;
    assert!(output.status.success(), "{}", said(&output));
    let (names, contents) = unpacked(&archive);
    for name in ["doctor.json", "configuration.txt", "state-directory.txt", "certificates.txt"] {
        assert!(names.contains(name), "{names}");
    }
    assert!(!names.contains("status.json"), "{names}");
    assert!(contents.contains("status.json: cannot ask the gateway"), "the manifest says why");
    assert!(contents.contains("managed.proxy_url = (set, not shown)"));
    assert_clean(&contents, &case.secrets);
    // What is there is not written over.
    let again = bundle_report(&case.config, archive.to_str().unwrap(), &case.variables).await;
    assert!(!again.status.success() && said(&again).contains("--output"), "{}", said(&again));
    // To standard output, the list beside it.
    let piped = bundle_report(&case.config, "-", &case.variables).await;
    assert!(piped.stdout.starts_with(&[0x1f, 0x8b]));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("configuration.txt"));
}

#[tokio::test]
async fn without_any_configuration_there_is_a_report_of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("nowhere.yaml");
    let output = bundle_report(&config, "out.tar.gz", &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    let (names, contents) = unpacked(&folder.path().join("out.tar.gz"));
    assert!(names.contains("machine.txt") && names.contains("doctor.json"), "{names}");
    assert!(contents.contains("config-missing"), "the doctor says what is wrong");
}
