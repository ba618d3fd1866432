//! What becomes of the data key when files beside it are lost, torn or put back.

use super::*;

fn opened(gateway: &Gateway) -> (Bundle, DataKey) {
    Bundle::open(&gateway.managed, now()).unwrap()
}

/// Files that were moved aside.
fn lost(gateway: &Gateway) -> Vec<PathBuf> {
    let entries = fs::read_dir(&gateway.managed.mtls_dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("seal.lost-")).collect()
}

#[test]
fn a_good_supplied_bundle_is_kept_over_a_torn_one_and_the_data_key_with_it() {
    let ca = Ca::new();
    let old = dated(&ca, -5, 90, &NAMES);
    let half = old.key.expose().split_at(80).0.as_bytes().to_vec();
    for torn in [half, b"torn \xff\xfe".to_vec(), Vec::new()] {
        for is_same in [true, false] {
            let mut gateway = Gateway::after(&old);
            let (_, before) = opened(&gateway);
            fs::write(gateway.managed.mtls_dir.join("client.key"), &torn).unwrap();
            let supplied = if is_same { old.clone() } else { dated(&ca, -1, 90, &NAMES) };
            gateway.supply(&supplied);
            let (bundle, after) = opened(&gateway);
            assert_eq!(bundle.parts(), supplied);
            assert_eq!(after == before, is_same, "the same client key opens what was sealed");
            let told = bundle.lasting.join("; ");
            assert_eq!(told.contains("seal.lost-"), !is_same, "{told}");
            assert_eq!(bundle.unkept, None);
            gateway.managed.bundle = BundleSource::Persisted;
            let (kept, again) = opened(&gateway);
            assert!(kept.parts() == supplied && again == after && kept.lasting.is_empty());
        }
    }
}

#[test]
fn a_bundle_put_back_without_its_seal_still_opens_what_was_sealed() {
    let ca = Ca::new();
    let mut gateway = Gateway::after(&dated(&ca, -5, 90, &NAMES));
    let (_, before) = opened(&gateway);
    gateway.supply(&dated(&ca, -1, 90, &NAMES));
    assert!(opened(&gateway).1 == before);
    gateway.managed.bundle = BundleSource::Persisted;
    let mtls = &gateway.managed.mtls_dir;
    for name in ["client.crt", "client.key", "ca.crt"] {
        fs::copy(mtls.join("previous").join(name), mtls.join(name)).unwrap();
    }
    let (bundle, after) = opened(&gateway);
    assert!(after == before && bundle.lasting.is_empty(), "{:?}", bundle.lasting);
    assert!(opened(&gateway).1 == before);
}

#[test]
fn a_seal_that_nothing_opens_is_moved_aside_and_opens_again_when_it_is_put_back() {
    let gateway = Gateway::after(&Ca::new().good());
    let (_, before) = opened(&gateway);
    let seal = gateway.managed.mtls_dir.join("seal");
    // As it is where a credential of systemd was there, and is not at this start.
    let foreign = Secret::new(KeyPair::generate().unwrap().serialize_pem());
    let under = wrapping_keys(&foreign).unwrap();
    fs::write(&seal, before.wrap(&under[0]).unwrap()).unwrap();
    let wrapped = fs::read_to_string(&seal).unwrap();
    let (bundle, after) = opened(&gateway);
    assert!(after != before);
    let [aside] = <[PathBuf; 1]>::try_from(lost(&gateway)).unwrap();
    assert!(bundle.lasting[0].contains(&aside.display().to_string()), "{:?}", bundle.lasting);
    assert_eq!(fs::read_to_string(&aside).unwrap(), wrapped);
    assert!(opened(&gateway).1 == after, "the new one stays");
    let put_back = fs::read_to_string(&aside).unwrap();
    assert!(DataKey::unwrap(&put_back, &under[0]).unwrap() == before);
}

#[test]
fn a_seal_that_cannot_be_read_is_not_taken_for_none() {
    let gateway = Gateway::after(&Ca::new().good());
    let seal = gateway.managed.mtls_dir.join("seal");
    fs::remove_file(&seal).unwrap();
    // Whoever we are: a folder cannot be read as a file.
    fs::create_dir(&seal).unwrap();
    let (bundle, _) = opened(&gateway);
    assert!(bundle.lasting[0].contains("cannot be read"), "{:?}", bundle.lasting);
    assert_eq!(lost(&gateway).len(), 1);
    assert!(seal.is_file());
}
