//! What comes back after a restart, and what does not, whatever has happened to the files in between.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use tempfile::TempDir;

use super::file::{self, ReadError};
use super::generation::Generations;
use super::restore::From;
use super::*;
use crate::findings::Topic;
use crate::projection::last_good::LastGood;

const ENV: &str = "11111111-2222-3333-4444-555555555555";
const PREFIX: &str = "/aisix/11111111-2222-3333-4444-555555555555/";
const SECRET: &str = "sk-provider-secret";
/// Far beyond what any step takes.
const HANG: Duration = Duration::from_secs(60);

/// Where, at which revision, and the documents in force.
type Found = (From, i64, Vec<(String, String)>);

struct Directory {
    folder: TempDir,
    key: DataKey,
    findings: Findings,
    previous_interval: Duration,
}

impl Directory {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mtls")).unwrap();
        let (key, findings) = (DataKey::generate().unwrap(), Findings::default());
        Self { folder, key, findings, previous_interval: PREVIOUS_INTERVAL }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config_cache.json")
    }

    fn place(&self) -> Place {
        self.place_of(ENV)
    }

    fn place_of(&self, env_id: &str) -> Place {
        let (path, mtls) = (self.path(), self.folder.path().join("mtls"));
        let place = Place::new(&path, &mtls, self.key.clone(), env_id, PREFIX);
        Place { previous_interval: self.previous_interval, ..place }
    }

    fn start(&self) -> Snapshot {
        Snapshot::start(self.place(), self.findings.clone()).unwrap()
    }

    /// A run that keeps exactly this and ends.
    fn run(&self, revision: i64, documents: &[(&str, &str)]) {
        let snapshot = self.start();
        snapshot.load();
        snapshot.keep_all(changed(revision, documents));
        snapshot.finish(HANG);
    }

    /// A run that adds this to what is there.
    fn add(&self, revision: i64, documents: &[(&str, &str)]) {
        let snapshot = self.start();
        snapshot.load();
        snapshot.keep(changed(revision, documents));
        snapshot.finish(HANG);
    }

    /// What the next start finds.
    fn found(&self) -> Option<Found> {
        let restored = restore::open(&self.place(), 0).restored?;
        let documents = restored.documents.into_iter().map(|(key, record)| {
            let text = record.kept.in_force().unwrap_or_default().to_vec();
            (String::from_utf8(key).unwrap(), String::from_utf8(text).unwrap())
        });
        Some((restored.from, restored.moment.revision, documents.collect()))
    }

    fn finding(&self) -> String {
        let list = self.findings.list();
        let found = list.into_iter().find(|(topic, _)| *topic == Topic::Snapshot);
        found.map(|(_, finding)| finding.text).unwrap_or_default()
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}provider_keys/{id}")
}

fn document(id: &str) -> String {
    format!(
        r#"{{"adapter":"openai","api_key":"{SECRET}","display_name":"{id}","provider":"openai"}}"#
    )
}

fn changed(revision: i64, documents: &[(&str, &str)]) -> Changed {
    let mut set = LastGood::new(PREFIX);
    for (id, text) in documents {
        set.put(key(id).into_bytes(), text.as_bytes().to_vec(), 1);
    }
    let moment = Moment { revision, observed_at: 7, store: None };
    Changed { moment, documents: set.changed() }
}

fn one(id: &str) -> Vec<(String, String)> {
    vec![(key(id), document(id))]
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < HANG, "waited until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_kept_is_there_at_the_next_start_without_being_read_anew() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a")), ("b", &document("b"))]);
    let snapshot = directory.start();
    let restored = restore::open(&directory.place(), 0).restored.unwrap();
    assert_eq!((restored.from, restored.moment.revision), (From::Current, 5));
    assert_eq!(restored.documents.len(), 2);
    assert!(restored.documents.values().all(|record| record.read.is_some()));
    snapshot.keep(Changed {
        moment: Moment { revision: 6, observed_at: 9, store: None },
        documents: vec![(key("a").into_bytes(), None)],
    });
    snapshot.finish(HANG);
    assert_eq!(directory.found(), Some((From::Current, 6, one("b"))));
    assert_eq!(directory.finding(), "");
}

#[test]
fn another_build_reads_the_documents_anew() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    let place = Place { build: "another".to_owned(), ..directory.place() };
    let restored = restore::open(&place, 0).restored.unwrap();
    assert!(restored.documents.values().all(|record| record.read.is_none()));
}

