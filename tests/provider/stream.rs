//! How the body of an answer is written: a plan made in advance, carried out step by step.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::body::Frame;
use tokio::sync::watch;

use super::answer::Answer;
use super::behaviour::Behaviour;
use super::ledger::Entry;

/// One step in writing a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These bytes.
    Write(Bytes),
    /// Nothing, for so long.
    Wait(Duration),
    /// Nothing until `hold` is released.
    UntilReleased,
    /// Nothing any more; the connection stays open.
    Stall,
    /// The connection breaks.
    Cut,
}

/// Splits of `split` are this long in turn: a prime pattern, so that each ends somewhere else in an event.
const SPLITS: [usize; 5] = [1, 7, 2, 31, 3];

/// Long enough for what is written to leave as a packet of its own.
pub const PAUSE: Duration = Duration::from_millis(1);

/// The steps of a streamed answer.
pub(super) fn plan(answer: &Answer, behaviour: Behaviour, include_usage: bool) -> VecDeque<Step> {
    let mut events: Vec<Bytes> = answer
        .chunks(include_usage)
        .iter()
        .map(|chunk| Bytes::from(format!("data: {chunk}\n\n")))
        .collect();
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    paced(events, behaviour)
}

/// The steps of a stream of these events.
pub(super) fn paced(mut events: Vec<Bytes>, behaviour: Behaviour) -> VecDeque<Step> {
    let half = events.len() / 2;
    match behaviour {
        Behaviour::Slow(pause) => {
            events.into_iter().flat_map(|event| [Step::Wait(pause), Step::Write(event)]).collect()
        }
        Behaviour::Cut => {
            // The pause lets what was written leave before the connection breaks.
            first(events, half).chain([Step::Wait(PAUSE), Step::Cut]).collect()
        }
        Behaviour::Stall => first(events, half).chain([Step::Stall]).collect(),
        Behaviour::Hold => {
            let rest = events.split_off(half);
            let rest = rest.into_iter().map(Step::Write);
            first(events, half).chain([Step::UntilReleased]).chain(rest).collect()
        }
        Behaviour::Overloaded => {
            let last = events.pop().map(Step::Write);
            let rest = events.into_iter().map(Step::Write);
            rest.chain([Step::UntilReleased]).chain(last).collect()
        }
        Behaviour::Garbage => {
            VecDeque::from([Step::Write(Bytes::from_static(b"data: {not JSON\n\n"))])
        }
        Behaviour::Split => split(&events),
        Behaviour::Plain | Behaviour::Big | Behaviour::Status(_) => {
            events.into_iter().map(Step::Write).collect()
        }
    }
}

/// The same events with CRLF and comments, written in pieces that end anywhere.
fn split(events: &[Bytes]) -> VecDeque<Step> {
    let mut text = String::from(": welcome\r\n\r\n");
    for event in events {
        text.push_str(&String::from_utf8_lossy(event).replace('\n', "\r\n"));
        text.push_str(": keep-alive\r\n");
    }
    // The last event must be ended by its empty line, not by a comment that follows it.
    text.push_str("\r\n");
    let mut rest = Bytes::from(text);
    let mut steps = VecDeque::new();
    for length in SPLITS.into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        steps.push_back(Step::Write(rest.split_to(length.min(rest.len()))));
        steps.push_back(Step::Wait(PAUSE));
    }
    steps
}

fn first(events: Vec<Bytes>, count: usize) -> impl Iterator<Item = Step> {
    events.into_iter().take(count).map(Step::Write)
}

/// Carries a plan out. The entry learns whether it was carried out, or dropped because the caller left.
pub(super) fn carry_out(
    plan: VecDeque<Step>,
    released: watch::Receiver<bool>,
    entry: Entry,
) -> impl Stream<Item = io::Result<Frame<Bytes>>> {
    stream::unfold((plan, released, entry), |(mut plan, mut released, mut entry)| async move {
        loop {
            let Some(step) = plan.pop_front() else {
                entry.answered();
                return None;
            };
            match step {
                Step::Write(bytes) => {
                    return Some((Ok(Frame::data(bytes)), (plan, released, entry)));
                }
                Step::Wait(pause) => tokio::time::sleep(pause).await,
                Step::UntilReleased => {
                    // An error means that the upstream itself is gone: then nobody waits any more.
                    let _ = released.wait_for(|released| *released).await;
                }
                Step::Stall => future::pending().await,
                Step::Cut => {
                    entry.broke_off();
                    let cut = io::Error::from(io::ErrorKind::ConnectionAborted);
                    return Some((Err(cut), (plan, released, entry)));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(behaviour: Behaviour) -> String {
        let request =
            json!({"model": "m", "messages": [{"role": "user", "content": "a few words to say"}]});
        let answer = Answer::to(&request, behaviour);
        plan(&answer, behaviour, true)
            .into_iter()
            .filter_map(|step| match step {
                Step::Write(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_split_stream_says_the_same_as_a_plain_one() {
        let split = written(Behaviour::Split);
        assert!(split.contains("\r\n"));
        let lines = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("data:")).map(str::to_owned).collect()
        };
        assert_eq!(lines(&split), lines(&written(Behaviour::Plain)));
    }

    #[test]
    fn a_cut_stream_ends_before_its_end() {
        let cut = written(Behaviour::Cut);
        assert!(!cut.is_empty());
        assert!(!cut.contains("[DONE]"));
        assert!(written(Behaviour::Plain).starts_with(&cut));
    }
}
