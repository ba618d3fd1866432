//! What gateways report: usage events in the order of their arrival, and the latest heartbeat of each instance.
//!
//! Everything is appended to `DATA/usage.jsonl` before it is acknowledged, one JSON object a line, and read back at the
//! next start. Nothing is ever removed: this is for evaluation and tests.
//!
//! ```text
//! {"usage":{"env_id":…,"dp_id":…,"received_at":…, and the event's own fields}}
//! {"heartbeat":{"env_id":…,"dp_id":…,"received_at":…,"count":…, and the heartbeat's own fields}}
//! ```

use crate::identity::Identity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// A JSON object.
pub type Object = Map<String, Value>;

/// A line of the file.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Usage(Object),
    Heartbeat(Object),
}

/// By what a repeated event is recognised. A caller may use one request id twice, so the event's own id goes first.
#[derive(Eq, Hash, PartialEq)]
enum EventKey {
    Event(String),
    Attempt(String, u64),
}

/// All reports.
pub struct Ledger {
    file: File,
    usage: Vec<Object>,
    /// The environment and the key of every event in `usage`.
    seen: HashSet<(String, EventKey)>,
    heartbeats: BTreeMap<[String; 3], Object>,
    /// Events that were there already, since the start.
    repeats: u64,
}

/// Tokens of one environment, model and caller key.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Total {
    env_id: String,
    model_id: String,
    api_key_id: String,
    events: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Ledger {
    /// Opens the file, made if there is none, and reads what is in it. A torn last line is left behind.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut lines = BufReader::new(file.try_clone()?);
        let (mut usage, mut seen, mut heartbeats) = (Vec::new(), HashSet::new(), BTreeMap::new());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            match serde_json::from_slice(&line) {
                Ok(Entry::Usage(event)) => {
                    seen.insert(event_key(&event));
                    usage.push(event);
                }
                Ok(Entry::Heartbeat(beat)) => {
                    heartbeats.insert(instance(&beat), beat);
                }
                Err(error) => tracing::warn!("a line of {} is skipped: {error}", path.display()),
            }
            if !line.ends_with(b"\n") {
                file.write_all(b"\n")?;
            }
            line.clear();
        }
        Ok(Self { file, usage, seen, heartbeats, repeats: 0 })
    }

    /// Keeps the events of one batch, without those that are there already. Returns how many were new.
    pub fn add_usage(
        &mut self,
        from: &Identity,
        received_at: &str,
        events: Vec<Object>,
    ) -> io::Result<usize> {
        let mut lines = Vec::new();
        let mut fresh = Vec::new();
        let mut keys = HashSet::new();
        let sent = events.len();
        for mut event in events {
            stamp(&mut event, from, received_at);
            let key = event_key(&event);
            if self.seen.contains(&key) || !keys.insert(key) {
                continue;
            }
            append_line(&mut lines, &Entry::Usage(event.clone()))?;
            fresh.push(event);
        }
        self.file.write_all(&lines)?;
        let added = fresh.len();
        self.repeats += sent.saturating_sub(added) as u64;
        self.usage.append(&mut fresh);
        self.seen.extend(keys);
        Ok(added)
    }

    /// Keeps a heartbeat as the latest of its instance. Returns how many that instance has sent.
    pub fn add_heartbeat(
        &mut self,
        from: &Identity,
        received_at: &str,
        mut beat: Object,
    ) -> io::Result<u64> {
        stamp(&mut beat, from, received_at);
        let key = instance(&beat);
        let count = 1 + self.heartbeats.get(&key).map_or(0, |last| number(last, "count"));
        beat.insert("count".into(), count.into());
        let mut line = Vec::new();
        append_line(&mut line, &Entry::Heartbeat(beat.clone()))?;
        self.file.write_all(&line)?;
        self.heartbeats.insert(key, beat);
        Ok(count)
    }

    /// Events in the order of their arrival, of one environment and one request if asked.
    pub fn usage(&self, env_id: Option<&str>, request_id: Option<&str>) -> Vec<&Object> {
        let is_asked =
            |event: &&Object| is(event, "env_id", env_id) && is(event, "request_id", request_id);
        self.usage.iter().filter(is_asked).collect()
    }

    /// How many events came again since the start.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// The latest heartbeat of every instance, of one environment if asked.
    pub fn heartbeats(&self, env_id: Option<&str>) -> Vec<&Object> {
        self.heartbeats.values().filter(|beat| is(beat, "env_id", env_id)).collect()
    }

    /// What a caller key has spent, in dollars, at these prices per thousand tokens of prompt and answer.
    pub fn spent(&self, env_id: &str, api_key_id: &str, prices: impl Fn(&str) -> [f64; 2]) -> f64 {
        let of_key = |event: &&Object| {
            is(event, "env_id", Some(env_id)) && is(event, "api_key_id", Some(api_key_id))
        };
        let cost = |event: &Object| {
            let [prompt, completion] = prices(text(event, "model_id"));
            let tokens = |name| number(event, name) as f64 / 1000.0;
            tokens("prompt_tokens") * prompt + tokens("completion_tokens") * completion
        };
        self.usage.iter().filter(of_key).map(cost).sum()
    }

    /// Tokens per environment, model and caller key.
    pub fn totals(&self) -> Vec<Total> {
        let mut totals: BTreeMap<[&str; 3], Total> = BTreeMap::new();
        for event in &self.usage {
            let [env_id, model_id, api_key_id] =
                ["env_id", "model_id", "api_key_id"].map(|name| text(event, name));
            let total = totals.entry([env_id, model_id, api_key_id]).or_insert_with(|| Total {
                env_id: env_id.to_owned(),
                model_id: model_id.to_owned(),
                api_key_id: api_key_id.to_owned(),
                ..Total::default()
            });
            total.events += 1;
            total.prompt_tokens += number(event, "prompt_tokens");
            total.completion_tokens += number(event, "completion_tokens");
        }
        totals.into_values().collect()
    }
}

