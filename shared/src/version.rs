//! Which build this is, and how two sides settle on a protocol version.
//!
//! A hello is written in the oldest version that the worker speaks and carries the whole range. The supervisor chooses the
//! newest version that both speak and answers in it; where there is none, the worker is refused and the log says both ranges.
//! A major version changes when bytes that exist change their meaning. A new message, which an older side must not get, takes a
//! new kind in a new major version too, unless it may be skipped.

use bincode::{Decode, Encode};

/// Version text of the product. A packager who sets `BUILD_VERSION` while building (`1.4.2+sha-9f31c0d`) names the
/// commit as well; both binaries must carry the same text to work together.
pub const VERSION: &str = match option_env!("BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Protocol versions a side can speak: every major from `oldest` to `newest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Protocols {
    /// The oldest major version still understood.
    pub oldest: u16,
    /// The newest major version, the one that is preferred.
    pub newest: u16,
}

/// What this build speaks.
pub const PROTOCOLS: Protocols = Protocols { oldest: 2, newest: 2 };

impl std::fmt::Display for Protocols {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest {
            write!(formatter, "{newest}")
        } else {
            write!(formatter, "{oldest} to {newest}")
        }
    }
}

impl Protocols {
    /// Nothing but that version.
    pub const fn only(version: u16) -> Self {
        Self { oldest: version, newest: version }
    }

    /// Whether a version is among them.
    pub const fn include(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// The newest version that both sides speak, or `None` if their ranges do not meet.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_speak_is_chosen() {
        let new = Protocols { oldest: 2, newest: 4 };
        assert_eq!(new.common(Protocols { oldest: 1, newest: 3 }), Some(3));
        assert_eq!(new.common(Protocols { oldest: 3, newest: 9 }), Some(4));
        assert_eq!(new.common(Protocols { oldest: 1, newest: 1 }), None);
        assert_eq!(new.common(Protocols { oldest: 5, newest: 6 }), None);
    }
}
