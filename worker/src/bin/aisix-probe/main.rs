//! `aisix-probe`: a worker that has been taken over, for tests. Never packaged.
//!
//! Started like `aisix-worker`, by the real launcher, with the same descriptors, and locked in by the same code. What it
//! then does depends on the name of its file:
//!
//! - `aisix-probe` reads from the control socket which attempt at an escape to make, makes it, and answers with what came
//!   of it, see [`stage`] and [`attempts`];
//! - `hostile-worker` is a worker of the gateway that turns against its supervisor, if its number says so, see [`hostile`].

mod attempts;
mod hostile;
mod stage;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let own = std::env::current_exe().unwrap_or_default();
    let done = if own.file_name().is_some_and(|name| name == "hostile-worker") {
        hostile::run()
    } else {
        stage::run()
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aisix-probe: {error}");
            ExitCode::FAILURE
        }
    }
}
