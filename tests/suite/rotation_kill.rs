//! The end of the process in the middle of a rotation, and the end of a certificate while the process is off.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::cloud::{Bundle, ENVIRONMENT};
use harness::mounted::{Mounted, Style};
use harness::{Builder, Cloud, Projection, upstream, wait};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

const DATA_PLANE: &str = "0b8e7c52-6f0d-4b7e-9a55-6d2f3f1f7a10";

/// With a state directory that outlives the gateway.
fn with_state(builder: Builder, state: &TempDir) -> Builder {
    let path = |name: &str| json!(state.path().join(name));
    builder
        .set("/managed/mtls_dir", path("mtls"))
        .set("/managed/dp_id_file", path("dp_id"))
        .set("/managed/snapshot_cache_path", path("config_cache.json"))
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_rotation_leaves_one_identity_that_works() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let authority = {
        cloud.issue(ENVIRONMENT);
        cloud.authority()
    };
    let issue = || authority.bundle_with(ENVIRONMENT, DATA_PLANE, -60..3600, |_| {});
    let state = tempfile::tempdir().unwrap();
    let kills = if std::env::var_os("SUITE_FULL").is_some() { 100 } else { 6 };
    for turn in 0..kills {
        let first = issue();
        let mut issued = BTreeSet::from([first.fingerprint()]);
        let mut files = Mounted::new(Style::Swap, &first);
        let mut gateway =
            with_state(Builder::managed_with(&cloud, &files.bundle()), &state).start().await;
        let start = std::time::Instant::now();
        let until = Duration::from_millis(150 + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * 12);
        // What matters is only that the kill comes at another moment each time.
        let mut next = issue();
        files.put(&next);
        issued.insert(next.fingerprint());
        while start.elapsed() < until {
            if gateway.log().contains(&next.fingerprint()) {
                next = issue();
                issued.insert(next.fingerprint());
                files.put(&next);
            }
            tokio::task::yield_now().await;
        }
        gateway.signal(Signal::SIGKILL);
        gateway.end().await;
        drop(gateway);

        // Without the files: what is kept must do.
        let after = with_state(Builder::unprovisioned(&cloud), &state).start().await;
        let status = after.status_managed().await;
        let now = status["certificate"]["fingerprint_sha256"].as_str().unwrap_or_default();
        assert!(issued.contains(now), "turn {turn}: {status}");
        assert_eq!(status["findings"], json!([]), "turn {turn}: {status}");
        assert_eq!(after.caller().ask("small-1", "hello").await.status, 200);
        println!("turn {turn}: killed after {until:?}, {} bundles, one is kept", issued.len());
    }
}

#[tokio::test]
async fn a_certificate_that_expired_while_the_gateway_was_off_stops_no_start_and_heals_without_one()
{
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let authority = cloud.authority();
    let state = tempfile::tempdir().unwrap();
    let short = authority.bundle_with(ENVIRONMENT, DATA_PLANE, -60..20, |_| {});
    let mut files = Mounted::new(Style::Swap, &short);
    let off =
        |builder: Builder| with_state(builder, &state).set("/managed/cert_renewal", json!("off"));
    let mut gateway = off(Builder::managed_with(&cloud, &files.bundle())).start().await;
    wait::until("the certificate expires", async || {
        let status = gateway.status_managed().await;
        if status["findings"].to_string().contains("expired on") { Ok(()) } else { Err(status) }
    })
    .await;
    gateway.terminate();
    gateway.end().await;

    let mut gateway = off(Builder::managed_with(&cloud, &files.bundle())).start_alive().await;
    wait::until("the state is shown", async || {
        let status = gateway.status_managed().await;
        let is_shown = status["findings"][0]["topic"] == "certificate"
            && !status["heartbeat"]["error"].is_null();
        if is_shown { Ok(()) } else { Err(status) }
    })
    .await;
    let good = authority.bundle_with(ENVIRONMENT, DATA_PLANE, -60..3600, |_| {});
    files.put(&good);
    gateway.wait_until_ready().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    wait::until("nothing is wrong any more", async || {
        let status = gateway.status_managed().await;
        let is_well = status["findings"] == json!([]) && status["heartbeat"]["error"].is_null();
        if is_well { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_faulty_bundle_ends_the_start_in_one_line_and_overwrites_nothing() {
    let cloud = Cloud::stopped(&Projection::default());
    cloud.issue(ENVIRONMENT);
    let authority = cloud.authority();
    let state = tempfile::tempdir().unwrap();
    let issue = |valid| authority.bundle_with(ENVIRONMENT, DATA_PLANE, valid, |_| {});
    let good = issue(-60..3600);
    let first = with_state(Builder::managed_with(&cloud, &good), &state).start_alive().await;
    drop(first);
    let kept = || Bundle::text(&state.path().join("mtls/client.crt"));
    let before = kept();
    let other = issue(-30..3600);
    for (fault, bundle) in [
        ("does not belong", Bundle { key: good.key.clone(), ..other.clone() }),
        ("not valid before", issue(600..3600)),
        ("PEM", Bundle { issuers: other.key.clone(), ..other.clone() }),
        ("No such file", Bundle { key: state.path().join("nowhere"), ..other.clone() }),
    ] {
        let mut gateway = with_state(Builder::managed_with(&cloud, &bundle), &state).spawn();
        assert_eq!(gateway.end().await.code(), Some(1), "{fault}: {}", gateway.log());
        let log = gateway.log();
        let errors: Vec<_> = log.lines().filter(|line| line.starts_with("Error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(fault), "{fault}: {log}");
        assert_eq!(kept(), before, "{fault}");
    }
}
