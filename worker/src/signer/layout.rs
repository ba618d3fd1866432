//! Which bytes are signed at all: those that a server signs in a TLS handshake, to the byte. Pure.
//!
//! ```text
//! TLS 1.3 (RFC 8446, 4.4.3)    64 spaces · "TLS 1.3, server CertificateVerify" · 0 · transcript hash of 32 or 48 bytes
//! TLS 1.2 (RFC 8422, 5.4)      client random 32 · server random 32 · 3 · named group u16 · length u8 · point
//! ```
//! The two cannot be taken for each other, whatever the randoms are: behind 64 bytes one has a `T`, the other a 3. What a
//! client signs has another text; a token, a certificate or a request for one begin differently and are longer or shorter.

use shared::signing::{KeyKind, scheme};

/// What stands before the text of TLS 1.3.
const PADDING: [u8; 64] = [0x20; 64];
/// Who signs, and the byte that separates it from the hash.
const SERVER: &[u8] = b"TLS 1.3, server CertificateVerify\0";
/// Lengths of the hashes that cipher suites of TLS 1.3 have: SHA-256 and SHA-384.
const HASHES: [usize; 2] = [32, 48];

/// Both randoms of TLS 1.2.
const RANDOMS: usize = 64;
/// The curve is named, not described.
const NAMED_CURVE: u8 = 3;
/// Groups by number, with the length of a point: P-256, P-384 (both uncompressed), X25519.
const GROUPS: [(u16, usize); 3] = [(23, 65), (24, 97), (29, 32)];
/// An uncompressed point begins with it.
const UNCOMPRESSED: u8 = 4;
/// The group whose points have no form in front.
const X25519: u16 = 29;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A server's `CertificateVerify` of TLS 1.3.
    Tls13,
    /// A server's `ServerKeyExchange` of TLS 1.2.
    Tls12,
}

impl Layout {
    /// What `message` is; `None` if nothing that a server signs.
    pub fn of(message: &[u8]) -> Option<Self> {
        if is_certificate_verify(message) {
            Some(Self::Tls13)
        } else if is_key_exchange(message) {
            Some(Self::Tls12)
        } else {
            None
        }
    }

    /// Whether a key of that kind may sign such a message in that scheme.
    pub fn fits(self, kind: KeyKind, scheme: u16) -> bool {
        let is_pkcs1 = scheme::RSA_PKCS1.contains(&scheme);
        kind.schemes().contains(&scheme) && (self == Self::Tls12 || !is_pkcs1)
    }
}

fn is_certificate_verify(message: &[u8]) -> bool {
    let hash = message.strip_prefix(&PADDING).and_then(|rest| rest.strip_prefix(SERVER));
    hash.is_some_and(|hash| HASHES.contains(&hash.len()))
}

