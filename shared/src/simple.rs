//! Text in which nobody has to escape anything, in a log or in JSON: printable ASCII without quotes and backslashes. Most text that is
//! passed on is so, and is looked at, and copied, eight bytes at a time.

/// Bytes at a time.
const WORD: usize = 8;

/// How many bytes there are before the first that is not simple.
pub fn simple_bytes(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<WORD>();
    let mut simple = 0_usize;
    for word in words {
        let others = others(*word);
        if others != 0 {
            return simple.saturating_add(first(others));
        }
        simple = simple.saturating_add(WORD);
    }
    let is_simple = |byte: &&u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    simple.saturating_add(rest.iter().take_while(is_simple).count())
}

/// Copies bytes up to the first that is not simple, and says how many. What is behind them in `to` may change, up to a word. `None` if there
/// is no room.
#[inline]
pub fn copy_simple(from: &[u8], to: &mut [u8]) -> Option<usize> {
    let mut simple = 0_usize;
    loop {
        let (word, is_last) = word(from.get(simple..)?);
        *to.get_mut(simple..)?.first_chunk_mut()? = word;
        let others = others(word);
        if others != 0 {
            return Some(simple.saturating_add(first(others)).min(from.len()));
        }
        if is_last {
            return Some(from.len());
        }
        simple = simple.saturating_add(WORD);
    }
}

/// Copies the first bytes of `from`, so many, if all of them are simple. What is behind them in `to` may change, up to a word. `None` if
/// they are not, or if there is no room.
#[inline]
pub fn copy_if_simple(from: &[u8], length: usize, to: &mut [u8]) -> Option<()> {
    let (mut done, mut wrong) = (0_usize, 0);
    while done < length {
        let (word, _) = word(from.get(done..)?);
        *to.get_mut(done..)?.first_chunk_mut()? = word;
        let beyond = done.saturating_add(WORD).saturating_sub(length);
        // What is behind the text in the last word is of no interest.
        let of_text = u64::MAX.wrapping_shr(u32::try_from(beyond.wrapping_mul(8)).unwrap_or(0));
        wrong |= others(word) & of_text;
        done = done.saturating_add(WORD);
    }
    (wrong == 0 && length <= from.len()).then_some(())
}

/// The first word, and whether there is nothing behind it. Where there is less than one it is filled up with what is simple.
#[inline]
fn word(bytes: &[u8]) -> ([u8; WORD], bool) {
    if let Some(word) = bytes.first_chunk() {
        return (*word, bytes.len() == WORD);
    }
    let mut word = [b' '; WORD];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    (word, true)
}

/// Where the first byte is that is not simple.
fn first(others: u64) -> usize {
    usize::try_from(others.trailing_zeros() / 8).unwrap_or(0)
}

/// The highest bit of each byte that is not simple. The lowest bit that is set is that of the first one; those above may be wrong.
#[inline]
fn others(word: [u8; WORD]) -> u64 {
    const EACH: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(word);
    let below = |word: u64, least: u64| word.wrapping_sub(EACH.wrapping_mul(least)) & !word;
    let is = |byte: u8| below(word ^ EACH.wrapping_mul(byte.into()), 1);
    let above = word | word.wrapping_add(EACH);
    (below(word, b' '.into()) | is(b'"') | is(b'\\') | above) & EACH.wrapping_mul(0x80)
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
            for place in 0..12 {
                for after in [b'a', 0, 0x1f, b'"', b'~', 0x7f, 0x80, 0xff] {
                    let mut bytes = [after; 20];
                    bytes[..place].fill(b'~');
                    bytes[place] = byte;
                    let simple = expected(&bytes);
                    assert_eq!(simple_bytes(&bytes), simple, "{byte} at {place}");
                    let mut copy = [1; 28];
                    assert_eq!(copy_simple(&bytes, &mut copy), Some(simple), "{byte} at {place}");
                    assert_eq!(copy[..simple], bytes[..simple]);
                    for length in 0..=20 {
                        let copied = copy_if_simple(&bytes, length, &mut copy).is_some();
                        assert_eq!(copied, length <= simple, "{byte} at {place}, {length}");
                    }
                }
            }
        }
    }

    proptest! {
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
            prop_assert!(copied == (length <= simple) || room < length + WORD);
            if copied {
                prop_assert_eq!(&copy[..length], &bytes[..length]);
            }
        }
    }
}