#[test]
fn decisions_are_kept_with_the_documents_and_changed_alone() {
    let directory = Directory::new();
    let store = |changes: Vec<(&str, Option<&[u8]>)>| {
        let snapshot = directory.start();
        snapshot.load();
        let owned =
            changes.into_iter().map(|(id, value)| (id.to_owned(), value.map(<[u8]>::to_vec)));
        snapshot.store(owned.collect());
        snapshot
    };
    let snapshot = store(vec![("k-1", Some(b"allow")), ("k-2", Some(b"deny"))]);
    snapshot.keep_all(changed(5, &[("a", &document("a"))]));
    snapshot.finish(HANG);
    store(vec![("k-1", None), ("k-3", Some(b"allow"))]).finish(HANG);
    let kept = directory.start().load();
    let expected = [("k-2", &b"deny"[..]), ("k-3", b"allow")];
    let expected: Vec<_> =
        expected.map(|(id, value)| (id.to_owned(), value.to_vec())).into_iter().collect();
    assert_eq!(kept, expected);
    assert_eq!(directory.found(), Some((From::Current, 5, one("a"))));
}

#[test]
fn no_damage_is_served_wherever_it_is() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    directory.add(6, &[("a", &document("changed"))]);
    let whole = fs::read(directory.path()).unwrap();
    let before = fs::read(directory.place().previous).unwrap();
    let good = Some((From::Current, 6, vec![(key("a"), document("changed"))]));
    assert_eq!(directory.found(), good);
    let refused = Some((From::Previous, 5, one("a")));
    let with = |content: &[u8]| {
        fs::write(directory.path(), content).unwrap();
        fs::write(directory.place().previous, &before).unwrap();
        directory.found()
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        assert_eq!(with(&damaged), refused, "one bit of byte {at}");
        assert_eq!(with(&whole[..at]), refused, "cut off at {at}");
    }
    assert_eq!(with(&[&whole[..], b"left by an interrupted write"].concat()), good);
}

#[test]
fn an_older_file_put_back_alone_is_noticed() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    let older = fs::read(directory.path()).unwrap();
    directory.add(6, &[("b", &document("b"))]);
    fs::write(directory.path(), &older).unwrap();
    let snapshot = directory.start();
    snapshot.load();
    let told = directory.finding();
    assert!(told.contains("older") && told.contains("config_cache.json"), "{told}");
    assert_ne!(snapshot.status().restored_from, Some("current"));
    assert!(directory.folder.path().join("config_cache.json.damaged").exists());
    snapshot.finish(HANG);
}

#[test]
fn the_snapshot_of_another_environment_is_set_aside_and_not_used() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    let content = fs::read(directory.path()).unwrap();
    let other = "99999999-2222-3333-4444-555555555555";
    let opened = restore::open(&directory.place_of(other), 0);
    assert!(opened.restored.is_none());
    assert!(opened.troubles[0].contains(ENV) && opened.troubles[0].contains(other));
    let aside = directory.folder.path().join(format!("config_cache.json.{ENV}"));
    assert_eq!(fs::read(aside).unwrap(), content);
    assert!(!directory.path().exists());
}

#[test]
fn a_file_opens_under_its_own_key_and_environment_alone() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    let other_key = DataKey::generate().unwrap();
    let path = directory.path();
    let read = |key, env_id| file::read(&path, key, env_id, PREFIX);
    assert!(matches!(read(&other_key, ENV), Err(ReadError::Damaged(_))));
    assert!(matches!(read(&directory.key, "e"), Err(ReadError::OtherEnvironment(_))));
}

#[test]
fn the_snapshot_of_another_prefix_is_set_aside_and_written_anew() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    // A run under a mistaken prefix, which reads a store that holds nothing there, at a later revision.
    let mistaken = Place { prefix: "/mistaken/".to_owned(), ..directory.place() };
    let snapshot = Snapshot::start(mistaken, directory.findings.clone()).unwrap();
    snapshot.load();
    assert!(directory.finding().contains("/mistaken/"), "{}", directory.finding());
    assert_eq!(snapshot.status().restored_from, None);
    assert!(snapshot.wants_all());
    let moment = Moment { revision: 9, observed_at: 7, store: None };
    snapshot.keep_all(Changed { moment, documents: Vec::new() });
    snapshot.finish(HANG);
    // Corrected: nothing of that run is gone on with.
    let opened = restore::open(&directory.place(), 0);
    assert!(opened.writer.is_none() && opened.troubles[0].contains("other-prefix"));
    assert!(opened.restored.is_none_or(|restored| restored.moment.revision == 5));
}

#[tokio::test]
async fn where_nothing_came_back_in_time_everything_is_written_anew() {
    let (_keeper, restored) = oneshot::channel();
    let shared = Shared { restored: Mutex::new(Some(restored)), ..Shared::default() };
    let snapshot = Snapshot(Arc::new(shared));
    assert!(snapshot.restored(Duration::from_millis(1)).await.is_none());
    assert!(snapshot.wants_all());
    snapshot.wanted().await;
}

