//! The files of the state directory: what is in them, and what is made of those that are not as they should be.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::cloud::ENVIRONMENT;
use harness::provider::KEY;
use harness::{
    BlackHole, Builder, Cloud, Etcd, Gateway, Projection, Upstream, projection, upstream, wait,
};

const OTHER: &str = "99999999-2222-3333-4444-555555555555";

/// A gateway that has run over a real etcd, and what it ran with.
struct Site {
    upstream: Upstream,
    etcd: Etcd,
    cloud: Cloud,
    gateway: Gateway,
}

fn prefix() -> String {
    format!("/aisix/{ENVIRONMENT}/")
}

impl Site {
    async fn start() -> Self {
        let upstream = upstream().await;
        let etcd = Etcd::start().await;
        let revision = etcd.project(&prefix(), &Projection::of(&upstream)).await;
        let cloud = Cloud::over(&etcd).await;
        let gateway = Builder::managed(&cloud).start().await;
        gateway.wait_until_kept(revision).await;
        Self { upstream, etcd, cloud, gateway }
    }

    fn snapshot(&self) -> PathBuf {
        self.gateway.state().join("config_cache.json")
    }

    /// Adds a caller key, and waits until it is on disk.
    async fn add(&self, caller_key: &str) {
        let key = format!("{}api_keys/{caller_key}", prefix());
        let document = projection::api_key(caller_key, &["*"]).to_string();
        let put = self.etcd.client().await.put(key, document, None).await;
        let revision =
            put.expect("etcd takes a put").header().map_or(0, |header| header.revision());
        self.gateway.wait_until_kept(revision).await;
    }

    /// Kills everything, lets packets to the Cloud vanish, and starts again.
    async fn restart_offline(&mut self, between: impl FnOnce(&Path)) -> (Gateway, BlackHole) {
        self.gateway.kill_at_once().await;
        self.cloud.stop();
        between(&self.snapshot());
        let hole = BlackHole::at(self.cloud.address());
        (deciding_by_itself(Builder::after(&self.gateway, &self.cloud)).start_alive().await, hole)
    }
}

/// What is on disk may be of before the first budget decision; these tests are about resources.
fn deciding_by_itself(builder: Builder) -> Builder {
    builder.env("AISIX_MANAGED__BUDGET_UNKNOWN", "allow")
}

async fn status_with(gateway: &Gateway, caller_key: &str) -> u16 {
    gateway.caller_with(caller_key).ask("small-1", "hello").await.status.as_u16()
}

/// Every file below a folder; sockets hold nothing.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(below).filter(|path| path.is_file()).collect()
}

