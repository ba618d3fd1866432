//! `aisix-upstream`: the small model upstream as a program of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use harness::provider::{KEY, Upstream};

/// A small OpenAI-compatible model upstream, for evaluation and tests.
#[derive(Parser)]
#[command(name = "aisix-upstream", version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// The credential that callers must present.
    #[arg(long, default_value = KEY)]
    key: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Upstream::start(arguments.listen, &arguments.key).await {
        Ok(upstream) => {
            println!("listening on {}", upstream.address());
            upstream.join().await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot listen on {}: {error}", arguments.listen);
            ExitCode::FAILURE
        }
    }
}
