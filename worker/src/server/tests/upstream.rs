//! An upstream that does, connection by connection and byte by byte, what a test says.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// One thing that the upstream does in answer to a request.
#[derive(Clone)]
pub(super) enum Step {
    /// Sends bytes as they are.
    Send(String),
    /// Sends a chunk of a chunked body; an empty one ends it.
    Chunk(String),
    /// Waits to be told to go on.
    Wait(Rc<Notify>),
    /// Waits until the other side has gone.
    AwaitEnd,
    /// Closes the connection.
    Close,
}

pub(super) struct Upstream {
    pub address: SocketAddr,
    /// Told whenever the other side has gone.
    pub gone: Rc<Notify>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    connections: Cell<usize>,
    requests: RefCell<Vec<Heard>>,
    scripts: RefCell<VecDeque<Vec<Step>>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub head: String,
    pub body: String,
}

impl Upstream {
    /// An upstream that answers the first request as the first script says, and so on.
    pub async fn start(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Rc::new(State::default());
        state.scripts.borrow_mut().extend(scripts);
        let gone = Rc::new(Notify::new());
        let upstream = Self { address, gone, state };
        let (state, gone) = (upstream.state.clone(), upstream.gone.clone());
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                state.connections.set(state.connections.get() + 1);
                tokio::task::spawn_local(answer(stream, state.clone(), gone.clone()));
            }
        });
        upstream
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.connections.get()
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.state.requests.borrow().clone()
    }

    /// Serves one connection that something else has accepted.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        answer(stream, self.state.clone(), self.gone.clone()).await;
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: Rc<State>,
    gone: Rc<Notify>,
) {
    while let Some(heard) = read_request(&mut stream).await {
        state.requests.borrow_mut().push(heard);
        let script = state.scripts.borrow_mut().pop_front().expect("a request without a script");
        for step in script {
            let sent = match step {
                Step::Send(bytes) => stream.write_all(bytes.as_bytes()).await,
                Step::Chunk(bytes) => {
                    let chunk = format!("{:x}\r\n{bytes}\r\n", bytes.len());
                    stream.write_all(chunk.as_bytes()).await
                }
                Step::Wait(notify) => {
                    notify.notified().await;
                    Ok(())
                }
                Step::AwaitEnd => {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    return gone.notify_one();
                }
                Step::Close => return,
            };
            if sent.and(stream.flush().await).is_err() {
                return gone.notify_one();
            }
        }
    }
    gone.notify_one();
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Heard> {
    let mut read = Vec::new();
    let head_end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(read[..head_end].to_vec()).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.unwrap().parse().unwrap();
    while read.len() < head_end + length {
        stream.read_buf(&mut read).await.ok()?;
    }
    Some(Heard { head, body: String::from_utf8(read[head_end..].to_vec()).unwrap() })
}

/// An answer of that status with a JSON body.
pub(super) fn json(status: &str, body: &str) -> Vec<Step> {
    with_headers(status, "content-type: application/json\r\n", body)
}

/// An answer with these header lines beside its length.
pub(super) fn with_headers(status: &str, headers: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    vec![Step::Send(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ))]
}

/// The head of a stream.
pub(super) fn stream_head() -> Step {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    Step::Send(head.to_owned())
}

/// A stream of these chunks, ended as it should be.
pub(super) fn stream(chunks: &[&str]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(chunks.iter().map(|chunk| Step::Chunk((*chunk).to_owned())));
    steps.push(Step::Chunk(String::new()));
    steps
}
