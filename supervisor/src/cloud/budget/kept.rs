//! A decision as it is kept over a restart: JSON, of which what is not understood is passed over.

use serde::{Deserialize, Serialize};

use super::decision::Decision;
use super::key::Moment;

/// What is kept of a caller key.
#[derive(Debug, Default, Deserialize)]
pub struct Kept {
    /// The latest decision.
    pub decision: Decision,
    /// When it came, by the clock on the wall: its age counts over a restart.
    pub at: Moment,
    /// Spending that it does not know of, although the Cloud was told.
    #[serde(default)]
    pub since_answer: f64,
}

#[derive(Serialize)]
struct Writing<'a> {
    decision: &'a Decision,
    at: Moment,
    since_answer: f64,
}

/// The bytes to keep.
pub fn write(decision: &Decision, at: Moment, since_answer: f64) -> Vec<u8> {
    // Nothing in it can fail to serialize.
    serde_json::to_vec(&Writing { decision, at, since_answer }).unwrap_or_default()
}

/// What was kept; `None` if it cannot be read. A decision from the future (the clock was set back) counts as made now.
pub fn read(bytes: &[u8], now: Moment) -> Option<Kept> {
    let mut kept: Kept = serde_json::from_slice(bytes).ok()?;
    kept.at = kept.at.min(now);
    kept.since_answer = Some(kept.since_answer).filter(|spent| *spent > 0.0).unwrap_or_default();
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_damage_is_nothing() {
        let decision =
            Decision { allow: true, message: Some("m".to_owned()), ..Decision::default() };
        let bytes = write(&decision, 5_000, 0.25);
        let kept = read(&bytes, 9_000).unwrap();
        assert_eq!((kept.decision, kept.at, kept.since_answer), (decision, 5_000, 0.25));
        assert_eq!(read(&bytes, 4_000).unwrap().at, 4_000);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], 0).is_none());
        }
    }
}
