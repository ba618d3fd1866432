//! One caller with a prompt of megabytes, asked again and again over one connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{MODEL, Target};
use crate::clock;
use crate::wire::{Part, Reader, Side};

/// How long it may take to send a piece or to wait for the answer.
const TIME_MAX: Duration = Duration::from_secs(30);

/// What the caller has seen.
#[derive(Debug, Default)]
pub struct Large {
    /// From the first byte of a request to the end of its answer, in nanoseconds, for each.
    pub latencies: Vec<u32>,
}

/// Asks so many times with a prompt of so many bytes.
pub fn large(target: &Target, bytes: usize, times: usize) -> Result<Large, String> {
    let words = "the quick brown fox jumps over the lazy dog ".repeat(bytes / 44 + 1);
    let prompt = words.get(..bytes).unwrap_or_default();
    let request = target.request(&format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    ));
    drop(words);
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let mut stream = TcpStream::connect(target.address).map_err(|it| failed("connect", &it))?;
    stream.set_nodelay(true).map_err(|it| failed("TCP_NODELAY", &it))?;
    let limits = stream.set_read_timeout(Some(TIME_MAX));
    limits
        .and_then(|()| stream.set_write_timeout(Some(TIME_MAX)))
        .map_err(|it| failed("limit", &it))?;
    let mut seen = Large::default();
    let mut reader = Reader::new(Side::Answers);
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..times {
        let asked = clock::now();
        stream.write_all(&request).map_err(|it| failed("a large request was not taken", &it))?;
        let (mut refused, mut is_complete) = (None, false);
        while !is_complete {
            let size = stream.read(&mut buffer).map_err(|it| failed("no answer", &it))?;
            if size == 0 {
                return Err("the connection was closed before the answer was complete".into());
            }
            let fed = reader.feed(&buffer[..size], |part| match part {
                Part::Head(head) if head.status() != 200 => refused = Some(head.first_line()),
                Part::Head(_) | Part::Body(_) => {}
                Part::End => is_complete = true,
            });
            fed.map_err(|error| error.to_string())?;
            if let Some(refused) = refused.take() {
                return Err(refused);
            }
        }
        seen.latencies.push(u32::try_from(clock::now() - asked).unwrap_or(u32::MAX));
    }
    Ok(seen)
}
