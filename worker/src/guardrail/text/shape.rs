//! What the events of a stream look like in each dialect: which texts continue which, and when they end.

use super::strings::{Id, Kind, Strings};
use crate::call::Operation;
use crate::json::quoted;

/// How a stream tells its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// OpenAI's chunks: `choices`, each with an `index`.
    Choices,
    /// Anthropic's content blocks.
    Messages,
    /// OpenAI's events of Responses.
    Responses,
}

/// Where a text of an event belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// It continues what came before on the same channel.
    Continues(Channel),
    /// It stands by itself.
    Whole,
}

/// A text that comes in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// What ends it along with others: a choice, a content block, an item.
    pub group: String,
    /// Which of the group's texts.
    pub text: String,
}

/// What an event ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Nothing.
    Nothing,
    /// The channels of these groups.
    Groups(Vec<String>),
    /// Everything.
    Everything,
}

impl Shape {
    /// How the answer to an operation is told; `None` if it has no text that comes in pieces.
    pub fn of(operation: Operation) -> Option<Self> {
        match operation {
            Operation::ChatCompletions | Operation::Completions => Some(Self::Choices),
            Operation::Messages => Some(Self::Messages),
            // Streamed transcriptions come in events of the same form.
            Operation::Responses | Operation::Transcriptions | Operation::Translations => {
                Some(Self::Responses)
            }
            _ => None,
        }
    }

    /// Where a text that is content belongs.
    pub fn part(self, event: &Strings<'_>, id: Id) -> Part {
        let path = event.path(id);
        let channel = match self {
            Self::Choices => choice(event, &path),
            Self::Messages => block(event, &path),
            Self::Responses => item(event, &path),
        };
        channel.map_or(Part::Whole, Part::Continues)
    }

    /// What the event ends. Texts in it still belong to what it ends.
    pub fn ends(self, event: &Strings<'_>) -> Ends {
        let kind = text_of(event, 0, "type");
        match (self, kind.as_str()) {
            (Self::Choices, _) => {
                let lists = event.member(0, "choices");
                let choices = event.of_kind(Kind::Object).filter(|id| event.parent(*id) == lists);
                let ended = choices.filter(|choice| {
                    lists.is_some() && !text_of(event, *choice, "finish_reason").is_empty()
                });
                let groups: Vec<_> = ended.map(|choice| index(event, choice)).collect();
                if groups.is_empty() { Ends::Nothing } else { Ends::Groups(groups) }
            }
            (Self::Messages, "content_block_stop") => Ends::Groups(vec![index(event, 0)]),
            (Self::Messages, "message_delta" | "message_stop") => Ends::Everything,
            (
                Self::Responses,
                "response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.cancelled",
            ) => Ends::Everything,
            (Self::Responses, kind) if kind.ends_with(".done") => {
                Ends::Groups(vec![raw_of(event, 0, "output_index")])
            }
            _ => Ends::Nothing,
        }
    }

    /// An event of its own for more text on a channel, where the event that brought some cannot be repeated: what stands
    /// before the text and behind it.
    pub fn template(self, channel: &Channel, event: &Strings<'_>) -> Option<(String, String)> {
        if self != Self::Messages || text_of(event, 0, "type") == "content_block_delta" {
            return None;
        }
        let kind = match channel.text.as_str() {
            "thinking" => "thinking_delta",
            "partial_json" => "input_json_delta",
            _ => "text_delta",
        };
        let (group, name) = (&channel.group, quoted(&channel.text));
        let before = format!(
            r#"{{"type":"content_block_delta","index":{group},"delta":{{"type":"{kind}",{name}:"#
        );
        Some((before, "}}".to_owned()))
    }
}

/// Anything in a choice, by the names and numbers that lead to it.
fn choice(event: &Strings<'_>, path: &[Id]) -> Option<Channel> {
    let [_, choices, choice, rest @ ..] = path else { return None };
    if event.name(*choices) != "choices" {
        return None;
    }
    let steps = rest.iter().map(|id| match event.name(*id) {
        "" => index(event, *id),
        name => name.to_owned(),
    });
    Some(Channel { group: index(event, *choice), text: steps.collect::<Vec<_>>().join("/") })
}

/// A piece of a content block, or the beginning of one.
fn block(event: &Strings<'_>, path: &[Id]) -> Option<Channel> {
    let [root, block, text] = path else { return None };
    let is_block = matches!(event.name(*block), "delta" | "content_block");
    let text = event.name(*text);
    let is_piece = is_block && matches!(text, "text" | "thinking" | "partial_json");
    let kind = text_of(event, *root, "type");
    (is_piece && kind.starts_with("content_block"))
        .then(|| Channel { group: index(event, *root), text: text.to_owned() })
}

/// A piece of a text of an item.
fn item(event: &Strings<'_>, path: &[Id]) -> Option<Channel> {
    let [root, delta] = path else { return None };
    let kind = text_of(event, *root, "type");
    if event.name(*delta) != "delta" || !kind.ends_with(".delta") || kind.ends_with("audio.delta") {
        return None;
    }
    let place = |name| raw_of(event, *root, name);
    let text = format!("{kind}/{}/{}", place("content_index"), place("summary_index"));
    Some(Channel { group: place("output_index"), text })
}

/// What numbers it: its `index`, else its place in the list.
fn index(event: &Strings<'_>, id: Id) -> String {
    match raw_of(event, id, "index") {
        index if index.is_empty() => event.place(id).to_string(),
        index => index,
    }
}

fn raw_of(event: &Strings<'_>, object: Id, name: &str) -> String {
    event.member(object, name).map(|id| event.raw(id).to_owned()).unwrap_or_default()
}

fn text_of(event: &Strings<'_>, object: Id, name: &str) -> String {
    let text = event.member(object, name).filter(|id| event.kind(*id) == Kind::Text);
    text.map(|id| event.text(id)).unwrap_or_default()
}
