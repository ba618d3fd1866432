//! State directories that released versions have left, kept in `tests/state`: this build serves from them and delivers what
//! is in them. `UPDATE_STATE=1` makes the one of the version that is built, which every version leaves for those after it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Projection, projection, release, upstream, wait};
use serde_json::Value;

/// Requests whose usage was not delivered.
const REQUESTS: usize = 3;
/// As long as the local Cloud issues: these are kept for years.
const DAYS: u32 = 36_500;
const KEY: &str = "sk-kept";

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("state")
}

fn archive(version: &str) -> PathBuf {
    kept().join(format!("{version}.tar.gz"))
}

fn tar(arguments: &[&str], archive: &Path, folder: &Path) {
    let mut command = Command::new("tar");
    let status = command.args(arguments).arg(archive).arg("-C").arg(folder).arg(".").status();
    assert!(status.expect("tar is there").success(), "{}", archive.display());
}

/// What is in the Cloud of such a directory.
fn resources(upstream: &harness::Upstream) -> Projection {
    Projection::of(upstream).with("api_keys", "kept", projection::api_key(KEY, &["*"]))
}

/// Leaves a state directory with a snapshot, a budget decision and usage that the Cloud has not had.
async fn make(version: &str) {
    let upstream = upstream().await;
    let cloud = Cloud::start(&resources(&upstream)).await;
    cloud.fail("/dp/telemetry", 503, None).await;
    let bundle = cloud.issue_for(ENVIRONMENT, DAYS);
    let mut gateway = Builder::managed_with(&cloud, &bundle).start().await;
    let revision = gateway.status_config().await["applied"]["applied_revision"].as_i64();
    gateway.wait_until_kept(revision.expect("a revision is applied")).await;
    for number in 0..REQUESTS {
        let answer = gateway.caller_with(KEY).ask("small-1", &format!("number {number}")).await;
        assert_eq!(answer.status, 200);
    }
    gateway.terminate();
    gateway.end().await;
    let folder = tempfile::tempdir().expect("a folder");
    fs::rename(gateway.state(), folder.path().join("gateway")).expect("the state is there");
    fs::create_dir(folder.path().join("cloud")).expect("a folder");
    for file in cloud.authority_files() {
        let name = file.file_name().expect("it has a name");
        fs::copy(&file, folder.path().join("cloud").join(name)).expect("the authority is there");
    }
    fs::create_dir_all(kept()).expect("a folder");
    tar(&["-czf"], &archive(version), folder.path());
}

async fn is_read(version: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    tar(&["--no-same-owner", "-xpzf"], &archive(version), folder.path());
    let (before, upstream) = (upstream().await, upstream().await);
    let mut cloud = Cloud::with_authority(&folder.path().join("cloud"), &resources(&before));

    // The Cloud is away: keys, models and the decision on the key are those that were kept.
    let gateway = Builder::in_state(&folder.path().join("gateway"), &cloud).start().await;
    assert_eq!(gateway.status_managed().await["snapshot"]["restored_from"], "current");
    let models = gateway.caller_with(KEY).models().await.expect("an answer");
    assert_eq!(models.status, 200, "{version}");
    let models: Value = models.json().await.expect("a list of models");
    let listed = models["data"].as_array().expect("a list");
    assert!(listed.iter().any(|model| model["id"] == "small-1"), "{version}: {models}");
    let others = gateway.caller_with("sk-other").models().await.expect("an answer");
    assert_eq!(others.status, 401);

    // It is there: it gets the usage that was kept, and its next change is served.
    cloud.resume().await;
    cloud.project(&resources(&upstream));
    let usage = cloud.usage_of(REQUESTS).await;
    assert!(usage.iter().all(|event| event["api_key_id"] == "kept"), "{version}: {usage:?}");
    wait::until(&format!("a request is served from the state of {version}"), async || {
        let status = gateway.caller_with(KEY).ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_state_directory_of_every_kept_version_is_served_from_and_its_usage_delivered() {
    if std::env::var_os("UPDATE_STATE").is_some() {
        make(release::built()).await;
    }
    let entries = fs::read_dir(kept()).expect("tests/state is there");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    let versions: Vec<_> =
        names.filter_map(|name| name.strip_suffix(".tar.gz").map(str::to_owned)).collect();
    assert!(
        versions.iter().any(|version| version == release::built()),
        "tests/state has none of version {}: make it with UPDATE_STATE=1",
        release::built()
    );
    for version in versions {
        is_read(&version).await;
    }
}
