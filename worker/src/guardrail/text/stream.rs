//! A stream past the guardrails: the caller's events in, the caller's events out, each text of them held back as far as a
//! guardrail must still see what follows.
//!
//! Events stay in order. One whose text is unchanged passes as it came; one whose text is held back passes with less of it,
//! or none, and the rest comes with the next event of that text, or in an event of its own before the text ends.

use std::ops::Range;
use std::rc::Rc;

use bytes::BytesMut;

use super::body::without_logprobs;
use super::labels;
use super::shape::{Channel, Ends, Part, Shape};
use super::strings::{Strings, spliced};
use crate::guardrail::{Chain, Record, Rule, whole};
use crate::json::quoted;
use crate::sse::{Decoder, Event};

/// Most texts of one stream.
const CHANNELS_MAX: usize = 256;
/// The largest event whose text may be held back.
const HELD_EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Guardrails on their way through a stream.
pub struct StreamFilter {
    rules: Vec<Rc<Rule>>,
    records: Vec<Record>,
    shape: Shape,
    decoder: Decoder,
    /// In the order of their beginnings.
    channels: Vec<Open>,
    /// Events of our own so far, by which the numbers of later ones are shifted.
    added: u64,
    /// The number of the last event that has one.
    number: u64,
    /// Whether any guardrail may change or refuse the text, rather than watch.
    decides: bool,
}

/// A text that comes in pieces.
struct Open {
    channel: Channel,
    chain: Chain,
    /// While text is held back: an event for it.
    template: Option<Template>,
}

/// An event in whose place of the text anything can be put.
struct Template {
    name: Vec<u8>,
    before: String,
    after: String,
}

type Edits = Vec<(Range<usize>, String)>;

impl StreamFilter {
    /// At the beginning of a stream.
    pub fn new(rules: Vec<Rc<Rule>>, shape: Shape) -> Self {
        Self {
            records: vec![Record::default(); rules.len()],
            decides: rules.iter().any(|rule| !rule.is_monitor),
            rules,
            shape,
            decoder: Decoder::default(),
            channels: Vec::new(),
            added: 0,
            number: 0,
        }
    }

    /// The guardrails, and what they have done.
    pub fn report(&self) -> (&[Rc<Rule>], &[Record]) {
        (&self.rules, &self.records)
    }

    /// Takes the next bytes for the caller, cut anywhere, and adds what may go on.
    ///
    /// # Errors
    /// The stream must not go on, and nothing more of it: which guardrail says so.
    pub fn push(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), usize> {
        self.decoder.push(bytes);
        loop {
            match self.decoder.next_event() {
                Ok(Some(event)) => self.event(&event, out)?,
                Ok(None) => return Ok(()),
                // No text of such a size can be looked at.
                Err(_) => return self.overfull(),
            }
        }
    }

