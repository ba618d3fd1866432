//! A gateway whose resources come from a file, and the commands that check such a file and make one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use harness::{Builder, Etcd, Projection, Upstream, binaries, projection, upstream, wait};
use nix::sys::signal::Signal;
use serde_json::json;

fn text(upstream: &Upstream, models: &[&str]) -> String {
    let models: String = models
        .iter()
        .map(|name| format!("  - {{display_name: {name}, provider: openai, model_name: {name}, provider_key: main}}\n"))
        .collect();
    format!(
        "_format_version: \"1\"\nprovider_keys:\n  - display_name: main\n    provider: openai\n    api_base: {}\n    api_key: ${{UPSTREAM_KEY}}\nmodels:\n{models}api_keys:\n  - {{display_name: demo, key_env: CALLER_KEY, allowed_models: ['*']}}\n",
        upstream.api_base()
    )
}

fn with_keys(builder: Builder) -> Builder {
    builder.env("UPSTREAM_KEY", harness::provider::KEY).env("CALLER_KEY", projection::CALLER_KEY)
}

fn aisix(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binaries::find("aisix").unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AISIX_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_file_serves_and_is_read_again_on_a_hangup_and_a_bad_one_changes_nothing() {
    let upstream = upstream().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resources.yaml");
    fs::write(&path, text(&upstream, &["small-1"])).unwrap();
    let mut gateway = with_keys(Builder::from_file(&path)).start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    assert_eq!(gateway.caller().ask("big", "hello").await.status, 404);
    let status = gateway.status_config().await;
    assert_eq!((&status["state"], &status["source"]["type"]), (&json!("synced"), &json!("file")));
    assert!(status["source"].get("connected").is_none(), "{status}");

    fs::write(&path, "_format_version: \"1\"\nmodels: [{}]\n").unwrap();
    gateway.signal(Signal::SIGHUP);
    wait::until("the bad file is told", async || {
        let status = gateway.status_config().await;
        if status["last_failure"].is_object() { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    assert!(gateway.log().contains("models[0]: needs display_name"), "{}", gateway.log());

    fs::write(&path, text(&upstream, &["small-1", "big"])).unwrap();
    gateway.signal(Signal::SIGHUP);
    wait::until("the new model is served", async || {
        let status = gateway.caller().ask("big", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    gateway.terminate();
    assert_eq!(gateway.end().await.code(), Some(0));
    assert!(!gateway.log().contains(harness::provider::KEY), "{}", gateway.log());
}

#[tokio::test]
async fn a_start_with_a_bad_file_ends_with_one_line_and_validate_tells_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resources.yaml");
    let bad =
        "_format_version: \"1\"\nmodles: []\napi_keys:\n  - {display_name: a, key_env: NOPE}\n";
    fs::write(&path, bad).unwrap();
    let mut gateway = Builder::from_file(&path).spawn();
    assert_eq!(gateway.end().await.code(), Some(1));
    let log = gateway.log();
    let line = log.lines().last().unwrap();
    for name in [&*path.to_string_lossy(), "modles", "api_keys[0]", "NOPE"] {
        assert!(line.starts_with("Error: ") && line.contains(name), "{name}: {log}");
    }
    let output = aisix(&["validate", "--resources", path.to_str().unwrap()], &[]);
    let (stdout, stderr) = told(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("2 error(s):") && stderr.lines().count() == 3, "{stderr}");
}

#[tokio::test]
async fn validate_counts_the_resources_of_a_good_file_and_needs_no_configuration() {
    let upstream = upstream().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resources.yaml");
    fs::write(&path, text(&upstream, &["small-1", "big"])).unwrap();
    let file = path.to_str().unwrap();
    let output = aisix(
        &["validate", "--resources", file],
        &[("UPSTREAM_KEY", "swordfish"), ("CALLER_KEY", "swordfish-2")],
    );
    let (stdout, stderr) = told(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stdout, format!("OK: {file} loaded 4 resource(s)\n"));
}

#[tokio::test]
async fn what_is_exported_from_etcd_serves_the_same_without_it() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let secret = projection::provider_key(&upstream.api_base(), harness::provider::KEY);
    let resources = Projection::default()
        .with("provider_keys", "pk-1", secret)
        .with("models", "m-1", projection::model("small-1", "pk-1"))
        .with("api_keys", "k-1", projection::api_key(projection::CALLER_KEY, &["small-1"]));
    etcd.project("/aisix/", &resources).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exported.yaml");
    fs::write(&path, "was there before").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = path.to_str().unwrap();
    let url = etcd.url();
    let output = aisix(&["export", "--etcd", &url, "-o", file], &[]);
    let (stdout, stderr) = told(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("AISIXSECRET_PROVIDER_KEY_UPSTREAM_API_KEY"), "{stderr}");
    assert!(!fs::read_to_string(&path).unwrap().contains(harness::provider::KEY));
    assert_eq!(mode(&path), 0o600);

    let gateway = Builder::from_file(&path)
        .env("AISIXSECRET_PROVIDER_KEY_UPSTREAM_API_KEY", harness::provider::KEY)
        .start()
        .await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);

    let output = aisix(&["export", "--etcd", &url, "--reveal-secrets"], &[]);
    let (stdout, _) = told(&output);
    assert!(output.status.success() && stdout.contains(harness::provider::KEY), "{stdout}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn an_export_that_is_not_complete_fails_and_says_what_is_missing() {
    let etcd = Etcd::start().await;
    etcd.put_raw("/aisix/models/broken", "{").await;
    etcd.put("/aisix/models/m-1", &projection::model("lost", "pk-gone")).await;
    let output = aisix(&["export", "--etcd", &etcd.url()], &[]);
    let (stdout, stderr) = told(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout.contains("\"lost\""), "{stdout}");
    for name in ["/aisix/models/broken", "pk-gone", "lost"] {
        assert!(stderr.contains(name), "{name}: {stderr}");
    }
    let nobody = format!("http://{}", harness::port::reserve());
    let output = aisix(&["export", "--etcd", &nobody], &[]);
    let (_, stderr) = told(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(&nobody) && stderr.lines().count() == 1, "{stderr}");
}
