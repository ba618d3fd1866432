//! What a connection costs more through egress than directly: figures for people. Egress runs in a thread of its own, with
//! its own runtime, at the other end of the same kind of socket as in the gateway.
//!
//! ```console
//! $ cargo run --release -p worker --example egress_cost [CONNECTIONS]
//! ```

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use shared::channel;
use shared::dial::{Destination, Dial};
use shared::egress::{Change, Entry, Key, Origin, client};
use shared::id::WorkerId;
use shared::message::Client;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use worker::egress::Egress;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
    println!("{what}: mean {mean:?}, median {:?}, p99 {:?}", at(0.5), at(0.99));
}

fn main() {
    let count: usize =
        std::env::args().nth(1).map_or(5_000, |text| text.parse().expect("a number"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(drop));

    let (ours, theirs) = channel::pair().expect("a channel");
    thread::spawn(move || {
        LocalSet::new().block_on(&runtime(), async {
            let egress = Egress::new(5_000).expect("egress");
            let entry = Entry { host: "127.0.0.1".to_owned(), port, origin: Origin::Projection };
            egress.destinations(true, vec![Change::Put(Key::provider("p"), entry)]);
            tokio::task::spawn_local(egress.serve(Client::Worker(WorkerId(1)), theirs));
            std::future::pending::<()>().await;
        });
    });

    LocalSet::new().block_on(&runtime(), async {
        let (dial, driver) = client::new(Duration::from_secs(1));
        tokio::task::spawn_local(driver.run());
        dial.reached_over(ours);
        let destination =
            Destination { key: Key::provider("p"), host: "127.0.0.1".to_owned(), port };
        for round in 0..2 {
            let (mut direct, mut through) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let begun = Instant::now();
                drop(TcpStream::connect(("127.0.0.1", port)).await.expect("a connection"));
                direct.push(begun.elapsed());
                let begun = Instant::now();
                drop(dial.dial(&destination).await.expect("a connection"));
                through.push(begun.elapsed());
            }
            // The first round warms up.
            if round == 1 {
                tell("directly      ", direct);
                tell("through egress", through);
            }
        }
    });
}
