//! A network that can be cut: passes connections on while it is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub struct Proxy {
    pub port: u16,
    whole: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Proxy {
    /// Passes connections on to `port` of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            whole: Arc::new(AtomicBool::new(true)),
            cut: Arc::new(Notify::new()),
        };
        let (whole, cut) = (Arc::clone(&proxy.whole), Arc::clone(&proxy.cut));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let cut = Arc::clone(&cut);
                if whole.load(Ordering::SeqCst) {
                    tokio::spawn(async move {
                        let cut = cut.notified();
                        let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
                            return;
                        };
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => {}
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
        self.whole.store(false, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.whole.store(true, Ordering::SeqCst);
    }
}
