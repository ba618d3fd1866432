//! Certificates are replaced while everything runs: by files, in every way in which files are written, and by the Cloud.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use harness::authority::Authority;
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::mounted::{Mounted, Style};
use harness::{Builder, Caller, Cloud, Gateway, Projection, Upstream, upstream, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;

const DATA_PLANE: &str = "0b8e7c52-6f0d-4b7e-9a55-6d2f3f1f7a10";
/// Valid for an hour, in seconds from now on.
const HOUR: std::ops::Range<i64> = -60..3600;

/// A Cloud, a gateway with its bundle in files, and what issues more of them.
struct Rotating {
    upstream: Upstream,
    cloud: Cloud,
    authority: Authority,
    files: Mounted,
    gateway: Gateway,
}

impl Rotating {
    async fn start(style: Style, settings: impl FnOnce(Builder) -> Builder) -> Self {
        Self::start_with(style, HOUR, settings).await
    }

    async fn start_with(
        style: Style,
        valid: std::ops::Range<i64>,
        settings: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let upstream = upstream().await;
        let cloud = Cloud::start(&Projection::of(&upstream)).await;
        let authority = cloud.authority();
        let first = authority.bundle_with(ENVIRONMENT, DATA_PLANE, valid, |_| {});
        let files = Mounted::new(style, &first);
        let gateway = settings(Builder::managed_with(&cloud, &files.bundle())).start().await;
        Self { upstream, cloud, authority, files, gateway }
    }

    fn issue(&self) -> Bundle {
        self.authority.bundle_with(ENVIRONMENT, DATA_PLANE, HOUR, |_| {})
    }

    /// Waits until heartbeat and etcd watch are on this certificate, and nothing is on another.
    async fn settled_on(&self, fingerprint: &str) {
        wait::until("every channel is on the new certificate", async || {
            let connections = self.cloud.connections().await;
            let open = || connections.iter().filter(|it| it["closed_at_ms"].is_null());
            let asked = |path: &str| {
                open().any(|it| {
                    it["fingerprint_sha256"] == fingerprint && it["requests"][path].is_u64()
                })
            };
            let is_old = open().any(|it| it["fingerprint_sha256"] != fingerprint);
            if !is_old && asked("/dp/heartbeat") && asked("/etcdserverpb.Watch/Watch") {
                Ok(())
            } else {
                Err(json!(open().collect::<Vec<_>>()))
            }
        })
        .await;
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.gateway.metrics().await.sum(name, labels)
    }

    fn processes(&self) -> BTreeSet<i32> {
        self.gateway.workers().iter().map(|worker| worker.pid.as_raw()).collect()
    }
}

/// How long a caller thinks between two requests: the load is there, and leaves the machine room for the rotations.
const PAUSE: Duration = Duration::from_millis(10);

/// Callers that ask until they are told that it is enough.
#[derive(Default)]
struct Load {
    answered: RefCell<Vec<String>>,
    enough: Cell<bool>,
}

async fn load(caller: Caller, seen: Rc<Load>) {
    while !seen.enough.get() {
        let answer = caller.ask("small-1", "hello").await;
        assert_eq!(answer.status, 200);
        seen.answered.borrow_mut().push(answer.header("x-aisix-request-id").to_owned());
        answer.bytes().await.expect("the whole answer comes");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Rotates so many times under load, and checks that nobody noticed.
async fn nobody_notices(style: Style, rotations: usize) {
    let mut world = Rotating::start(style, |builder| builder).await;
    let processes = world.processes();
    let caller = world.gateway.caller();
    LocalSet::new()
        .run_until(async {
            let seen = Rc::new(Load::default());
            let callers: Vec<_> = (0..2)
                .map(|_| tokio::task::spawn_local(load(caller.clone(), Rc::clone(&seen))))
                .collect();
            let mut open = caller.ask_stream("hold", "a stream that outlives them all").await;
            assert!(open.next_event().await.unwrap().is_some());
            let mut fingerprint = String::new();
            for turn in 0..rotations {
                let next = world.issue();
                fingerprint = next.fingerprint();
                world.files.put(&next);
                wait::until("the new certificate is in force", async || {
                    let status = world.gateway.status_managed().await;
                    let now = status["certificate"]["fingerprint_sha256"].clone();
                    if now == fingerprint.as_str() {
                        Ok(())
                    } else {
                        Err(format!("turn {turn}: {status}"))
                    }
                })
                .await;
            }
            world.settled_on(&fingerprint).await;
            seen.enough.set(true);
            for caller in callers {
                caller.await.expect("every request was answered");
            }
            world.upstream.release();
            let rest = open.events().await.expect("the stream goes on to its end");
            assert_eq!(rest.last().map(|event| event.data.as_str()), Some("[DONE]"));

            let answered = seen.answered.borrow().len();
            println!("{style:?}: {rotations} rotations, {answered} requests");
            assert_eq!(world.cloud.usage_of(answered + 1).await.len(), answered + 1);
            let connections = world.cloud.connections().await;
            let refused: u64 = connections.iter().filter_map(|it| it["refused"].as_u64()).sum();
            assert_eq!(refused, 0, "no call to the manager was refused");
            println!(
                "slowest hand-over: {:?} ms, slowest close: {:?} ms",
                hand_over(&connections),
                closed(&connections)
            );
        })
        .await;
    assert_eq!(world.metric("aisix_heartbeat_failures_total", &[]).await, 0.0);
    let rotated = world.metric("aisix_bundle_rotations_total", &[("source", "files")]).await;
    assert_eq!(rotated, rotations as f64);
    assert_eq!(world.processes(), processes, "no process was restarted");
    let log = world.gateway.log();
    assert!(!log.contains("not followed") && !log.contains("loading everything again"), "{log}");
    assert_eq!(log.matches("projection loaded").count(), 1, "{log}");
    // Whatever was sealed opens at the next start.
    let state = world.gateway.state();
    world.gateway.terminate();
    world.gateway.end().await;
    let path = |name: &str| json!(state.join(name));
    let next = Builder::unprovisioned(&world.cloud)
        .set("/managed/mtls_dir", path("mtls"))
        .set("/managed/dp_id_file", path("dp_id"))
        .set("/managed/snapshot_cache_path", path("config_cache.json"))
        .start()
        .await;
    let findings = next.status_managed().await["findings"].clone();
    assert_eq!(findings, json!([]), "the state directory opens under the last key");
    assert!(state.join("mtls/previous/client.key").exists());
}

/// How long after the first use of each certificate the etcd watch was on it, the longest, in milliseconds.
fn hand_over(connections: &[Value]) -> Option<u64> {
    let first = |it: &Value| {
        let of = |path: &str| {
            let same = connections.iter().filter(|other| {
                other["fingerprint_sha256"] == it["fingerprint_sha256"]
                    && other["requests"][path].is_u64()
            });
            same.filter_map(|other| other["opened_at_ms"].as_u64()).min()
        };
        Some(of("/etcdserverpb.Watch/Watch")?.saturating_sub(of("/dp/heartbeat")?))
    };
    connections.iter().filter_map(first).max()
}

/// How long after the first use of the next certificate a connection was closed, the longest, in milliseconds.
fn closed(connections: &[Value]) -> Option<u64> {
    let after = |it: &Value| {
        let next = connections.iter().find(|next| {
            next["id"].as_u64() > it["id"].as_u64()
                && next["fingerprint_sha256"] != it["fingerprint_sha256"]
        })?;
        Some(it["closed_at_ms"].as_u64()?.saturating_sub(next["opened_at_ms"].as_u64()?))
    };
    connections.iter().filter_map(after).max()
}

#[tokio::test]
async fn nobody_notices_a_rotation_by_files_that_are_written_in_place() {
    nobody_notices(Style::InPlace, 2).await;
}

#[tokio::test]
async fn nobody_notices_a_rotation_by_files_that_are_renamed() {
    nobody_notices(Style::Rename, 2).await;
}

#[tokio::test]
async fn nobody_notices_many_rotations_of_a_mounted_secret() {
    nobody_notices(Style::Swap, if std::env::var_os("SUITE_FULL").is_some() { 1000 } else { 20 })
        .await;
}

#[tokio::test]
async fn the_cloud_renews_a_certificate_in_time_and_on_request() {
    // Two thirds of its life are over.
    let world = Rotating::start_with(Style::Rename, -3600..1200, |builder| builder).await;
    let supplied = world.files.bundle().fingerprint();
    let renewed = in_force_after(&world, &supplied).await;
    world.settled_on(&renewed).await;
    assert_eq!(world.metric("aisix_bundle_rotations_total", &[("source", "cloud")]).await, 1.0);
    let status = world.gateway.status_managed().await;
    assert_eq!(status["rotation"]["renewal"], "auto");
    assert_eq!(status["certificate"]["origin"], "renewed");
    assert_eq!(status["certificate"]["dp_id"], DATA_PLANE);

    world.cloud.ask_renewal(DATA_PLANE).await;
    let again = in_force_after(&world, &renewed).await;
    world.settled_on(&again).await;

    // The files still hold what they held; written once more, they are no change.
    let mut files = world.files;
    let old = Bundle { certificate: files.bundle().certificate, ..files.bundle() };
    let texts = [&old.certificate, &old.key, &old.issuers].map(|path| fs::read(path).unwrap());
    files.put_texts(&texts.each_ref().map(Vec::as_slice));
    let mut gateway = world.gateway;
    let state = gateway.state();
    gateway.terminate();
    gateway.end().await;
    let path = |name: &str| json!(state.join(name));
    let next = Builder::managed_with(&world.cloud, &files.bundle())
        .set("/managed/mtls_dir", path("mtls"))
        .set("/managed/dp_id_file", path("dp_id"))
        .start()
        .await;
    let status = next.status_managed().await;
    assert_eq!(status["certificate"]["fingerprint_sha256"], again.as_str(), "the newer one wins");
    let log = next.log();
    assert!(log.contains("the persisted one, since it is newer than the supplied one"), "{log}");
}

/// The certificate in force, once it is another one.
async fn in_force_after(world: &Rotating, fingerprint: &str) -> String {
    wait::until("another certificate is in force", async || {
        let status = world.gateway.status_managed().await;
        let now =
            status["certificate"]["fingerprint_sha256"].as_str().unwrap_or_default().to_owned();
        if now == fingerprint || now.is_empty() { Err(status) } else { Ok(now) }
    })
    .await
}

#[tokio::test]
async fn where_the_cloud_does_not_renew_it_is_shown_and_where_it_fails_it_is_tried_again() {
    let world = Rotating::start_with(Style::Rename, -60..3600, |builder| builder).await;
    let supplied = world.files.bundle().fingerprint();
    world.cloud.fail("/dp/rotate-cert", 503, Some(1)).await;
    world.cloud.ask_renewal(DATA_PLANE).await;
    in_force_after(&world, &supplied).await;
    assert!(world.gateway.log().contains("is not renewed: POST"), "{}", world.gateway.log());

    world.cloud.fail("/dp/rotate-cert", 404, None).await;
    world.cloud.ask_renewal(DATA_PLANE).await;
    wait::until("the renewal is shown as manual", async || {
        let status = world.gateway.status_managed().await;
        if status["rotation"]["renewal"] == "manual" { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_bad_bundle_in_the_files_is_refused_and_the_one_in_force_stays() {
    let mut world = Rotating::start(Style::Rename, |builder| builder).await;
    let in_force = world.files.bundle().fingerprint();
    let [good, other] = [world.issue(), world.issue()];
    let stranger = Authority::default();
    let bundle = |env: &str, valid| world.authority.bundle_with(env, DATA_PLANE, valid, |_| {});
    let elsewhere = "99999999-2222-3333-4444-555555555555";
    let cases = [
        ("key_mismatch", Bundle { key: other.key.clone(), ..good.clone() }),
        ("environment", bundle(elsewhere, HOUR)),
        ("expired", bundle(ENVIRONMENT, -100..-10)),
        ("not_yet_valid", bundle(ENVIRONMENT, 3000..3600)),
        ("unknown_issuer", Bundle { issuers: stranger.certificate().to_owned(), ..good.clone() }),
        ("pem", Bundle { certificate: good.key.clone(), ..good.clone() }),
        ("refused", stranger.bundle_with(ENVIRONMENT, DATA_PLANE, HOUR, |_| {})),
    ];
    for (reason, bad) in &cases {
        world.files.put(bad);
        wait::until(&format!("the bundle is refused: {reason}"), async || {
            let counted = world.metric("aisix_bundle_rejected_total", &[("reason", reason)]).await;
            let status = world.gateway.status_managed().await;
            let is_found = status["findings"].as_array().is_some_and(|findings| {
                findings.iter().any(|finding| finding["topic"] == "rotation")
            });
            if counted == 1.0 && is_found { Ok(()) } else { Err(format!("{counted} {status}")) }
        })
        .await;
        let status = world.gateway.status_managed().await;
        assert_eq!(status["certificate"]["fingerprint_sha256"], in_force.as_str(), "{reason}");
        let told = status["rotation"]["last_rejection"].as_str().unwrap_or_default().to_owned();
        let log = world.gateway.log();
        assert!(!told.is_empty() && log.contains(&told), "{reason}: {told}: {log}");
        assert_eq!(world.gateway.caller().ask("small-1", "hello").await.status, 200);
    }
    world.files.put(&good);
    world.settled_on(&good.fingerprint()).await;
    let status = world.gateway.status_managed().await;
    assert_eq!(status["findings"], json!([]), "{status}");
    assert_eq!(world.metric("aisix_heartbeat_failures_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_bundle_that_the_disk_does_not_take_is_used_all_the_same_and_kept_once_it_does() {
    let mut world = Rotating::start(Style::InPlace, |builder| builder).await;
    let next = world.issue();
    let obstacle = world.gateway.state().join("mtls/next");
    fs::write(&obstacle, "in the way").unwrap();
    world.files.put(&next);
    world.settled_on(&next.fingerprint()).await;
    wait::until("the disk's refusal is shown", async || {
        let findings = world.gateway.status_managed().await["findings"].clone();
        let text = findings[0]["text"].as_str().unwrap_or_default();
        if text.contains("is not kept") && text.contains("mtls/next") {
            Ok(())
        } else {
            Err(findings)
        }
    })
    .await;
    fs::remove_file(&obstacle).unwrap();
    let kept = world.gateway.state().join("mtls/client.crt");
    wait::until("the bundle is kept", async || {
        let findings = world.gateway.status_managed().await["findings"].clone();
        let is_kept = Bundle::text(&kept) == Bundle::text(&next.certificate);
        if is_kept && findings == json!([]) { Ok(()) } else { Err(findings) }
    })
    .await;
}
