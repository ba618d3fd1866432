//! Reading server-sent events as a client sees them.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field, empty if there was none.
    pub name: String,
    /// The `data:` lines.
    pub data: String,
}

/// Takes bytes as they come and gives events as they are complete.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    event: Event,
    complete: std::collections::VecDeque<Event>,
}

impl Reader {
    /// More bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte => self.line.push(*byte),
            }
        }
    }

    /// The next complete event.
    pub fn pop(&mut self) -> Option<Event> {
        self.complete.pop_front()
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if event != Event::default() {
                self.complete.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_do_not_depend_on_how_they_come() {
        let text = ": hello\r\n\r\nevent: error\r\ndata: 1\r\n\r\ndata: [DONE]\n\n";
        for length in 1..text.len() {
            let mut reader = Reader::default();
            text.as_bytes().chunks(length).for_each(|chunk| reader.push(chunk));
            let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
            assert_eq!(reader.pop(), Some(event("error", "1")));
            assert_eq!(reader.pop(), Some(event("", "[DONE]")));
            assert_eq!(reader.pop(), None);
        }
    }
}
