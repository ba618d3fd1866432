//! Answers that differ from an earlier one in nothing but their strings and numbers: nearly all that an upstream gives. What they
//! tell is known from where it stood in that one, without a look at the names of their members.
//!
//! A mould is an answer with holes, where it had strings and numbers. An answer fits if it has the same bytes around them, and in
//! them what JSON has there. All others are read by `typical`, which says the same of those that fit, only later.

use std::cell::RefCell;

use super::{CompletionDetails, PromptDetails, Usage, typical};
use crate::json::reader::Reader;
use crate::provider::{Seen, short};

/// Moulds at a time: of some upstreams, and of what an answer may be without.
const MOULDS_MAX: usize = 4;
/// An answer with more holes, or with more around them in bytes, is no answer of a usual form.
const HOLES_MAX: usize = 64;
const AROUND_BYTES_MAX: usize = 4096;

/// To learn takes longer than to read, and must pay: it costs what so many answers that fit have brought in. Where none does,
/// it is tried again after a while.
const COST: u32 = 128;
const BROUGHT_BY_FIT: u32 = 16;
const BROUGHT_BY_OTHER: u32 = 1;
const FUNDS_MAX: u32 = 8 * COST;

thread_local! {
    static KNOWN: RefCell<Known> = const { RefCell::new(Known { moulds: Vec::new(), funds: FUNDS_MAX }) };
}

struct Known {
    /// The one that was of use last is the first.
    moulds: Vec<Mould>,
    funds: u32,
}

/// What a usual answer tells.
pub(super) fn read(body: &[u8]) -> Option<Seen> {
    let reader = Reader::new(body)?;
    KNOWN.with_borrow_mut(|known| known.read(body, reader))
}

impl Known {
    fn read(&mut self, body: &[u8], reader: Reader<'_>) -> Option<Seen> {
        let fitting = |(place, mould): (usize, &Mould)| Some((place, mould.fit(reader)?));
        if let Some((place, seen)) = self.moulds.iter().enumerate().find_map(fitting) {
            self.moulds.swap(0, place);
            self.earn(BROUGHT_BY_FIT);
            return Some(seen);
        }
        self.earn(BROUGHT_BY_OTHER);
        let seen = typical::read(body)?;
        if let Some(left) = self.funds.checked_sub(COST) {
            self.funds = left;
            if let Some(mould) = Mould::of(body) {
                self.moulds.truncate(MOULDS_MAX - 1);
                self.moulds.insert(0, mould);
            }
        }
        Some(seen)
    }

    fn earn(&mut self, brought: u32) {
        self.funds = self.funds.saturating_add(brought).min(FUNDS_MAX);
    }
}

/// What is in a hole.
#[derive(Clone, Copy, Debug)]
enum Hole {
    /// A string that says nothing.
    Filler,
    /// A number that says nothing.
    Number,
    Id,
    Model,
    FinishReason,
    /// A string that is generated text.
    Text,
    Count(Count),
}

#[derive(Clone, Copy, Debug)]
enum Count {
    Prompt,
    Completion,
    Total,
    CachedPrompt,
    PromptAudio,
    Reasoning,
    CompletionAudio,
}

impl Count {
    const NUMBER: usize = Self::CompletionAudio as usize + 1;
}

#[derive(Debug, Default)]
struct Mould {
    /// What comes before each hole. Quotes belong to the hole.
    pieces: Vec<(Box<[u8]>, Hole)>,
    last: Box<[u8]>,
    has_usage: bool,
    has_prompt_details: bool,
    has_completion_details: bool,
}

impl Mould {
    /// Of an answer that `typical` has read; `None` of one that is made in another way than nearly all are.
    fn of(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body)?;
        let from = reader.at();
        let mut learning = Learning { body, from, mould: Self::default() };
        learning.value(&mut reader, Place::Answer)?;
        let Learning { mut mould, from, .. } = learning;
        mould.last = body.get(from..reader.at())?.into();
        let around = mould.pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>();
        (around + mould.last.len() <= AROUND_BYTES_MAX).then_some(mould)
    }

    /// What an answer tells, if it fits.
    fn fit(&self, mut reader: Reader<'_>) -> Option<Seen> {
        let mut seen = Seen { has_begun: true, ..Seen::default() };
        let mut counts = [None; Count::NUMBER];
        for (before, hole) in &self.pieces {
            reader.pass(before)?;
            match hole {
                Hole::Filler => {
                    reader.string()?;
                }
                Hole::Number => reader.number()?,
                Hole::Id => seen.id = short(reader.plain_string()?),
                Hole::Model => seen.model = short(reader.plain_string()?),
                Hole::FinishReason => seen.finish_reason = short(reader.plain_string()?),
                Hole::Text => seen.text_bytes += reader.string()?.at.len() - 2,
                Hole::Count(count) => *counts.get_mut(*count as usize)? = Some(reader.count()?),
            }
        }
        reader.pass(&self.last)?;
        reader.end()?;
        seen.usage = if self.has_usage { self.usage(counts).tokens() } else { None };
        Some(seen)
    }

    fn usage(&self, counts: [Option<u64>; Count::NUMBER]) -> Usage {
        let [prompt, completion, total, cached, prompt_audio, reasoning, audio] = counts;
        let prompt_details = PromptDetails { cached_tokens: cached, audio_tokens: prompt_audio };
        let completion_details =
            CompletionDetails { reasoning_tokens: reasoning, audio_tokens: audio };
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            prompt_tokens_details: self.has_prompt_details.then_some(prompt_details),
            completion_tokens_details: self.has_completion_details.then_some(completion_details),
            input_tokens: None,
            output_tokens: None,
            input_tokens_details: None,
            output_tokens_details: None,
            total_tokens: total,
        }
    }
}

