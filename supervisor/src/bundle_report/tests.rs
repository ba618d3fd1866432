//! The archive as a whole.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use time::OffsetDateTime;

use super::redact::Redactor;
use super::report::{ARCHIVE_BYTES_MAX, FILE_BYTES_MAX, Report};
use super::*;

fn unpacked(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    entries.collect()
}

fn report() -> Report {
    Report::new(Redactor::new(["swordfish".to_owned()].into()))
}

#[test]
fn everything_that_is_added_is_in_the_archive_without_secrets_and_in_the_manifest() {
    let mut report = report();
    report.add("a.txt", "the swordfish swims");
    report.missing("b.txt", "swordfish cannot be read");
    let archive = report.pack(OffsetDateTime::UNIX_EPOCH).unwrap();
    let files = unpacked(&archive.bytes);
    assert_eq!(files["aisix-report/a.txt"], "the (removed) swims");
    let manifest = &files["aisix-report/manifest.txt"];
    assert!(manifest.contains("a.txt  19 bytes"), "{manifest}");
    assert!(manifest.contains("b.txt: (removed) cannot be read"), "{manifest}");
    assert!(archive.summary("here").starts_with("here: 1 KiB\n  a.txt"));
}

#[test]
fn a_file_that_is_too_long_is_cut_and_what_cannot_be_packed_small_is_left_out() {
    let mut report = report();
    // What gets hardly smaller by packing, and looks like no secret.
    let mut random = vec![0; FILE_BYTES_MAX];
    for name in ["1", "2", "3", "4", "5"] {
        getrandom::fill(&mut random).unwrap();
        let text: String = random.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        report.add(name, &(text + "beyond"));
    }
    let archive = report.pack(OffsetDateTime::UNIX_EPOCH).unwrap();
    assert!(archive.bytes.len() <= ARCHIVE_BYTES_MAX);
    let files = unpacked(&archive.bytes);
    let manifest = &files["aisix-report/manifest.txt"];
    assert!(manifest.contains("too large") && manifest.contains("cut after"), "{manifest}");
    assert!(files.len() > 1 && files.values().all(|text| text.len() <= FILE_BYTES_MAX));
}

#[test]
fn the_name_of_the_archive_has_the_time_in_it() {
    let name = name(OffsetDateTime::from_unix_timestamp(1_893_456_061).unwrap());
    assert_eq!(name, "aisix-report-20300101T000101Z.tar.gz");
}

#[test]
fn a_file_that_is_there_is_not_replaced_and_a_new_one_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    write(&path, b"x").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let told = write(&path, b"y").unwrap_err().to_string();
    assert!(told.contains("report") && told.contains("--output"), "{told}");
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}
