//! Budget verdicts on their way to the workers: in sealed memory, a caller key at a time.
//!
//! ```text
//! count u64 (varint) | (id of the caller key, verdict) | …
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::memory::{self, MemoryReader};

/// The longest that a request waits for the first verdict of its key. The supervisor decides well before.
pub const WAIT_MAX: Duration = Duration::from_secs(1);

/// Whether a caller key may spend more.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not, and this is what the caller is told.
    Deny(Box<Denial>),
    /// Nothing is known of it any more.
    Forget,
}

/// What a caller is told whose key may not spend more. What is `None` is left out.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Denial {
    /// In words.
    pub message: String,
    /// Whose budget: `org`, `environment`, `api_key`, `provider_key`, `team` or `member`.
    pub scope: Option<String>,
    /// Which of that kind.
    pub scope_ref: Option<String>,
    /// The budget, in dollars with two decimals.
    pub limit_usd: Option<String>,
    /// What was spent of it, in dollars with two decimals.
    pub spent_usd: Option<String>,
    /// What the budget is for: `month`.
    pub period: Option<String>,
    /// When the next period begins, RFC 3339.
    pub period_resets_at: Option<String>,
    /// Seconds after which it may be tried again.
    pub retry_after_seconds: Option<u64>,
}

impl Denial {
    /// A denial of which only the reason is known.
    pub fn because(message: &str) -> Self {
        Self { message: message.to_owned(), ..Self::default() }
    }
}

/// `verdicts` in sealed memory. `count` is how many the iterator yields.
pub fn write<'a>(
    count: usize,
    verdicts: impl Iterator<Item = (&'a str, &'a Verdict)>,
) -> io::Result<OwnedFd> {
    memory::sealed("aisix-budgets", |writer| {
        writer.write_all(&codec::encode(&(count as u64)).map_err(io::Error::other)?)?;
        for entry in verdicts {
            writer.write_all(&codec::encode(&entry).map_err(io::Error::other)?)?;
        }
        Ok(())
    })
}

/// Everything in `memory`.
pub fn read(memory: OwnedFd) -> Result<Vec<(String, Verdict)>, CodecError> {
    let mut reader = io::BufReader::with_capacity(256 * 1024, MemoryReader::new(memory));
    let count: u64 = codec::decode_next(&mut reader)?;
    (0..count).map(|_| codec::decode_next(&mut reader)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_of_one_memory_reads_all_verdicts() {
        let denial = Denial { retry_after_seconds: Some(7), ..Denial::because("no") };
        let written = [
            ("k-1".to_owned(), Verdict::Allow),
            ("k-2".to_owned(), Verdict::Deny(Box::new(denial))),
            ("k-3".to_owned(), Verdict::Forget),
        ];
        let entries = written.iter().map(|(id, verdict)| (id.as_str(), verdict));
        let memory = write(written.len(), entries).unwrap();
        for _ in 0..2 {
            assert_eq!(read(memory.try_clone().unwrap()).unwrap(), written);
        }
    }

    #[test]
    fn memory_that_ends_early_is_an_error_and_not_fewer_verdicts() {
        let memory = write(2, [("k-1", &Verdict::Allow)].into_iter()).unwrap();
        assert!(read(memory).is_err());
    }
}
