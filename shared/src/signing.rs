//! The listener's TLS key and who uses it: what a proxy worker and the signer say to each other, and what the supervisor
//! tells either of them.
//!
//! A worker asks for one signature at a time and by the id of a key; the frame's request id links the answer to it. The
//! signer answers everything it can read, in order, and signs only what a TLS handshake of a server consists of.
//!
//! | from → to | kind | body |
//! |---|---|---|
//! | worker → signer | 1 `Sign` | key id, signature scheme, message |
//! | signer → worker | 1 `Signature` | the signature |
//! | | 2 `Refused` | why not |
//!
//! Kinds are numbered for ever: a new message takes a new number.

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::frame::BODY_BYTES_MAX;
use crate::message::{Message, MessageError};
use crate::secret::Secret;

/// Which key: SHA-256 of the public key as it stands in the certificate (SubjectPublicKeyInfo, DER).
pub type KeyId = [u8; 32];

/// A private key, as DER, is no larger.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// What kind of key the certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

/// Signature schemes as TLS numbers them (RFC 8446, 4.2.3).
pub mod scheme {
    /// RSA PKCS #1 v1.5, TLS 1.2 only.
    pub const RSA_PKCS1: [u16; 3] = [0x0401, 0x0501, 0x0601];
    /// RSA-PSS with a key of the ordinary kind.
    pub const RSA_PSS: [u16; 3] = [0x0804, 0x0805, 0x0806];
    /// ECDSA on P-256 with SHA-256.
    pub const ECDSA_P256: u16 = 0x0403;
    /// ECDSA on P-384 with SHA-384.
    pub const ECDSA_P384: u16 = 0x0503;
    /// Ed25519.
    pub const ED25519: u16 = 0x0807;
}

impl KeyKind {
    /// What such a key signs with, the preferred scheme first. Those of PKCS #1 are for TLS 1.2 only.
    pub const fn schemes(self) -> &'static [u16] {
        match self {
            Self::EcdsaP256 => &[scheme::ECDSA_P256],
            Self::EcdsaP384 => &[scheme::ECDSA_P384],
            Self::Ed25519 => &[scheme::ED25519],
            Self::Rsa => &[0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601],
        }
    }
}

/// How a private key is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyForm {
    /// `PRIVATE KEY`.
    Pkcs8,
    /// `EC PRIVATE KEY`.
    Sec1,
    /// `RSA PRIVATE KEY`.
    Pkcs1,
}

/// A key for the signer. The key itself, as DER, comes along as sealed memory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SigningKey {
    /// Counts the pairs of certificate and key that have been in force or are about to be.
    pub number: u64,
    /// Its name.
    pub id: KeyId,
    /// Its kind.
    pub kind: KeyKind,
    /// How it is written down.
    pub form: KeyForm,
    /// Whether handshakes of TLS 1.2 are signed too.
    pub tls12: bool,
}

/// What a proxy worker shows to callers, in sealed memory.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ListenerCertificate {
    /// The certificate and its issuers, as DER, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Its key, which only the signer has.
    pub key: KeyId,
    /// The key's kind.
    pub kind: KeyKind,
    /// Whether TLS 1.2 is spoken too.
    pub tls12: bool,
    /// What session tickets are sealed with: the first seals, all of them open.
    pub tickets: Vec<TicketKey>,
}

/// A key of session tickets, the same in every worker, so that a session resumes on any of them.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct TicketKey {
    /// Stands in front of each ticket.
    pub name: [u8; 16],
    /// The key itself.
    pub key: Secret<[u8; 32]>,
}

/// What a worker asks for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sign {
    /// With which key.
    pub key: KeyId,
    /// In which scheme.
    pub scheme: u16,
    /// What: not hashed.
    pub message: Vec<u8>,
}

/// Why the signer does not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// It has no such key.
    #[error("it has no such key")]
    UnknownKey,
    /// The message is not one that a server signs in a handshake.
    #[error("the message is not part of a handshake")]
    Layout,
    /// The scheme is not the key's, or not one for such a message.
    #[error("the scheme does not fit")]
    Scheme,
    /// This client asks too often.
    #[error("too many signatures were asked for")]
    RateLimited,
    /// The key refused, which is nobody's fault.
    #[error("signing failed")]
    Failed,
}

/// What a proxy worker may say to the signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSigner {
    /// Asks for a signature.
    Sign(Sign),
}

/// What the signer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSigner {
    /// The signature asked for.
    Signature(Vec<u8>),
    /// There is none, for this reason.
    Refused(Refusal),
}

fn body<T: Decode<()>>(kind: u16, bytes: &[u8]) -> Result<T, MessageError> {
    codec::decode::<T, BODY_BYTES_MAX>(bytes).map_err(|source| MessageError::Body { kind, source })
}

impl Message for ToSigner {
    fn kind(&self) -> u16 {
        match self {
            Self::Sign(_) => 1,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Sign(sign) => codec::encode(sign),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        match kind {
            1 => body(kind, bytes).map(Self::Sign),
            _ => Err(MessageError::UnknownKind(kind)),
        }
    }
}

impl Message for FromSigner {
    fn kind(&self) -> u16 {
        match self {
            Self::Signature(_) => 1,
            Self::Refused(_) => 2,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Signature(signature) => codec::encode(signature),
            Self::Refused(refusal) => codec::encode(refusal),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        match kind {
            1 => body(kind, bytes).map(Self::Signature),
            2 => body(kind, bytes).map(Self::Refused),
            _ => Err(MessageError::UnknownKind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn questions() -> Vec<ToSigner> {
        vec![ToSigner::Sign(Sign { key: [7; 32], scheme: 0x0403, message: vec![1, 2] })]
    }

    fn answers() -> Vec<FromSigner> {
        let refused = [Refusal::UnknownKey, Refusal::Failed].map(FromSigner::Refused);
        [vec![FromSigner::Signature(vec![9, 8])], refused.to_vec()].concat()
    }

    fn golden<M: Message>(messages: &[M]) -> Vec<String> {
        let hex = |message: &M| -> String {
            message.encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        messages.iter().map(|message| format!("{} {}", message.kind(), hex(message))).collect()
    }

    /// An old worker and a new signer meet during an upgrade: these bytes never change.
    #[test]
    fn the_bytes_of_every_message_are_the_released_ones() {
        assert_eq!(golden(&questions()), [format!("1 {}fb0304020102", "07".repeat(32))]);
        assert_eq!(golden(&answers()), ["1 020908", "2 00", "2 04"]);
    }

    fn survives_every_damage<M: Message + PartialEq + std::fmt::Debug>(messages: Vec<M>) {
        for message in messages {
            let mut bytes = message.encode().unwrap();
            assert_eq!(M::decode(message.kind(), &bytes).unwrap(), message);
            for length in 0..bytes.len() {
                assert!(M::decode(message.kind(), &bytes[..length]).is_err(), "{message:?}");
            }
            bytes.push(0);
            assert!(M::decode(message.kind(), &bytes).is_err(), "{message:?} and a byte");
        }
    }

    #[test]
    fn a_message_that_was_cut_or_extended_is_refused() {
        survives_every_damage(questions());
        survives_every_damage(answers());
    }

    proptest! {
        #[test]
        fn no_body_can_panic_the_decoder(kind in 0..4u16, body: Vec<u8>) {
            let _ = ToSigner::decode(kind, &body);
            let _ = FromSigner::decode(kind, &body);
        }
    }
}
