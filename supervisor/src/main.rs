//! `aisix`: arguments → settings → parts → supervisor → exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    supervisor::start::main()
}
