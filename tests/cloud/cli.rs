//! The command line.

use crate::environment;
use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

/// A local stand-in for AISIX Cloud, for evaluation and tests: never for production.
///
/// It issues certificate bundles and serves what a managed gateway needs: the manager API and the etcd API over mutual
/// TLS on one port. It keeps everything it learns, without limit, in its data folder.
#[derive(Parser)]
#[command(name = "aisix-cloud", version, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Issue a certificate bundle for a gateway: client.crt, client.key, ca.crt.
    Issue(IssueArgs),
    /// Serve the manager API, the etcd API and the view until SIGTERM or SIGINT.
    Serve(ServeArgs),
}

/// Arguments of `issue`.
#[derive(Args)]
pub struct IssueArgs {
    /// The folder with the certificate authority, which is made on first use.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The environment that the gateway belongs to.
    #[arg(long, value_name = "UUID", value_parser = environment::uuid)]
    pub env: String,
    /// The identity of the data plane [default: a random one].
    #[arg(long, value_name = "UUID", value_parser = environment::uuid)]
    pub dp: Option<String>,
    /// The folder that the bundle is written to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long the certificate is valid.
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// The Cloud manager URL to print among the gateway's settings.
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:7944")]
    pub manager: String,
}

/// Arguments of `serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// The folder with the certificate authority and everything reported.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where gateways connect; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7944")]
    pub listen: SocketAddr,
    /// Where people and tests look: plain HTTP, so loopback only.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7945")]
    pub view: SocketAddr,
    /// Where the resources come from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// The prefix of all keys: resources lie at PREFIX/ENV/KIND/ID.
    #[arg(long, default_value = "/aisix")]
    pub prefix: String,
    /// A further host name or address for the server certificate; may be repeated.
    #[arg(long = "server-name", value_name = "NAME")]
    pub server_names: Vec<String>,
    /// How long a certificate renewed over /dp/rotate-cert is valid.
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// Where the resources come from: exactly one of the two.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct SourceArgs {
    /// A YAML file, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// A real etcd, over plain http.
    #[arg(long, value_name = "URL")]
    pub etcd: Option<String>,
}

/// The command line, or its usage error with status 2.
pub fn parse() -> Command {
    Cli::parse().command
}
