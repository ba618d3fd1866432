//! Everything that reads bytes of callers and providers, as functions of bytes alone: for the fuzz targets (`worker/fuzz`) and
//! for the property test below, which calls the same functions.
//!
//! Each promises the same: whatever the bytes are, it returns. What is only forwarded is forwarded to the byte.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::call::Operation;
use crate::chat::Translation;
use crate::dialect::{self, openai};
use crate::json::JsonBody;
use crate::multipart::Fields;
use crate::provider::openai::{ChatDecoder, Events, Native};
use crate::provider::{Progress, Reading, Seen};
use crate::request;
use crate::server;
use crate::sse;

/// A reader under attack.
pub type Target = fn(&[u8]);

/// All of them, by the name of their fuzz target.
pub const TARGETS: [(&str, Target); 8] = [
    ("request_json", request_json),
    ("form", form),
    ("events", events),
    ("openai_chat", openai_chat),
    ("openai_other", openai_other),
    ("openai_translated", openai_translated),
    ("headers", headers),
    ("requests", requests),
];

/// Requests over HTTP/1.1, one after the other.
pub fn requests(bytes: &[u8]) {
    server::look_at(bytes);
}

/// The body of a request, of every operation and dialect.
pub fn request_json(bytes: &[u8]) {
    let Ok(body) = JsonBody::parse(Bytes::copy_from_slice(bytes)) else { return };
    assert!(body.edit().finish() == bytes, "what is not changed stays as it was");
    let calls = [
        openai::completions_like(Operation::ChatCompletions, "messages", body.clone()),
        openai::plain(Operation::Embeddings, "input", body.clone()),
        openai::response(body.clone()),
        dialect::anthropic::messages_like(Operation::Messages, body),
    ];
    for call in calls.into_iter().flatten() {
        let _ = dialect::conversation(&call);
        let _ = openai::text_bytes(&call.model);
    }
}

/// A form whose boundary is `b`.
pub fn form(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let content_type = "multipart/form-data; boundary=b";
    let Ok(fields) = Fields::parse(content_type, &bytes) else { return };
    let Ok(Some(model)) = fields.text("model") else { return };
    assert!(fields.with("model", model) == bytes, "everything else stays as it was");
    let changed = fields.with("model", "other");
    let again = Fields::parse(content_type, &changed);
    let model = again.as_ref().ok().and_then(|fields| fields.text("model").ok().flatten());
    assert!(model == Some("other"), "what is written is read again");
}

/// A stream of server-sent events, in portions as long as the first byte says.
pub fn events(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let mut decoder = sse::Decoder::default();
    let mut raw = Vec::new();
    for portion in bytes.chunks(usize::from(*size).max(1)) {
        decoder.push(portion);
        while let Ok(Some(event)) = decoder.next_event() {
            raw.extend_from_slice(&event.raw);
        }
    }
    raw.extend(decoder.finish().iter().flat_map(|event| event.raw.to_vec()));
    assert!(raw == bytes, "every byte is part of an event");
}

/// What an OpenAI-compatible provider answers to chat.
pub fn openai_chat(bytes: &[u8]) {
    answer(bytes, || Box::new(Native::new(true)));
}

/// What it answers to anything else.
pub fn openai_other(bytes: &[u8]) {
    let Ok(body) = JsonBody::parse(Bytes::from_static(br#"{"model":"m","input":"x"}"#)) else {
        return;
    };
    let Ok(call) = openai::response(body) else { return };
    answer(bytes, || Box::new(Events::new(&call)));
}

/// What it answers to callers of other dialects.
pub fn openai_translated(bytes: &[u8]) {
    let body =
        br#"{"model":"m","max_tokens":1,"input":"x","messages":[{"role":"user","content":"x"}]}"#;
    let Ok(body) = JsonBody::parse(Bytes::from_static(body)) else { return };
    let calls = [
        openai::response(body.clone()),
        dialect::anthropic::messages_like(Operation::Messages, body),
    ];
    for call in calls.into_iter().flatten() {
        if dialect::encoder(&call).is_none() {
            continue;
        }
        answer(bytes, || {
            let decoder = Box::new(ChatDecoder::new(Some("delta.reasoning"), true));
            // Asked for above.
            match dialect::encoder(&call) {
                Some(encoder) => Box::new(Translation::new(decoder, encoder)),
                None => Box::new(Native::new(true)),
            }
        });
    }
}

/// An answer: as a whole, as an error, and as a stream in portions as long as the first byte says.
fn answer(bytes: &[u8], reading: impl Fn() -> Box<dyn Reading>) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let _ = reading().error(bytes);
    let _ = reading().whole(Bytes::copy_from_slice(bytes), &mut Seen::default());
    let (mut reading, mut seen, mut out) = (reading(), Seen::default(), BytesMut::new());
    for portion in bytes.chunks(usize::from(*size).max(1)) {
        match reading.portion(portion, &mut seen, &mut out) {
            Ok(Progress::More) => {}
            Ok(Progress::Done) | Err(_) => return,
        }
    }
    let _ = reading.end(&mut seen, &mut out);
}

/// Headers, a line each.
pub fn headers(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(0));
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    request::look_at(&headers);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that get further than random ones.
    const SEEDS: [&str; 10] = [
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"input\":[{\"role\":\"user\",\"content\":\"x\"}]}",
        "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--",
        "\x05data: {\"choices\":[{\"delta\":{\"content\":\"a\",\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\ndata: [DONE]\n\n",
        "\x07data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1}}}\r\n\r\n",
        "\x01{\"id\":\"c\",\"choices\":[{\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1}}",
        "\x03event: error\ndata: {\"error\":{\"message\":\"m\",\"code\":429}}\n\n",
        "authorization: Bearer a.b.c\nx-forwarded-for: 1.2.3.4, ::1\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "connection: close, x-a\nx-a: 1\nhost: a:b:c",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nxPOST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nxyPOST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        "PUT /a HTTP/1.1\ntransfer-encoding: chunked\n\n3;x\r\nabc\r\n0\r\na: b\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    ];

    #[test]
    fn every_seed_is_survived_whole_and_cut_anywhere() {
        for (_, target) in TARGETS {
            for seed in SEEDS {
                for end in 0..=seed.len() {
                    target(&seed.as_bytes()[..end]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_harm_a_worker(
            bytes: Vec<u8>,
            seed in prop::sample::select(SEEDS.to_vec()),
            at: prop::sample::Index,
            other: u8,
        ) {
            let mut changed = seed.as_bytes().to_vec();
            let at = at.index(changed.len());
            changed[at] = other;
            for (_, target) in TARGETS {
                target(&bytes);
                target(&changed);
            }
        }
    }
}