/// Where a value stands in an answer.
#[derive(Clone, Copy, Debug)]
enum Place {
    Answer,
    Choices,
    Choice,
    Message,
    Usage,
    PromptDetails,
    CompletionDetails,
    /// Of a string or a number that says something, or of null.
    Said(Hole),
    /// Of what says nothing.
    Other,
}

impl Place {
    /// The place of a member of the object here. `None` where it says something that is not usual.
    fn member(self, name: &[u8]) -> Option<Self> {
        Some(match (self, name) {
            (Self::Answer, b"id") => Self::Said(Hole::Id),
            (Self::Answer, b"model") => Self::Said(Hole::Model),
            (Self::Answer, b"choices") => Self::Choices,
            (Self::Answer, b"usage") => Self::Usage,
            (Self::Choice, b"finish_reason") => Self::Said(Hole::FinishReason),
            (Self::Choice, b"message") => Self::Message,
            (Self::Choice, b"text") => Self::Said(Hole::Text),
            (Self::Choice, b"delta") => return None,
            (Self::Message, b"content" | b"reasoning_content" | b"tool_calls") => {
                Self::Said(Hole::Text)
            }
            (Self::Usage, b"prompt_tokens") => Self::Said(Hole::Count(Count::Prompt)),
            (Self::Usage, b"completion_tokens") => Self::Said(Hole::Count(Count::Completion)),
            (Self::Usage, b"total_tokens") => Self::Said(Hole::Count(Count::Total)),
            (Self::Usage, b"prompt_tokens_details") => Self::PromptDetails,
            (Self::Usage, b"completion_tokens_details") => Self::CompletionDetails,
            // In the words of everything newer.
            (Self::Usage, name) if name.starts_with(b"input_") || name.starts_with(b"output_") => {
                return None;
            }
            (Self::PromptDetails, b"cached_tokens") => Self::Said(Hole::Count(Count::CachedPrompt)),
            (Self::PromptDetails, b"audio_tokens") => Self::Said(Hole::Count(Count::PromptAudio)),
            (Self::CompletionDetails, b"reasoning_tokens") => {
                Self::Said(Hole::Count(Count::Reasoning))
            }
            (Self::CompletionDetails, b"audio_tokens") => {
                Self::Said(Hole::Count(Count::CompletionAudio))
            }
            (Self::Said(_) | Self::Choices, _) => return None,
            _ => Self::Other,
        })
    }

    /// The same of a value in the list here.
    fn item(self) -> Option<Self> {
        match self {
            Self::Choices => Some(Self::Choice),
            Self::Other => Some(Self::Other),
            _ => None,
        }
    }
}

/// An answer on its way to be a mould.
struct Learning<'a> {
    body: &'a [u8],
    /// Behind the last hole.
    from: usize,
    mould: Mould,
}

impl<'a> Learning<'a> {
    fn value(&mut self, reader: &mut Reader<'a>, place: Place) -> Option<()> {
        let start = reader.at();
        match self.body.get(start)? {
            // It may say something even where it is empty.
            b'{' | b'[' if matches!(place, Place::Said(_)) => None,
            b'{' => {
                match place {
                    Place::Usage => self.mould.has_usage = true,
                    Place::PromptDetails => self.mould.has_prompt_details = true,
                    Place::CompletionDetails => self.mould.has_completion_details = true,
                    _ => {}
                }
                reader.object(|reader, name| self.value(reader, place.member(name.plain()?)?))
            }
            b'[' => reader.list(|reader| self.value(reader, place.item()?)),
            b'"' => {
                let hole = match place {
                    Place::Said(Hole::Count(_)) => return None,
                    Place::Said(hole) => hole,
                    Place::Other => Hole::Filler,
                    _ => return None,
                };
                self.hole(reader, hole)
            }
            b'-' | b'0'..=b'9' => {
                let hole = match place {
                    Place::Said(Hole::Count(count)) => Hole::Count(count),
                    Place::Other => Hole::Number,
                    _ => return None,
                };
                self.hole(reader, hole)
            }
            // Stays as it is. Null says nothing anywhere.
            b'n' => reader.skip(),
            _ if matches!(place, Place::Other) => reader.skip(),
            _ => None,
        }
    }

    fn hole(&mut self, reader: &mut Reader<'a>, hole: Hole) -> Option<()> {
        let before = self.body.get(self.from..reader.at())?;
        reader.skip()?;
        if self.mould.pieces.len() >= HOLES_MAX {
            return None;
        }
        self.mould.pieces.push((before.into(), hole));
        self.from = reader.at();
        Some(())
    }
}

#[cfg(test)]
mod tests;
