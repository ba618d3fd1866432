//! The load: callers that cost next to nothing, as raw bytes over epoll, on one thread.
//!
//! Anything but a complete answer of status 200 ends a load with an error: its round is void.

mod arrival;
mod large;
mod streams;
mod whole;

use std::net::SocketAddr;

pub use large::large;
pub use streams::{Progress, Streaming};
pub use whole::{Whole, whole};

/// The model that callers ask for.
pub const MODEL: &str = "bench-model";

/// Whom to ask, and with which key.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The caller's key.
    pub key: String,
}

impl Target {
    /// The bytes of a request with that body.
    pub fn request(&self, body: &str) -> Vec<u8> {
        let (address, key, length) = (self.address, &self.key, body.len());
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\nuser-agent: bench\r\naccept: */*\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// A request for one whole answer.
    pub fn whole_request(&self) -> Vec<u8> {
        self.request(&format!(
            r#"{{"model":"{MODEL}","messages":[{{"role":"system","content":"You are a helpful assistant."}},{{"role":"user","content":"Tell me something about a fox and a dog, in one sentence."}}],"temperature":0.7,"max_tokens":64}}"#
        ))
    }

    /// A request for a stream of so many events.
    pub fn stream_request(&self, events: u64) -> Vec<u8> {
        self.request(&format!(
            r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"Count."}}],"stream":true,"stream_options":{{"include_usage":true}},"max_tokens":{events}}}"#
        ))
    }
}
