use std::fs;
use std::time::UNIX_EPOCH;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::*;

const DAY: u64 = 24 * 60 * 60;

fn at(day: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(day * DAY)
}

/// Puts a new pair, valid from day 100 to day 400, in the place of any before.
fn put(files: &ListenerFiles) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["gateway.example".to_owned()]).unwrap();
    params.not_before = OffsetDateTime::from(at(100));
    params.not_after = OffsetDateTime::from(at(400));
    fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
}

fn open() -> (TempDir, ListenerTls) {
    let folder = tempfile::tempdir().unwrap();
    let place = |name| folder.path().join(name);
    let files = ListenerFiles { certificate: place("tls.crt"), key: place("tls.key") };
    put(&files);
    let settings = ProxyTls { files, tls12: false };
    let tls = ListenerTls::open(&settings, at(200)).unwrap();
    (folder, tls)
}

impl ListenerTls {
    fn reread(&self) -> Option<Order> {
        self.judge(Pair::read(&self.settings.files, at(200)))
    }

    fn numbers(&self) -> Vec<u64> {
        self.keys().unwrap().iter().map(|(about, _)| about.number).collect()
    }

    fn shown(&self) -> ListenerCertificate {
        codec::decode_next(&mut memory::MemoryReader::new(self.certificate().unwrap())).unwrap()
    }
}

#[test]
fn workers_show_a_certificate_only_when_the_signer_has_its_key() {
    let (_folder, tls) = open();
    let first = tls.shown();
    assert_eq!(tls.reread(), None, "the same files are no change");
    put(&tls.settings.files);
    assert_eq!(tls.reread(), Some(Order::Key));
    assert_eq!(tls.shown(), first);
    assert_eq!(tls.numbers(), [1, 2], "a signer that starts now needs both");
    assert!(!tls.confirmed(1), "nor by a word about another key");
    assert_eq!(tls.shown(), first);
    assert!(tls.confirmed(2));
    let second = tls.shown();
    assert_ne!((second.key, &second.chain), (first.key, &first.chain));
    assert_eq!(tls.numbers(), [2]);
    assert!(!tls.confirmed(2), "once is enough");
}

#[test]
fn of_two_changes_in_a_row_the_later_one_counts() {
    let (_folder, tls) = open();
    put(&tls.settings.files);
    tls.reread();
    put(&tls.settings.files);
    assert_eq!(tls.reread(), Some(Order::Key));
    assert!(!tls.confirmed(2));
    assert!(tls.confirmed(3));
}

#[test]
fn files_that_are_not_good_change_nothing_and_are_told_until_they_are() {
    let (_folder, tls) = open();
    let before = tls.shown();
    assert_eq!(tls.finding(at(200)), None);
    let good = fs::read(&tls.settings.files.key).unwrap();
    fs::write(&tls.settings.files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    for _ in 0..3 {
        assert_eq!(tls.reread(), None);
    }
    let told = tls.finding(at(200)).unwrap();
    assert!(told.contains("stay in force") && told.contains("proxy.tls.key_file"), "{told}");
    assert_eq!(tls.state.borrow().reloads, BTreeMap::from([("key_mismatch", 1)]));
    assert_eq!((tls.shown(), tls.numbers()), (before, vec![1]));
    fs::write(&tls.settings.files.key, good).unwrap();
    assert_eq!(tls.reread(), None);
    assert_eq!(tls.finding(at(200)), None);
}

#[test]
fn a_certificate_that_ends_soon_or_has_ended_is_told() {
    let (_folder, tls) = open();
    assert_eq!(tls.finding(at(385)), None);
    let soon = tls.finding(at(387)).unwrap();
    assert!(soon.contains("expires on 1971-02-05") && soon.contains("no restart"), "{soon}");
    let over = tls.finding(at(401)).unwrap();
    assert!(over.contains("expired on 1971-02-05"), "{over}");
}

#[test]
fn tickets_open_with_the_key_before_and_no_longer() {
    let (_folder, tls) = open();
    let names = || tls.shown().tickets.iter().map(|ticket| ticket.name).collect::<Vec<_>>();
    tls.renew_tickets().unwrap();
    let first = names();
    tls.renew_tickets().unwrap();
    let second = names();
    assert_eq!((first.len(), second.len()), (1, 2));
    assert_eq!(second[1], first[0]);
    tls.renew_tickets().unwrap();
    assert_eq!(names().len(), 2);
    assert!(!names().contains(&first[0]));
}
