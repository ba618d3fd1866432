//! Any other gateway, by the command that starts it.

use std::error::Error;
use std::net::SocketAddr;
use std::process::Command;

use harness::port;

use super::{CALLER_KEY, Peer, Tree};
use crate::load::MODEL;
use crate::upstream::KEY;

/// What a start command is told, for the help of the program.
pub const CONVENTION: &str = "\
Another gateway: --other 'NAME=COMMAND'. The command is run by sh, on core 0, and stays in the foreground; what it prints goes to
a file. In it are replaced:
  {address}       127.0.0.1:PORT where it has to listen, and {port}
  {upstream}      http://127.0.0.1:PORT/v1, the provider's base URL, of OpenAI's protocol; {upstream_address} without the rest
  {caller_key}    the key that callers send as `Authorization: Bearer`
  {provider_key}  the key that the provider wants in its place
  {model}         the name that callers ask for; the provider takes any
  {folder}        an empty folder that is deleted afterwards
It is asked `POST /v1/chat/completions` over connections that are kept, and has to answer 200 within a minute of its start.";

/// Another gateway, as it was named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    name: String,
    command: String,
}

impl std::str::FromStr for Other {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => {
                Ok(Self { name: name.to_owned(), command: command.to_owned() })
            }
            _ => Err("must be NAME=COMMAND".into()),
        }
    }
}

impl Other {
    /// Its name in the report.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it.
    pub fn start(&self, upstream: SocketAddr) -> Result<Peer, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let address = port::reserve();
        let script = self.script(address, upstream, &folder.path().display().to_string());
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).current_dir(folder.path());
        let tree = Tree::start(&self.name, command, folder)?;
        Ok(tree.into_peer(&self.name, address))
    }

    fn script(&self, address: SocketAddr, upstream: SocketAddr, folder: &str) -> String {
        self.command
            .replace("{address}", &address.to_string())
            .replace("{port}", &address.port().to_string())
            .replace("{upstream}", &format!("http://{upstream}/v1"))
            .replace("{upstream_address}", &upstream.to_string())
            .replace("{caller_key}", CALLER_KEY)
            .replace("{provider_key}", KEY)
            .replace("{model}", MODEL)
            .replace("{folder}", folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_command_is_told_everything_it_asks_for() {
        let other: Other =
            "x=run --port {port} --to {upstream} -d {folder} --a b=c".parse().unwrap();
        let (address, upstream) = ("127.0.0.1:7".parse().unwrap(), "127.0.0.1:9".parse().unwrap());
        assert_eq!(other.name, "x");
        let expected = "run --port 7 --to http://127.0.0.1:9/v1 -d /f --a b=c";
        assert_eq!(other.script(address, upstream, "/f"), expected);
    }

    #[test]
    fn a_name_and_a_command_are_needed() {
        for text in ["", "x", "x=", "=run", "x= "] {
            assert!(text.parse::<Other>().is_err(), "{text}");
        }
    }
}