#[test]
fn nothing_of_a_document_is_on_disk_in_clear_and_modes_are_narrow() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    let mut files = 0;
    for folder in [directory.folder.path().to_owned(), directory.folder.path().join("mtls")] {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if !entry.path().is_file() {
                continue;
            }
            files += 1;
            let content = fs::read(entry.path()).unwrap();
            let clear = content.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
            assert!(!clear, "{:?}", entry.path());
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
    }
    assert!(files >= 2);
}

#[test]
fn the_published_snapshot_is_taken_over_once_and_its_content_is_gone() {
    use base64::Engine;
    let directory = Directory::new();
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let entry = |id: &str| serde_json::json!({"key": key(id), "value_b64": encoded(&document(id)), "revision": 3});
    let mut stale = entry("s");
    stale["since_unix_secs"] = 1_700_000_000.into();
    let foreign = serde_json::json!({"key": "/aisix/other/models/m", "value_b64": encoded("{}"), "revision": 1});
    let published = serde_json::json!({"version": 1, "revision": 9, "entries": [entry("a"), foreign], "stale": [stale]});
    fs::write(directory.path(), published.to_string()).unwrap();

    let restored = restore::open(&directory.place(), 50).restored.unwrap();
    assert_eq!((restored.from, restored.moment.revision), (From::Published, 9));
    let mut set = LastGood::new(PREFIX);
    for (key, record) in restored.documents {
        set.take_back(key, record.kept, record.read, 50);
    }
    assert_eq!(set.counts()["provider_keys"], 2);
    let (stale_key, rejection) = set.rejected().next().unwrap();
    assert_eq!(stale_key, key("s").as_bytes());
    assert_eq!(rejection.stale_since, Some(1_700_000_000));

    let snapshot = directory.start();
    snapshot.load();
    let moment = Moment { revision: 9, observed_at: 50, store: None };
    snapshot.keep_all(Changed { moment, documents: set.everything() });
    snapshot.finish(HANG);
    let aside = directory.folder.path().join("config_cache.json.published");
    assert_eq!(fs::metadata(aside).unwrap().len(), 0);
    let (from, revision, documents) = directory.found().unwrap();
    assert_eq!((from, revision, documents.len()), (From::Current, 9, 2));
    // And it stays stale.
    let restored = restore::open(&directory.place(), 60).restored.unwrap();
    let mut set = LastGood::new(PREFIX);
    for (key, record) in restored.documents {
        set.take_back(key, record.kept, record.read, 60);
    }
    assert_eq!(set.rejected().next().unwrap().1.stale_since, Some(1_700_000_000));
}

#[test]
fn a_published_snapshot_that_cannot_be_used_is_emptied_and_the_start_goes_on() {
    let other_version = r#"{"version":2,"revision":1,"entries":[]}"#;
    let no_base64 = r#"{"version":1,"revision":1,"entries":[{"key":"k","value_b64":"*"}]}"#;
    for content in ["", "{", "garbage sk-provider-secret", other_version, no_base64] {
        let directory = Directory::new();
        fs::write(directory.path(), content).unwrap();
        let opened = restore::open(&directory.place(), 0);
        assert!(opened.restored.is_none(), "{content}");
        assert!(opened.troubles[0].contains("ignored"), "{:?}", opened.troubles);
        assert!(!opened.troubles[0].contains(SECRET), "{:?}", opened.troubles);
        assert!(!directory.path().exists());
        let aside = directory.folder.path().join("config_cache.json.published");
        assert_eq!(fs::metadata(aside).unwrap().len(), 0);
    }
}

#[test]
fn a_disk_that_fails_is_a_finding_until_everything_is_written() {
    let directory = Directory::new();
    // In the place of the new file: it cannot be made, whoever we are.
    let blocker = directory.folder.path().join("config_cache.json.new");
    fs::create_dir(&blocker).unwrap();
    let snapshot = directory.start();
    snapshot.load();
    snapshot.keep_all(changed(5, &[("a", &document("a"))]));
    wait_until("it is told", || !directory.finding().is_empty());
    let told = directory.finding();
    assert!(told.contains("config_cache.json") && told.contains("tried again"), "{told}");
    assert!(snapshot.status().failures >= 1);
    fs::remove_dir(&blocker).unwrap();
    wait_until("everything is wanted", || snapshot.wants_all());
    snapshot.keep_all(changed(6, &[("a", &document("a"))]));
    wait_until("it is settled", || directory.finding().is_empty());
    snapshot.finish(HANG);
    assert_eq!(directory.found(), Some((From::Current, 6, one("a"))));
}