#[tokio::test]
async fn no_secret_of_a_provider_is_on_disk_in_clear_and_modes_are_narrow() {
    let site = Site::start().await;
    site.add("sk-two").await;
    let state = site.gateway.state();
    for path in files(&state) {
        let content = fs::read(&path).unwrap();
        assert!(!content.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "{path:?}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for name in ["config_cache.json", "config_cache.json.previous", "mtls/generation", "mtls/seal"]
    {
        assert_eq!(mode(&state.join(name)), 0o600, "{name}");
    }
    assert!(!site.gateway.log().contains(KEY));
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_or_changed_is_not_used_and_the_generation_before_is() {
    for damage in ["cut off", "changed"] {
        let mut site = Site::start().await;
        site.add("sk-two").await;
        let (mut gateway, hole) = site
            .restart_offline(|path| {
                let mut content = fs::read(path).unwrap();
                let last = content.len() - 1;
                match damage {
                    "cut off" => content.truncate(last),
                    _ => content[last / 2] ^= 1,
                }
                fs::write(path, content).unwrap();
            })
            .await;
        gateway.wait_until_ready().await;
        assert_eq!(status_with(&gateway, projection::CALLER_KEY).await, 200);
        let told = gateway.finding("snapshot").await;
        let path = site.snapshot().display().to_string();
        assert!(told.contains(&path) && told.contains("generation before it"), "{damage}: {told}");
        assert_eq!(gateway.status_managed().await["snapshot"]["restored_from"], "previous");
        assert!(gateway.metrics().await.sum("aisix_findings", &[("topic", "snapshot")]) > 0.0);
        // Back online it has everything again.
        drop(hole);
        site.cloud.resume().await;
        usable(&gateway, "sk-two").await;
        assert!(!site.upstream.ledger().is_empty());
    }
}

#[tokio::test]
async fn an_older_snapshot_put_back_alone_is_noticed_and_not_used() {
    let mut site = Site::start().await;
    let older = fs::read(site.snapshot()).unwrap();
    site.add("sk-two").await;
    let (mut gateway, _hole) = site.restart_offline(|path| fs::write(path, older).unwrap()).await;
    gateway.wait_until_ready().await;
    let told = gateway.finding("snapshot").await;
    assert!(told.contains("is older than it was") && told.contains("put back"), "{told}");
    assert_eq!(gateway.status_managed().await["snapshot"]["restored_from"], "previous");
}

#[tokio::test]
async fn the_snapshot_of_another_environment_is_set_aside_neither_deleted_nor_used() {
    let mut site = Site::start().await;
    site.gateway.kill_at_once().await;
    let content = fs::read(site.snapshot()).unwrap();
    let bundle = site.cloud.issue(OTHER);
    let gateway = Builder::after(&site.gateway, &site.cloud)
        .env("AISIX_MANAGED__CP_CERT_FILE", &bundle.certificate.to_string_lossy())
        .env("AISIX_MANAGED__CP_KEY_FILE", &bundle.key.to_string_lossy())
        .env("AISIX_MANAGED__CP_CA_FILE", &bundle.issuers.to_string_lossy())
        .start_alive()
        .await;
    assert_eq!(status_with(&gateway, projection::CALLER_KEY).await, 401);
    let aside = site.gateway.state().join(format!("config_cache.json.{ENVIRONMENT}"));
    assert_eq!(fs::read(aside).unwrap(), content);
    let told = gateway.finding("snapshot").await;
    assert!(told.contains(ENVIRONMENT) && told.contains(OTHER), "{told}");
}

#[tokio::test]
async fn the_snapshot_of_the_published_data_plane_is_taken_over_sealed_and_emptied() {
    use base64::Engine;
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let mut cloud = Cloud::over(&etcd).await;
    // Provides identity and bundle.
    let mut first = Builder::managed(&cloud).start().await;
    first.kill_at_once().await;
    for path in files(&first.state()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("config_cache") || name == "generation" || name == "seal" {
            fs::remove_file(path).unwrap();
        }
    }
    let rows: Vec<_> = Projection::of(&upstream)
        .documents()
        .map(|(key, document)| {
            let value = base64::engine::general_purpose::STANDARD.encode(document.to_string());
            serde_json::json!({"key": format!("{}{key}", prefix()), "value_b64": value, "revision": 1})
        })
        .collect();
    let (mut stale, entries): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row["key"].as_str().unwrap().ends_with("m-small-1"));
    stale[0]["since_unix_secs"] = 1_789_999_000.into();
    let published =
        serde_json::json!({"version": 1, "revision": 90_210, "entries": entries, "stale": stale});
    let path = first.state().join("config_cache.json");
    fs::write(&path, published.to_string()).unwrap();
    cloud.stop();
    let _hole = BlackHole::at(cloud.address());

    let gateway = deciding_by_itself(Builder::after(&first, &cloud)).start().await;
    assert_eq!(status_with(&gateway, projection::CALLER_KEY).await, 200);
    let status = gateway.status_config().await;
    assert_eq!(status["applied"]["applied_revision"], 90_210, "{status}");
    assert_eq!(status["rejected"][0]["resource_id"], "m-small-1", "{status}");
    assert_eq!(status["rejected"][0]["serving_stale_since"], "2026-09-21T13:56:40Z");
    gateway.wait_until_kept(90_210).await;
    let marker = first.state().join("config_cache.json.published");
    wait::until("the content is gone", async || match fs::metadata(&marker) {
        Ok(left) if left.len() == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for path in files(&first.state()) {
        // A file that was being written has another name by now, and is read under that.
        let Ok(content) = fs::read(&path) else { continue };
        assert!(!content.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "{path:?}");
    }
    assert!(fs::read(&path).unwrap().starts_with(b"aisix-snapshot1"));
}

#[tokio::test]
async fn without_a_place_for_a_snapshot_none_is_written() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let gateway =
        Builder::managed(&cloud).set("/managed/snapshot_cache_path", "".into()).start().await;
    assert_eq!(status_with(&gateway, projection::CALLER_KEY).await, 200);
    assert!(gateway.status_managed().await["snapshot"].is_null());
    let names: Vec<_> = files(&gateway.state());
    let kept = |path: &PathBuf| path.to_string_lossy().contains("config_cache");
    assert!(!names.iter().any(kept), "{names:?}");
}

/// A small file system of its own over a folder, where we may mount one.
struct Disk(PathBuf);

impl Disk {
    fn over(folder: &Path, bytes: u64) -> Option<Self> {
        let disk = Self(folder.to_owned());
        let options = format!("size={bytes},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            std::mem::forget(disk);
            println!("skipped: file systems cannot be mounted here");
            return None;
        }
        Some(disk)
    }

    fn read_only(&self, on: bool) {
        let options = if on { "remount,ro" } else { "remount,rw" };
        let status = Command::new("mount").args(["-o", options]).arg(&self.0).status();
        assert!(status.expect("mount runs").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn usable(gateway: &Gateway, caller_key: &str) {
    wait::until(&format!("{caller_key} is usable"), async || {
        let status = status_with(gateway, caller_key).await;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

async fn settled(gateway: &Gateway) {
    wait::until("the finding is settled", async || {
        let told = gateway.finding("snapshot").await;
        if told.is_empty() { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test]
async fn on_a_full_disk_traffic_goes_on_and_everything_is_written_once_there_is_room() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let revision = etcd.project(&prefix(), &Projection::of(&upstream)).await;
    let cloud = Cloud::over(&etcd).await;
    let builder = Builder::managed(&cloud);
    let state = builder.state();
    let Some(_disk) = Disk::over(&state, 4 << 20) else { return };
    let gateway = builder.start().await;
    gateway.wait_until_kept(revision).await;
    let mut site = Site { upstream, etcd, cloud, gateway };

    let filler = state.join("spool.filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let key = format!("{}api_keys/k-2", prefix());
    let large = format!("{}{}", "sk-two", "x".repeat(16 * 1024));
    let mut document = projection::api_key("sk-two", &["*"]);
    document["display_name"] = large.into();
    site.etcd.put(&key, &document).await;
    usable(&site.gateway, "sk-two").await;
    let told = wait::until("it is told", async || {
        let told = site.gateway.finding("snapshot").await;
        if told.is_empty() { Err("nothing") } else { Ok(told) }
    })
    .await;
    let path = site.snapshot().display().to_string();
    for part in [path.as_str(), "No space left on device", "free some disk"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    fs::remove_file(&filler).unwrap();
    settled(&site.gateway).await;
    let (mut gateway, _hole) = site.restart_offline(|_| {}).await;
    gateway.wait_until_ready().await;
    assert_eq!(status_with(&gateway, "sk-two").await, 200);
}

#[tokio::test]
async fn on_a_disk_that_is_read_only_traffic_goes_on_and_the_snapshot_is_served() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let revision = etcd.project(&prefix(), &Projection::of(&upstream)).await;
    let cloud = Cloud::over(&etcd).await;
    let builder = Builder::managed(&cloud);
    let Some(disk) = Disk::over(&builder.state(), 8 << 20) else { return };
    let mut first = builder.start().await;
    first.wait_until_kept(revision).await;
    first.kill_at_once().await;
    disk.read_only(true);
    let second = Builder::after(&first, &cloud).start().await;
    assert_eq!(status_with(&second, projection::CALLER_KEY).await, 200);
    let document = projection::api_key("sk-two", &["*"]);
    etcd.put(&format!("{}api_keys/k-2", prefix()), &document).await;
    let told = wait::until("it is told", async || {
        let told = second.finding("snapshot").await;
        if told.contains("cannot be written") { Ok(told) } else { Err(told) }
    })
    .await;
    let path = first.state().join("config_cache.json").display().to_string();
    assert!(told.contains(&path) && told.contains("Read-only file system"), "{told}");
    usable(&second, "sk-two").await;
}

#[tokio::test]
async fn modes_that_are_too_wide_are_repaired_and_told() {
    let mut site = Site::start().await;
    let state = site.gateway.state();
    let (mut gateway, _hole) = site
        .restart_offline(|path| {
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
            fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        })
        .await;
    gateway.wait_until_ready().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    wait::until("modes are repaired", async || {
        let modes = (mode(&state), mode(&state.join("config_cache.json")));
        if modes == (0o700, 0o600) { Ok(()) } else { Err(format!("{modes:?}")) }
    })
    .await;
    assert!(gateway.log().contains("had the mode 644; it is 600 now"));
}