fn is_key_exchange(message: &[u8]) -> bool {
    let Some((_, parameters)) = message.split_at_checked(RANDOMS) else { return false };
    let [NAMED_CURVE, high, low, length, point @ ..] = parameters else { return false };
    let group = u16::from_be_bytes([*high, *low]);
    GROUPS.iter().any(|(known, bytes)| {
        let has_form = group == X25519 || point.first() == Some(&UNCOMPRESSED);
        group == *known && usize::from(*length) == *bytes && point.len() == *bytes && has_form
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tls13(hash: usize) -> Vec<u8> {
        [&PADDING, SERVER, &vec![7; hash]].concat()
    }

    fn tls12(group: u16, bytes: usize) -> Vec<u8> {
        let mut message = vec![0xab; RANDOMS];
        message.push(NAMED_CURVE);
        message.extend(group.to_be_bytes());
        message.push(u8::try_from(bytes).unwrap());
        let mut point = vec![0xcd; bytes];
        if group != X25519 {
            point[0] = UNCOMPRESSED;
        }
        message.extend(point);
        message
    }

    fn all() -> Vec<Vec<u8>> {
        let groups = GROUPS.iter().map(|(group, bytes)| tls12(*group, *bytes));
        HASHES.iter().map(|hash| tls13(*hash)).chain(groups).collect()
    }

    #[test]
    fn what_a_server_signs_is_known_for_what_it_is() {
        for hash in HASHES {
            assert_eq!(Layout::of(&tls13(hash)), Some(Layout::Tls13));
        }
        for (group, bytes) in GROUPS {
            assert_eq!(Layout::of(&tls12(group, bytes)), Some(Layout::Tls12));
        }
    }

    #[test]
    fn a_message_that_was_cut_or_extended_is_nothing() {
        for message in all() {
            for length in 0..message.len() {
                // A hash of 48 bytes that was cut to 32 is a hash of 32 bytes.
                let is_shorter_hash = message == tls13(48) && length == tls13(32).len();
                assert_eq!(Layout::of(&message[..length]).is_some(), is_shorter_hash, "{length}");
            }
            for more in 1..=64 {
                let longer = [message.clone(), vec![7; more]].concat();
                let is_longer_hash = message == tls13(32) && more == 16;
                assert_eq!(Layout::of(&longer).is_some(), is_longer_hash, "{more}");
            }
        }
    }

    #[test]
    fn one_wrong_byte_in_what_is_fixed_makes_it_nothing() {
        for at in 0..PADDING.len() + SERVER.len() {
            let mut message = tls13(32);
            message[at] ^= 1;
            assert_eq!(Layout::of(&message), None, "{at}");
        }
        for (group, bytes) in GROUPS {
            let fixed = if group == X25519 { 4 } else { 5 };
            for at in RANDOMS..RANDOMS + fixed {
                let mut message = tls12(group, bytes);
                message[at] ^= 0x40;
                assert_eq!(Layout::of(&message), None, "{group} {at}");
            }
        }
    }

    #[test]
    fn no_other_use_of_a_key_is_taken_for_a_handshake() {
        let client = b"TLS 1.3, client CertificateVerify\0";
        let exporter = b"TLS 1.3, server CertificateVerifx\0";
        let token = b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9".to_vec();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        let request = params.serialize_request(&key).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let explicit_curve = {
            let mut message = tls12(23, 65);
            message[RANDOMS] = 1;
            message
        };
        // Finite field Diffie-Hellman of TLS 1.2: a prime, a generator and a number, each with its length.
        let finite_field = [vec![1; RANDOMS], vec![1, 0], vec![9; 256], vec![0, 1, 2]].concat();
        let prehashed = vec![9; 32];
        for oracle in [
            [&PADDING[..], client, &[7; 32]].concat(),
            [&PADDING[..], exporter, &[7; 32]].concat(),
            [&PADDING[..63], SERVER, &[7; 32]].concat(),
            [&PADDING[..], b" ", SERVER, &[7; 32]].concat(),
            [&PADDING[..], &SERVER[..SERVER.len() - 1], &[7; 32]].concat(),
            [SERVER, &[7; 32]].concat(),
            tls13(0),
            tls13(20),
            tls13(64),
            tls12(25, 133),
            tls12(30, 56),
            tls12(23, 33),
            tls12(0x11ec, 120),
            explicit_curve,
            finite_field,
            token,
            request.der().to_vec(),
            certificate.der().to_vec(),
            b"ssh-userauth".to_vec(),
            prehashed,
            Vec::new(),
        ] {
            assert_eq!(Layout::of(&oracle), None, "{oracle:?}");
        }
    }

    #[test]
    fn randoms_that_look_like_the_padding_of_tls_1_3_change_nothing() {
        let mut message = tls12(29, 32);
        message[..RANDOMS].copy_from_slice(&PADDING);
        assert_eq!(Layout::of(&message), Some(Layout::Tls12));
    }

    #[test]
    fn a_scheme_must_be_the_keys_and_pkcs1_is_for_tls_1_2_only() {
        use KeyKind::{EcdsaP256, EcdsaP384, Ed25519, Rsa};
        for (layout, kind, scheme, fits) in [
            (Layout::Tls13, EcdsaP256, 0x0403, true),
            (Layout::Tls13, EcdsaP256, 0x0503, false),
            (Layout::Tls13, EcdsaP384, 0x0503, true),
            (Layout::Tls13, EcdsaP384, 0x0203, false),
            (Layout::Tls13, Ed25519, 0x0807, true),
            (Layout::Tls13, Ed25519, 0x0403, false),
            (Layout::Tls13, Rsa, 0x0804, true),
            (Layout::Tls13, Rsa, 0x0806, true),
            (Layout::Tls13, Rsa, 0x0401, false),
            (Layout::Tls12, Rsa, 0x0401, true),
            (Layout::Tls12, Rsa, 0x0805, true),
            (Layout::Tls12, Rsa, 0x0201, false),
            (Layout::Tls12, EcdsaP256, 0x0403, true),
            (Layout::Tls12, EcdsaP256, 0x0804, false),
        ] {
            assert_eq!(layout.fits(kind, scheme), fits, "{layout:?} {kind:?} {scheme:#x}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_nothing(message in prop::collection::vec(any::<u8>(), 0..400)) {
            // Of 2^32 random messages of the right length one may look like a key exchange.
            prop_assert_eq!(Layout::of(&message), None);
        }

        #[test]
        fn whatever_stands_in_the_variable_parts_the_layout_stays(
            randoms in prop::collection::vec(any::<u8>(), RANDOMS),
            hash in prop::collection::vec(any::<u8>(), 48),
        ) {
            let mut message = tls12(24, 97);
            message[..RANDOMS].copy_from_slice(&randoms);
            prop_assert_eq!(Layout::of(&message), Some(Layout::Tls12));
            let message = [&PADDING, SERVER, &hash].concat();
            prop_assert_eq!(Layout::of(&message), Some(Layout::Tls13));
        }
    }
}
