//! The environment fence: a client reads keys of its own environment and no others.
//!
//! The trailing slash is part of the fence, so that no environment reads those whose names begin with its own.

use bytes::Bytes;

/// The keys of one environment.
#[derive(Clone, Debug)]
pub struct Fence {
    prefix: Bytes,
    end: Vec<u8>,
}

/// A range that reaches outside.
#[derive(Debug, thiserror::Error)]
#[error("permission denied: ask for keys under {prefix} (with its trailing slash)")]
pub struct OutsideFence {
    prefix: String,
}

impl Fence {
    /// The fence around all keys that begin with `prefix`, which ends with a slash.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            end: prefix_end(prefix.as_bytes()),
        }
    }

    /// Whether `[key, range_end)`, in etcd's notation, lies inside.
    pub fn check(&self, key: &[u8], range_end: &[u8]) -> Result<(), OutsideFence> {
        // An end of one zero byte means "to the last key", and is smaller than any prefix.
        let ends_inside =
            range_end.is_empty() || (range_end > key && range_end <= self.end.as_slice());
        if key.starts_with(&self.prefix) && ends_inside {
            Ok(())
        } else {
            Err(OutsideFence { prefix: String::from_utf8_lossy(&self.prefix).into_owned() })
        }
    }
}

/// The smallest key after all keys that begin with `prefix`; one zero byte, etcd's "to the end", where there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_open(key: &str, range_end: &str) -> bool {
        Fence::new("/aisix/e/").check(key.as_bytes(), range_end.as_bytes()).is_ok()
    }

    #[test]
    fn the_environment_and_each_part_of_it_are_readable() {
        assert!(is_open("/aisix/e/", "/aisix/e0"));
        assert!(is_open("/aisix/e/models/m-1", ""));
        assert!(is_open("/aisix/e/models/", "/aisix/e/models0"));
    }

    #[test]
    fn nothing_else_is() {
        for (key, range_end) in [
            ("/aisix/e", "/aisix/f"),
            ("/aisix/e", ""),
            ("/aisix/", "/aisix0"),
            ("/aisix/e/", "/aisix/e1"),
            ("/aisix/e/", "\0"),
            ("/aisix/f/", "/aisix/f0"),
            ("/aisix/e2/models/m", ""),
            ("\0", "\0"),
            ("", ""),
        ] {
            assert!(!is_open(key, range_end), "{key:?} to {range_end:?}");
        }
    }

    proptest! {
        #[test]
        fn a_range_that_passes_holds_only_keys_of_the_environment(
            key in "/aisix/e[/0]?[a-z/\0\u{7f}]{0,3}",
            range_end in "(/aisix/e[/0]?[a-z/\0\u{7f}]{0,3}|\0|)",
            probe in "/aisix/[def][/01]?[a-z]{0,3}",
        ) {
            let inside = if range_end.is_empty() {
                probe == key
            } else {
                probe >= key && (range_end == "\0" || probe < range_end)
            };
            if is_open(&key, &range_end) && inside {
                prop_assert!(probe.starts_with("/aisix/e/"), "{probe}");
            }
        }
    }
}
