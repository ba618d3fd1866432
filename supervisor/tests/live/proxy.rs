//! A network that can be cut, or go silent: passes connections on while it is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// How often what is held looks whether it still is.
const LOOK: Duration = Duration::from_millis(5);

pub struct Proxy {
    pub port: u16,
    network: Arc<Network>,
}

struct Network {
    whole: AtomicBool,
    cut: Notify,
    silent: AtomicBool,
    /// Bytes that went to clients so far.
    answered: AtomicUsize,
    /// With so many bytes answered, nothing more of clients is passed on.
    hold_after: AtomicUsize,
}

impl Proxy {
    /// Passes connections on to `port` of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = Arc::new(Network {
            whole: AtomicBool::new(true),
            cut: Notify::new(),
            silent: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            hold_after: AtomicUsize::new(usize::MAX),
        });
        let proxy =
            Self { port: listener.local_addr().unwrap().port(), network: Arc::clone(&network) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let network = Arc::clone(&network);
                if network.whole.load(Ordering::SeqCst) {
                    tokio::spawn(async move {
                        let cut = network.cut.notified();
                        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                            return;
                        };
                        let ((from_client, to_client), (from_server, to_server)) =
                            (client.into_split(), server.into_split());
                        tokio::select! {
                            () = network.pass(from_client, to_server, true) => {}
                            () = network.pass(from_server, to_client, false) => {}
                            () = cut => {}
                        }
                    });
                }
            }
        });
        proxy
    }

    /// Ends every connection and lets none through.
    pub fn cut(&self) {
        self.network.whole.store(false, Ordering::SeqCst);
        self.network.cut.notify_waiters();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.network.whole.store(true, Ordering::SeqCst);
    }

    /// Whether everything that is sent disappears, while connections stay.
    pub fn silence(&self, silent: bool) {
        self.network.silent.store(silent, Ordering::SeqCst);
    }

    /// Holds back what clients send once they were answered with so many bytes.
    pub fn hold_after(&self, bytes: usize) {
        self.network.hold_after.store(bytes, Ordering::SeqCst);
    }

    /// Bytes that went to clients so far.
    pub fn answered(&self) -> usize {
        self.network.answered.load(Ordering::SeqCst)
    }
}

impl Network {
    async fn pass(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, of_client: bool) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            while of_client
                && self.answered.load(Ordering::SeqCst) >= self.hold_after.load(Ordering::SeqCst)
            {
                tokio::time::sleep(LOOK).await;
            }
            if self.silent.load(Ordering::SeqCst) {
                continue;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            if !of_client {
                self.answered.fetch_add(read, Ordering::SeqCst);
            }
        }
    }
}