    /// The stream ends here. Adds all that was held back.
    ///
    /// # Errors
    /// As with [`StreamFilter::push`].
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), usize> {
        if let Some(event) = self.decoder.finish() {
            self.event(&event, out)?;
        }
        self.flush(&Ends::Everything, out)
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) -> Result<(), usize> {
        let Some(data) = &event.data else {
            out.extend_from_slice(&event.raw);
            return Ok(());
        };
        if data.trim_ascii() == b"[DONE]" {
            self.flush(&Ends::Everything, out)?;
            out.extend_from_slice(&event.raw);
            return Ok(());
        }
        let text = String::from_utf8_lossy(data);
        let Some(strings) = Strings::find(&text) else {
            // Whatever it is, it holds nothing that continues anything.
            let changed = whole(&self.rules, &text, false, &mut self.records)?;
            write(event, changed.filter(|changed| *changed != text), out);
            return Ok(());
        };
        let mut edits = self.texts(event, &text, &strings, out)?;
        if self.decides {
            edits.extend(without_logprobs(&strings));
        }
        edits.extend(self.renumbered(&strings));
        write(event, (!edits.is_empty()).then(|| spliced(&text, &edits)), out);
        self.relieve(out)
    }

    /// Passes the texts of an event on. Tells what takes their places; what must come before the event is added to `out`.
    fn texts(
        &mut self,
        event: &Event,
        json: &str,
        strings: &Strings<'_>,
        out: &mut BytesMut,
    ) -> Result<Edits, usize> {
        let ends = self.shape.ends(strings);
        let (mut edits, mut wholes, mut pieces) = (Edits::new(), Edits::new(), Vec::new());
        let contents = strings.texts().filter(|id| labels::is_content(strings, *id));
        for id in contents.collect::<Vec<_>>() {
            let (at, text) = (strings.at(id), strings.text(id));
            let is_json = labels::is_json(strings, id);
            match self.shape.part(strings, id) {
                Part::Whole => {
                    let passed = whole(&self.rules, &text, is_json, &mut self.records)?;
                    let passed = passed.filter(|passed| *passed != text);
                    wholes.extend(passed.map(|passed| (at, quoted(&passed))));
                }
                Part::Continues(channel) => {
                    let is_end = ends.include(&channel);
                    let place = self.place(channel, is_json)?;
                    pieces.push((place, at.clone()));
                    let passed = self.piece(place, &text, is_end)?;
                    if passed != text {
                        edits.push((at, quoted(&passed)));
                    }
                }
            }
        }
        // Texts that it ends and has nothing of come before it.
        self.flush(&ends, out)?;
        edits.extend(wholes.iter().cloned());
        self.keep_templates(event, json, strings, &pieces, &wholes)?;
        Ok(edits)
    }

    /// Where a channel is; it is opened if it is new.
    fn place(&mut self, channel: Channel, is_json: bool) -> Result<usize, usize> {
        let known = self.channels.iter().position(|open| open.channel == channel);
        if let Some(place) = known {
            return Ok(place);
        }
        if self.channels.len() >= CHANNELS_MAX {
            return self.overfull().map(|()| 0);
        }
        let chain = Chain::new(&self.rules, is_json);
        self.channels.push(Open { channel, chain, template: None });
        Ok(self.channels.len() - 1)
    }

    fn piece(&mut self, place: usize, text: &str, is_end: bool) -> Result<String, usize> {
        let Some(open) = self.channels.get_mut(place) else { return Ok(String::new()) };
        let mut passed = open.chain.push(&self.rules, &mut self.records, text)?;
        if is_end {
            passed.push_str(&open.chain.flush(&self.rules, &mut self.records)?);
        }
        open.template = open.template.take().filter(|_| open.chain.is_holding(&self.rules));
        Ok(passed)
    }

    /// Remembers, for every text of which something is held back, an event in which it can come.
    fn keep_templates(
        &mut self,
        event: &Event,
        json: &str,
        strings: &Strings<'_>,
        pieces: &[(usize, Range<usize>)],
        wholes: &[(Range<usize>, String)],
    ) -> Result<(), usize> {
        for (place, at) in pieces {
            let Some(open) = self.channels.get_mut(*place) else { continue };
            if !open.chain.is_holding(&self.rules) {
                open.template = None;
                continue;
            }
            if json.len() > HELD_EVENT_BYTES_MAX {
                return self.overfull();
            }
            let own = self.shape.template(&open.channel, strings);
            let (name, (before, after)) = match own {
                Some(own) => (b"content_block_delta".to_vec(), own),
                None => {
                    let others = pieces.iter().filter(|(_, other)| other != at);
                    let empty: Edits =
                        others.map(|(_, other)| (other.clone(), "\"\"".to_owned())).collect();
                    let (mut first, mut last) = (Edits::new(), Edits::new());
                    let others = empty.into_iter().chain(wholes.iter().cloned());
                    for (range, text) in others.chain(without_logprobs(strings)) {
                        if range.end <= at.start {
                            first.push((range, text));
                        } else if range.start >= at.end {
                            last.push((range.start - at.end..range.end - at.end, text));
                        }
                    }
                    let before = json.get(..at.start).unwrap_or_default();
                    let after = json.get(at.end..).unwrap_or_default();
                    (event.name.to_vec(), (spliced(before, &first), spliced(after, &last)))
                }
            };
            open.template = Some(Template { name, before, after });
        }
        Ok(())
    }

    /// Lets go of what is held back of the texts that end, in events of their own.
    fn flush(&mut self, ends: &Ends, out: &mut BytesMut) -> Result<(), usize> {
        for place in 0..self.channels.len() {
            let Some(open) = self.channels.get_mut(place) else { break };
            if ends.include(&open.channel) {
                let text = open.chain.flush(&self.rules, &mut self.records)?;
                self.add(place, &text, out);
            }
        }
        Ok(())
    }

    /// Sees to it that no guardrail holds back more than it may.
    fn relieve(&mut self, out: &mut BytesMut) -> Result<(), usize> {
        for index in 0..self.rules.len() {
            let held: usize = self.channels.iter().map(|open| open.chain.held(index)).sum();
            let Some(rule) = self.rules.get(index) else { break };
            if held <= rule.bound.bytes {
                continue;
            }
            let (opens, is_monitor) = (rule.bound.opens, rule.is_monitor);
            if let Some(record) = self.records.get_mut(index) {
                record.is_overfull = true;
                record.has_refused |= !opens && !is_monitor;
            }
            if !opens && !is_monitor {
                return Err(index);
            }
            for place in 0..self.channels.len() {
                let Some(open) = self.channels.get_mut(place) else { break };
                let text = open.chain.open(&self.rules, &mut self.records, index)?;
                // What a guardrail that watches holds back has long passed.
                if !is_monitor {
                    self.add(place, &text, out);
                }
            }
        }
        Ok(())
    }

    /// Adds an event for text that was held back.
    fn add(&mut self, place: usize, text: &str, out: &mut BytesMut) {
        if text.is_empty() {
            return;
        }
        let template = self.channels.get_mut(place).and_then(|open| open.template.take());
        let Some(template) = template else { return };
        let json = [&template.before, quoted(text).as_str(), &template.after].concat();
        let json = match Strings::find(&json) {
            Some(strings) => match strings.member(0, "sequence_number") {
                Some(id) => {
                    self.number = self.number.saturating_add(1);
                    self.added += 1;
                    spliced(&json, &[(strings.at(id), self.number.to_string())])
                }
                None => json,
            },
            None => json,
        };
        block(&template.name, &json, out);
        if let Some(open) = self.channels.get_mut(place)
            && open.chain.is_holding(&self.rules)
        {
            open.template = Some(template);
        }
    }

    /// Events of Responses are numbered.
    fn renumbered(&mut self, strings: &Strings<'_>) -> Edits {
        let Some(id) = strings.member(0, "sequence_number") else { return Edits::new() };
        let Ok(number) = strings.raw(id).parse::<u64>() else { return Edits::new() };
        self.number = number.saturating_add(self.added);
        if self.added == 0 {
            return Edits::new();
        }
        vec![(strings.at(id), self.number.to_string())]
    }

    /// More is asked of us than we keep: the first guardrail that decides refuses the stream.
    fn overfull(&mut self) -> Result<(), usize> {
        let Some(index) = self.rules.iter().position(|rule| !rule.is_monitor) else {
            return Ok(());
        };
        if let Some(record) = self.records.get_mut(index) {
            record.is_overfull = true;
            record.has_refused = true;
        }
        Err(index)
    }
}

impl Ends {
    fn include(&self, channel: &Channel) -> bool {
        match self {
            Self::Nothing => false,
            Self::Groups(groups) => groups.contains(&channel.group),
            Self::Everything => true,
        }
    }
}

/// Writes an event as it came, or with other data.
fn write(event: &Event, changed: Option<String>, out: &mut BytesMut) {
    match changed {
        None => out.extend_from_slice(&event.raw),
        Some(data) => block(&event.name, &data, out),
    }
}

fn block(name: &[u8], data: &str, out: &mut BytesMut) {
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name);
        out.extend_from_slice(b"\n");
    }
    for line in data.split(['\n', '\r']) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"\n");
}
