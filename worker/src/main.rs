//! `aisix-worker ROLE ID SANDBOX [tls]`: started by `aisix`, never by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::run::main()
}
