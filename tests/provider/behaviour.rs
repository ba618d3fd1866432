//! What the upstream does with a request, by the name of the model that it asks for.

use std::time::Duration;

/// One script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers at once. Every name that is not a script, such as `small-1`.
    Plain,
    /// `slow-250`: so many milliseconds before the first byte, and again between the chunks of a stream.
    Slow(Duration),
    /// `status-503`: an error with that status; 429 says `Retry-After: 7`.
    Status(u16),
    /// `cut`: breaks the connection in the middle of the answer.
    Cut,
    /// `stall`: falls silent in the middle of the answer, for ever.
    Stall,
    /// `split`: a stream with CRLF, comments, and reads that end anywhere.
    Split,
    /// `big`: an answer of [`BIG_WORDS`] words.
    Big,
    /// `overloaded`: a stream of Messages tells an error in its middle, once it is released. Otherwise as plain.
    Overloaded,
    /// `garbage`: status 200, and nothing that anyone could decode.
    Garbage,
    /// `hold`: begins, and goes on once it is released.
    Hold,
}

/// Words in the answer of `big`: about one MiB as a stream of one word each.
pub const BIG_WORDS: usize = 6000;

/// Names for `GET /v1/models`.
pub const NAMES: [&str; 9] =
    ["small-1", "slow-250", "status-429", "status-503", "cut", "stall", "split", "big", "garbage"];

impl Behaviour {
    /// The script that a model's name stands for.
    pub fn of(model: &str) -> Self {
        if let Some(milliseconds) = number_after(model, "slow-") {
            return Self::Slow(Duration::from_millis(milliseconds));
        }
        if let Some(status) = number_after(model, "status-").and_then(|it| u16::try_from(it).ok()) {
            return Self::Status(status);
        }
        match model {
            "cut" => Self::Cut,
            "stall" => Self::Stall,
            "split" => Self::Split,
            "big" => Self::Big,
            "overloaded" => Self::Overloaded,
            "garbage" => Self::Garbage,
            "hold" => Self::Hold,
            _ => Self::Plain,
        }
    }
}

fn number_after(model: &str, prefix: &str) -> Option<u64> {
    model.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_model_is_the_script() {
        assert_eq!(Behaviour::of("small-1"), Behaviour::Plain);
        assert_eq!(Behaviour::of("slow-40"), Behaviour::Slow(Duration::from_millis(40)));
        assert_eq!(Behaviour::of("status-429"), Behaviour::Status(429));
        assert_eq!(Behaviour::of("status-x"), Behaviour::Plain);
        assert_eq!(Behaviour::of("cut"), Behaviour::Cut);
    }
}