#[test]
fn a_gateway_leaves_the_snapshot_of_another_one_alone() {
    let (one, other) = (Directory::new(), Directory::new());
    one.run(5, &[("a", &document("a"))]);
    let _owner = crate::state::lock::StateLock::take(one.folder.path()).unwrap();
    let mtls = other.folder.path().join("mtls");
    let place = Place::new(&one.path(), &mtls, one.key.clone(), ENV, PREFIX);
    let snapshot = Snapshot::start(place, other.findings.clone()).unwrap();
    snapshot.load();
    snapshot.keep_all(changed(9, &[]));
    snapshot.finish(HANG);
    assert!(other.finding().contains("in use by process"), "{}", other.finding());
    assert_eq!(one.found().unwrap().1, 5);
}

#[test]
fn the_generation_before_is_appended_to_and_never_ahead_of_its_note() {
    let mut directory = Directory::new();
    directory.previous_interval = Duration::ZERO;
    let snapshot = directory.start();
    snapshot.load();
    snapshot.keep_all(changed(5, &[("a", &document("a"))]));
    wait_until("it is there", || snapshot.status().previous_generation > 0);
    let size = || fs::metadata(directory.place().previous).unwrap().len();
    let first = size();
    snapshot.keep(changed(6, &[("b", &document("b"))]));
    wait_until("it has grown", || snapshot.status().previous_generation == 2);
    assert!(size() > first);
    assert_eq!(size(), fs::metadata(directory.path()).unwrap().len());
    snapshot.finish(HANG);
    let note = Generations::read(&directory.place().note).unwrap();
    assert_eq!(note, Generations { current: 2, previous: 2 });
    fs::remove_file(directory.path()).unwrap();
    let (from, revision, documents) = directory.found().unwrap();
    assert_eq!((from, revision, documents.len()), (From::Previous, 6, 2));
}

#[test]
fn what_one_change_writes_does_not_depend_on_how_much_there_is() {
    let written = [1_000, 20_000].map(|count| {
        let directory = Directory::new();
        let mut set = LastGood::new(PREFIX);
        for id in 0..count {
            let id = format!("{id:06}");
            set.put(key(&id).into_bytes(), document(&id).into_bytes(), 1);
        }
        let snapshot = directory.start();
        snapshot.load();
        let moment = Moment { revision: 1, observed_at: 1, store: None };
        snapshot.keep_all(Changed { moment, documents: set.everything() });
        wait_until("all are written", || snapshot.status().previous_generation > 0);
        let before = snapshot.status();
        snapshot.keep(changed(2, &[("000007", &document("another"))]));
        wait_until("it is written", || snapshot.status().generation > before.generation);
        snapshot.finish(HANG);
        snapshot.status().written_bytes - before.written_bytes
    });
    println!("one change among 1,000 and 20,000 documents: {written:?} bytes");
    assert_eq!(written[0], written[1]);
}

#[test]
fn what_was_replaced_does_not_fill_the_disk() {
    let directory = Directory::new();
    let snapshot = directory.start();
    snapshot.load();
    let large = "x".repeat(1024 * 1024);
    let document = |n: usize| document(&format!("{n}{large}"));
    let all = |revision, n| changed(revision, &[("a", &document(n))]);
    snapshot.keep_all(all(1, 0));
    let mut largest = 0;
    for n in 1..40_i64 {
        let before = snapshot.status().generation;
        let changed = all(n, n as usize);
        if snapshot.wants_all() {
            snapshot.keep_all(changed)
        } else {
            snapshot.keep(changed)
        }
        wait_until("it is written", || snapshot.status().generation > before);
        largest = largest.max(snapshot.status().bytes);
    }
    snapshot.finish(HANG);
    println!("40 changes of 1 MiB: the file had at most {largest} bytes");
    assert!(largest < 30 * 1024 * 1024, "{largest}");
    assert_eq!(directory.found().unwrap().1, 39);
}

#[test]
fn a_hole_in_the_middle_is_noticed_without_a_note() {
    let directory = Directory::new();
    directory.run(5, &[("a", &document("a"))]);
    directory.add(6, &[("b", &document("b"))]);
    directory.add(7, &[("c", &document("c"))]);
    fs::remove_file(directory.place().note).unwrap();
    let _ = fs::remove_file(directory.place().previous);
    let file = fs::OpenOptions::new().write(true).open(directory.path()).unwrap();
    let size = file.metadata().unwrap().len();
    file.write_all_at(&[0; 16], size / 2).unwrap();
    assert_eq!(directory.found(), None);
}
