//! Faults of the state directory.

use std::os::unix::fs::chown;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::*;
use crate::state::snapshot::file::{Moment, Writer};

#[test]
fn a_state_directory_that_is_missing_is_made_by_the_start_unless_it_cannot() {
    let mut site = Site::new();
    fs::remove_dir(site.path("state")).unwrap();
    assert_eq!(serious(&site.look()), []);
    // Nothing can be made below a file, nor below /proc, not even by root.
    site.put("file", "", 0o600);
    let at = site.path("file").display().to_string();
    site.set("AISIX_MANAGED__MTLS_DIR", &format!("{at}/mtls"));
    site.has("state-not-a-directory");
    site.set("AISIX_MANAGED__MTLS_DIR", "/proc/nowhere/state/mtls");
    let local = site.look();
    let codes: Vec<_> = serious(&local).iter().map(|finding| finding.fault.code).collect();
    assert!(codes.iter().all(|code| code.starts_with("state-")), "{codes:?}");
}

#[test]
fn a_directory_that_another_process_holds_is_told_with_the_process() {
    let site = Site::new();
    let file = fs::File::create(site.path("state/lock")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    let evidence = site.has("state-in-use");
    assert!(evidence.contains(&std::process::id().to_string()), "{evidence}");
    // The gateway that answers is who holds it.
    let status = Status { pid: std::process::id(), ..Status::default() };
    assert_eq!(serious(&site.look_at(&site.config(), Some(&status))), []);
    drop(lock);
    assert_eq!(serious(&site.look()), []);
}

#[test]
fn a_directory_that_everybody_may_write_is_told_with_its_mode() {
    let site = Site::new();
    fs::set_permissions(site.path("state"), Permissions::from_mode(0o777)).unwrap();
    assert!(site.has("state-open-to-everyone").contains("0777"));
}

#[test]
fn a_directory_of_another_user_is_told_with_both_users() {
    if !geteuid().is_root() {
        println!("skipped: only root can give files away");
        return;
    }
    let site = Site::new();
    site.start();
    chown(site.path("state/mtls/client.key"), Some(54_321), None).unwrap();
    let evidence = site.has("state-other-owner");
    assert!(evidence.contains("54321") && evidence.contains("root"), "{evidence}");
}

/// Writes a snapshot, as a gateway of that environment and prefix would.
fn snapshot(site: &Site, env_id: &str, prefix: &str) {
    let managed = site.managed();
    let (_, key) = crate::bundle::Bundle::open(&managed, site.now).unwrap();
    let path = site.path("state/config_cache.json");
    let mut writer = Writer::create(&path, &key, (env_id, prefix), 1, "build").unwrap();
    writer.append(Moment::default(), std::iter::empty()).unwrap();
}

#[test]
fn a_snapshot_of_another_environment_or_prefix_is_told() {
    let site = Site::new();
    snapshot(&site, "e-1", "/aisix/e-1/");
    assert_eq!(serious(&site.look()), []);
    snapshot(&site, "e-2", "/aisix/e-2/");
    assert!(site.has("state-foreign-environment").contains("e-2"));
    snapshot(&site, "e-1", "/other/e-1/");
    assert!(site.has("state-foreign-prefix").contains("/other/e-1/"));
}

#[test]
fn a_snapshot_that_is_damaged_is_told() {
    let site = Site::new();
    snapshot(&site, "e-1", "/aisix/e-1/");
    let path = site.path("state/config_cache.json");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(site.has("state-snapshot-damaged").contains("config_cache.json"));
}

#[test]
fn a_snapshot_that_cannot_be_read_is_told() {
    let site = Site::new();
    fs::create_dir(site.path("state/config_cache.json")).unwrap();
    site.has("state-snapshot-unreadable");
}

#[test]
fn what_was_sealed_under_a_key_that_is_gone_is_told() {
    let site = Site::new();
    snapshot(&site, "e-1", "/aisix/e-1/");
    let seal = "AAAA".repeat(30);
    site.put("state/mtls/seal", &seal, 0o600);
    let _ = fs::remove_dir_all(site.path("state/mtls/previous"));
    assert!(site.has("state-seal-lost").contains("opens under no key"));
}
