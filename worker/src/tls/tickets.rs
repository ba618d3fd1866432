//! Session tickets that every worker of the node can open.
//!
//! ```text
//! ticket = name of the key 16 · nonce 12 · sealed session (AES-256-GCM-SIV, bound to the name)
//! ```
//! The nonce is random and several workers use one key, which this cipher forgives even should two be the same.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use shared::signing::TicketKey;

/// How long a session may resume: as long as the keys of its ticket are known, which the supervisor decides.
const LIFETIME_SECONDS: u32 = 6 * 60 * 60;
/// No session takes more; what is longer is not one of ours.
const TICKET_BYTES_MAX: usize = 16 * 1024;

const NAME_BYTES: usize = 16;

/// Keys by name, the one that seals first.
pub struct Tickets(Vec<([u8; NAME_BYTES], RandomizedNonceKey)>);

impl fmt::Debug for Tickets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tickets")
    }
}

impl Tickets {
    /// Tickets of these keys. `None` if one cannot be used.
    pub fn new(keys: &[TicketKey]) -> Option<Self> {
        let key = |told: &TicketKey| {
            let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, told.key.expose()).ok()?;
            Some((told.name, key))
        };
        keys.iter().map(key).collect::<Option<Vec<_>>>().map(Self)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.0.is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (name, key) = self.0.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([name, nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if cipher.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = cipher.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let (name, key) = self.0.iter().find(|(known, _)| known == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = key.open_in_place(nonce, Aad::from(name), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use shared::secret::Secret;

    use super::*;

    fn key(number: u8) -> TicketKey {
        TicketKey { name: [number; 16], key: Secret::new([number; 32]) }
    }

    #[test]
    fn a_ticket_opens_in_every_worker_that_knows_its_key_and_in_no_other() {
        let sealed = Tickets::new(&[key(1)]).unwrap().encrypt(b"session").unwrap();
        let after_a_change = Tickets::new(&[key(2), key(1)]).unwrap();
        assert_eq!(after_a_change.decrypt(&sealed).unwrap(), b"session");
        assert_eq!(Tickets::new(&[key(2)]).unwrap().decrypt(&sealed), None);
        let newer = after_a_change.encrypt(b"session").unwrap();
        assert_eq!(Tickets::new(&[key(2)]).unwrap().decrypt(&newer).unwrap(), b"session");
    }

    #[test]
    fn a_ticket_with_a_wrong_byte_or_length_opens_nothing() {
        let tickets = Tickets::new(&[key(1)]).unwrap();
        let sealed = tickets.encrypt(b"session").unwrap();
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(tickets.decrypt(&damaged), None, "{at}");
            assert_eq!(tickets.decrypt(&sealed[..at]), None, "{at}");
        }
        assert_eq!(tickets.decrypt(&[sealed, vec![0]].concat()), None);
        assert_eq!(tickets.decrypt(&vec![1; TICKET_BYTES_MAX + 1]), None);
    }
}
