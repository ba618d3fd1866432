//! Text in which nobody has to escape anything, in a log or in JSON: printable ASCII without quotes and backslashes. Most text that is
//! passed on is so, and is looked at, and copied, sixteen bytes at a time.

/// Bytes at a time.
const WORD: usize = 16;

/// How many bytes there are before the first that is not simple.
pub fn simple_bytes(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<WORD>();
    let mut simple = 0_usize;
    for word in words {
        let others = others(word);
        if others != 0 {
            return simple.saturating_add(first(others));
        }
        simple = simple.saturating_add(WORD);
    }
    simple.saturating_add(rest.iter().take_while(|byte| is_simple(**byte)).count())
}

/// Copies bytes up to the first that is not simple, and says how many. What is behind them in `to` may change, up to a word. `None` if there
/// is no room.
#[inline]
pub fn copy_simple(from: &[u8], to: &mut [u8]) -> Option<usize> {
    let mut simple = 0_usize;
    loop {
        let rest = from.get(simple..)?;
        let word = word(rest);
        *to.get_mut(simple..)?.first_chunk_mut()? = word;
        let others = others(&word);
        if others != 0 {
            return Some(simple.saturating_add(first(others)).min(from.len()));
        }
        if rest.len() <= WORD {
            return Some(from.len());
        }
        simple = simple.saturating_add(WORD);
    }
}

/// Copies the first bytes of `from`, so many, if all of them are simple. What is behind them in `to` may change, up to a word. `None` if
/// they are not, or if there is no room.
#[inline]
pub fn copy_if_simple(from: &[u8], length: usize, to: &mut [u8]) -> Option<()> {
    let (mut at, mut left) = (0_usize, length);
    while left > WORD {
        let word = from.get(at..)?.first_chunk()?;
        *to.get_mut(at..)?.first_chunk_mut()? = *word;
        if others(word) != 0 {
            return None;
        }
        (at, left) = (at.saturating_add(WORD), left.saturating_sub(WORD));
    }
    let rest = from.get(at..).filter(|rest| rest.len() >= left)?;
    let word = word(rest);
    *to.get_mut(at..)?.first_chunk_mut()? = word;
    // What is behind the text in the last word is of no interest.
    let others = others(&word);
    (others == 0 || first(others) >= left).then_some(())
}

/// Whether the first bytes, so many, are there and ASCII.
#[inline]
pub fn begins_with_ascii(bytes: &[u8], length: usize) -> bool {
    let (mut rest, mut left) = (bytes, length);
    while left > WORD {
        let Some((word, behind)) = rest.split_first_chunk() else { return false };
        if beyond_ascii(word) != 0 {
            return false;
        }
        (rest, left) = (behind, left.saturating_sub(WORD));
    }
    let others = beyond_ascii(&word(rest));
    rest.len() >= left && (others == 0 || first(others) >= left)
}

/// The first word. Where there is less than one it is filled up with what is simple.
#[inline]
fn word(bytes: &[u8]) -> [u8; WORD] {
    bytes.first_chunk().copied().unwrap_or_else(|| less_than_a_word(bytes))
}

#[cold]
fn less_than_a_word(bytes: &[u8]) -> [u8; WORD] {
    let mut word = [b' '; WORD];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    word
}

/// Where the first byte is that is not simple.
#[inline]
fn first(others: u128) -> usize {
    usize::try_from(others.trailing_zeros() / 8).unwrap_or(0)
}

#[inline]
const fn is_simple(byte: u8) -> bool {
    // Without a way out, so that many are looked at at a time.
    (byte.wrapping_sub(b' ') <= b'~' - b' ') & (byte != b'"') & (byte != b'\\')
}

/// The highest bit of each byte that is no ASCII.
#[inline(always)]
fn beyond_ascii(word: &[u8; WORD]) -> u128 {
    u128::from_le_bytes(*word) & u128::from_le_bytes([0x80; WORD])
}

/// All bits of each byte that is not simple.
#[inline(always)]
fn others(word: &[u8; WORD]) -> u128 {
    let mut others = [0; WORD];
    for (other, byte) in others.iter_mut().zip(word) {
        *other = if is_simple(*byte) { 0 } else { u8::MAX };
    }
    u128::from_le_bytes(others)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(bytes: &[u8]) -> usize {
        let is_simple = |byte: &u8| (b' '..=b'~').contains(byte) && !b"\"\\".contains(byte);
        bytes.iter().position(|byte| !is_simple(byte)).unwrap_or(bytes.len())
    }

    #[test]
    fn every_byte_that_is_not_simple_is_found_behind_and_before_every_other() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                for after in [b'a', 0, 0x1f, b'"', b'~', 0x7f, 0x80, 0xff] {
                    let mut bytes = [after; 24];
                    bytes[..place].fill(b'~');
                    bytes[place] = byte;
                    let simple = expected(&bytes);
                    assert_eq!(simple_bytes(&bytes), simple, "{byte} at {place}");
                    let mut copy = [1; 48];
                    assert_eq!(copy_simple(&bytes, &mut copy), Some(simple), "{byte} at {place}");
                    assert_eq!(copy[..simple], bytes[..simple]);
                    for length in 0..=26 {
                        let copied = copy_if_simple(&bytes, length, &mut copy).is_some();
                        assert_eq!(copied, length <= simple, "{byte} at {place}, {length}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_ascii_is_known_of_any_bytes(
            bytes in "[ -~]{0,40}".prop_map(String::into_bytes).boxed()
                .prop_union(any::<Vec<u8>>().boxed()),
            length in 0..50usize,
        ) {
            let is_ascii = bytes.get(..length).is_some_and(<[u8]>::is_ascii);
            prop_assert_eq!(begins_with_ascii(&bytes, length), is_ascii);
        }

        #[test]
        fn what_is_simple_is_known_and_copied_of_any_bytes(
            bytes in "[ -~]{0,40}".prop_map(String::into_bytes).boxed()
                .prop_union(any::<Vec<u8>>().boxed()),
            length in 0..50usize,
            room in 0..60usize,
        ) {
            let simple = expected(&bytes);
            prop_assert_eq!(simple_bytes(&bytes), simple);
            let mut copy = vec![1; room];
            let copied = copy_simple(&bytes, &mut copy);
            prop_assert!(copied.is_some_and(|it| it == simple) || room < simple + WORD);
            if copied.is_some() {
                prop_assert_eq!(&copy[..simple], &bytes[..simple]);
            }
            let mut copy = vec![1; room];
            let copied = copy_if_simple(&bytes, length, &mut copy).is_some();
            prop_assert!(copied == (length <= simple) || room < length + WORD && !copied);
            if copied {
                prop_assert_eq!(&copy[..length], &bytes[..length]);
            }
        }
    }
}
