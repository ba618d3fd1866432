//! `aisix-fragile-worker`: a worker for tests, never packaged. It is `aisix-worker` in every respect, except that it dies or
//! hangs of models whose display name begins with `kills-applying`, `hangs-applying`, `kills-serving` or `hangs-serving`.

use std::process::ExitCode;

use shared::resource::{Model, Resource};
use worker::hooks::{self, Hooks};

fn main() -> ExitCode {
    hooks::install(Hooks {
        applying: |resource| {
            if let Resource::Model(model) = resource {
                suffer(model, "applying");
            }
        },
        serving: |model| suffer(model, "serving"),
    });
    worker::run::main()
}

fn suffer(model: &Model, occasion: &str) {
    let is = |what: &str| model.display_name.starts_with(&format!("{what}-{occasion}"));
    if is("kills") {
        std::process::abort();
    }
    while is("hangs") {
        std::hint::spin_loop();
    }
}
