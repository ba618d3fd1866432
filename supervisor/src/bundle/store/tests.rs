use std::cell::Cell;

use tempfile::TempDir;

use super::*;

thread_local! {
    /// Steps until the kill; `None` = none comes.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

pub fn step() -> io::Result<()> {
    match LEFT.get() {
        Some(0) => Err(io::Error::other("killed")),
        left => {
            LEFT.set(left.map(|left| left - 1));
            Ok(())
        }
    }
}

fn parts(text: &str) -> Parts {
    let [chain, key, roots] = ["chain", "key", "roots"].map(|part| format!("{part} {text}\n"));
    Parts { chain, key: Secret::new(key), roots }
}

fn keep(store: Store<'_>, text: &str) -> Result<(), StoreError> {
    store.keep(&bundle(text))
}

fn bundle(text: &str) -> Kept {
    let [env_id, dp_id, seal] = ["env", "dp", "seal"].map(|note| Some(format!("{note}-{text}")));
    Kept { parts: parts(text), env_id, dp_id, seal }
}

fn kept(text: &str) -> Option<Kept> {
    Some(bundle(text))
}

/// Runs `test` with a store in a folder of its own.
fn with_store(test: impl FnOnce(Store<'_>)) {
    let folder = TempDir::new().unwrap();
    let (mtls_dir, dp_id_file) = (folder.path().join("a/mtls"), folder.path().join("b/dp_id"));
    test(Store { mtls_dir: &mtls_dir, dp_id_file: &dp_id_file });
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_kept_is_read_back_with_exact_modes() {
    with_store(|store| {
        assert_eq!(store.read().unwrap(), None);
        keep(store, "1").unwrap();
        assert_eq!(store.read().unwrap(), kept("1"));
        assert_eq!(mode(store.mtls_dir), 0o700);
        assert_eq!(mode(store.dp_id_file), 0o600);
        for (name, expected) in
            [(ROOTS, 0o644), (CHAIN, 0o644), (KEY, 0o600), (ENV_ID, 0o600), (SEAL, 0o600)]
        {
            assert_eq!(mode(&store.mtls_dir.join(name)), expected, "{name}");
        }
        assert!(!store.mtls_dir.join(NEXT).exists());
        assert_eq!(fs::read_to_string(store.dp_id_file).unwrap(), "dp-1");
    });
}

#[test]
fn a_kill_at_any_step_of_a_replacement_leaves_exactly_one_usable_identity() {
    let (mut old, mut new) = (0, 0);
    for steps in 0.. {
        let mut ended = false;
        with_store(|store| {
            keep(store, "older").unwrap();
            keep(store, "old").unwrap();
            LEFT.set(Some(steps));
            ended = keep(store, "new").is_ok();
            LEFT.set(None);
            // Without writing anything, and after what a start writes.
            let read = store.read().unwrap();
            store.recover().unwrap();
            assert_eq!(store.read().unwrap(), read, "after {steps} steps");
            assert!(!store.mtls_dir.join(NEXT).exists());
            let before = if read == kept("new") { "old" } else { "older" };
            *(if read == kept("new") { &mut new } else { &mut old }) += 1;
            assert!(read == kept("new") || read == kept("old"), "after {steps} steps");
            assert_eq!(previous(store), kept(before), "after {steps} steps");
            keep(store, "newest").unwrap();
            assert_eq!(store.read().unwrap(), kept("newest"));
        });
        if ended {
            break;
        }
    }
    assert!(old > 20 && new > 10, "{old} kills left the old one, {new} the new one");
}

#[test]
fn a_kill_at_any_step_of_a_recovery_can_be_recovered_from() {
    for steps in 0..60 {
        with_store(|store| {
            keep(store, "old").unwrap();
            store.write(&bundle("new"), Some(&bundle("old"))).unwrap();
            LEFT.set(Some(steps));
            let recovered = store.recover().is_ok();
            LEFT.set(None);
            assert_eq!(store.read().unwrap(), kept("new"), "after {steps} steps");
            store.recover().unwrap();
            assert_eq!(store.read().unwrap(), kept("new"), "after {steps} steps");
            assert_eq!(previous(store), kept("old"));
            assert!(recovered || steps < 50, "a recovery takes fewer steps");
        });
    }
}

/// What is kept of the bundle before.
fn previous(store: Store<'_>) -> Option<Kept> {
    let folder = store.mtls_dir.join(PREVIOUS);
    assert_eq!((mode(&folder), mode(&folder.join(KEY))), (0o700, 0o600));
    Store { mtls_dir: &folder, dp_id_file: &folder.join(DP_ID) }.read().unwrap()
}

#[test]
fn the_same_bundle_is_not_written_again() {
    with_store(|store| {
        keep(store, "1").unwrap();
        let written = || fs::metadata(store.mtls_dir.join(KEY)).unwrap().modified().unwrap();
        let first = written();
        keep(store, "1").unwrap();
        assert_eq!(written(), first);
    });
}

#[test]
fn a_key_that_every_user_can_read_is_told_and_repaired() {
    with_store(|store| {
        keep(store, "1").unwrap();
        assert_eq!(store.tighten(), None);
        let key = store.mtls_dir.join(KEY);
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let told = store.tighten().unwrap();
        assert!(told.contains("client.key") && told.contains("644"), "{told}");
        assert_eq!(mode(&key), 0o600);
    });
}

#[test]
fn a_place_that_cannot_be_written_is_named_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let store = Store { mtls_dir: &file.join("mtls"), dp_id_file: &file.join("dp_id") };
    let told = keep(store, "1").unwrap_err().to_string();
    assert!(told.contains("/file/mtls") && told.contains("Not a directory"), "{told}");
}