fn stamp(report: &mut Object, from: &Identity, received_at: &str) {
    report.insert("env_id".into(), from.env_id.clone().into());
    report.insert("dp_id".into(), from.dp_id.clone().into());
    report.insert("received_at".into(), received_at.into());
}

fn event_key(event: &Object) -> (String, EventKey) {
    let key = match text(event, "event_id") {
        "" => {
            EventKey::Attempt(text(event, "request_id").to_owned(), number(event, "attempt_index"))
        }
        id => EventKey::Event(id.to_owned()),
    };
    (text(event, "env_id").to_owned(), key)
}

fn instance(beat: &Object) -> [String; 3] {
    ["env_id", "dp_id", "instance_id"].map(|name| text(beat, name).to_owned())
}

fn append_line(lines: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, entry)?;
    lines.push(b'\n');
    Ok(())
}

fn is(object: &Object, name: &str, asked: Option<&str>) -> bool {
    asked.is_none_or(|asked| text(object, name) == asked)
}

fn text<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(object: &Object, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn from(env_id: &str) -> Identity {
        Identity { env_id: env_id.into(), dp_id: "d".into() }
    }

    fn event(fields: Value) -> Object {
        fields.as_object().unwrap().clone()
    }

    #[test]
    fn a_repeat_is_recognised_by_its_event_id_else_by_request_and_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("usage.jsonl")).unwrap();
        let one = event(json!({"event_id": "x", "request_id": "r", "attempt_index": 0}));
        let same_request = event(json!({"event_id": "y", "request_id": "r", "attempt_index": 0}));
        let plain = event(json!({"request_id": "r", "attempt_index": 0}));
        let second_attempt = event(json!({"request_id": "r", "attempt_index": 1}));
        let batch = vec![one.clone(), one.clone(), same_request, plain.clone(), second_attempt];
        assert_eq!(ledger.add_usage(&from("e"), "t", batch).unwrap(), 4);
        assert_eq!(ledger.add_usage(&from("e"), "t", vec![plain, one.clone()]).unwrap(), 0);
        assert_eq!(ledger.add_usage(&from("other"), "t", vec![one]).unwrap(), 1);
        assert_eq!(ledger.usage(Some("e"), Some("r")).len(), 4);
        assert_eq!(ledger.repeats(), 3);
    }

    #[test]
    fn everything_is_there_again_after_a_restart_that_tore_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        let first = event(
            json!({"request_id": "a", "attempt_index": 0, "prompt_tokens": 3, "completion_tokens": 4}),
        );
        let beat = event(json!({"instance_id": "i", "applied_revision": 7}));
        {
            let mut ledger = Ledger::open(&path).unwrap();
            ledger.add_usage(&from("e"), "t", vec![first.clone()]).unwrap();
            assert_eq!(ledger.add_heartbeat(&from("e"), "t", beat.clone()).unwrap(), 1);
            ledger.file.write_all(b"{\"usage\":{\"request_id\":\"torn").unwrap();
        }
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.add_usage(&from("e"), "t", vec![first]).unwrap(), 0);
        assert_eq!(ledger.add_heartbeat(&from("e"), "t", beat).unwrap(), 2);
        let second = event(json!({"request_id": "b", "attempt_index": 0, "prompt_tokens": 10}));
        ledger.add_usage(&from("e"), "t", vec![second]).unwrap();

        let ledger = Ledger::open(&path).unwrap();
        let ids: Vec<_> =
            ledger.usage(None, None).iter().map(|event| text(event, "request_id")).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(ledger.heartbeats(Some("e")).first().unwrap()["count"], 2);
        let [total] = ledger.totals().try_into().unwrap();
        assert_eq!((total.events, total.prompt_tokens, total.completion_tokens), (2, 13, 4));
    }
}
