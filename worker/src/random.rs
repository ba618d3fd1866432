//! Ids that nobody can guess, without a system call for each.

use std::cell::RefCell;

use uuid::{Builder, Uuid};

const ID_BYTES: usize = 16;
/// Ids for which random bytes are drawn at a time.
const IDS: usize = 128;

/// Random bytes, each used once.
struct Drawn {
    bytes: [u8; ID_BYTES * IDS],
    used: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> =
        const { RefCell::new(Drawn { bytes: [0; ID_BYTES * IDS], used: IDS }) };
}

/// A random UUID (version 4).
pub fn random_uuid() -> Uuid {
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.used >= IDS {
            // Refused by no system that has started: otherwise one at a time, which says why.
            if getrandom::fill(&mut drawn.bytes).is_err() {
                return Uuid::new_v4();
            }
            drawn.used = 0;
        }
        let (ids, _) = drawn.bytes.as_chunks::<ID_BYTES>();
        let bytes = ids.get(drawn.used).copied();
        drawn.used += 1;
        bytes.map_or_else(Uuid::new_v4, |bytes| Builder::from_random_bytes(bytes).into_uuid())
    })
}

/// The same as text.
pub fn random_id() -> String {
    let mut text = Uuid::encode_buffer();
    String::from(&*random_uuid().hyphenated().encode_lower(&mut text))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_id_is_another_one_and_random() {
        let ids: HashSet<_> = (0..IDS * 3).map(|_| random_uuid()).collect();
        assert_eq!(ids.len(), IDS * 3);
        assert!(ids.iter().all(|id| id.get_version_num() == 4 && !id.is_nil()));
        let other = std::thread::spawn(|| (0..IDS).map(|_| random_uuid()).collect::<Vec<_>>());
        assert!(other.join().unwrap().iter().all(|id| !ids.contains(id)));
    }
}
