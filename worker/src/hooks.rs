//! Where a test program watches a worker at work, to die of what it sees. Nothing is installed in `aisix-worker`.

use std::sync::OnceLock;

use shared::resource::{Model, Resource};
use shared::update::Change;

/// What is called when.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// A resource is about to be put in force.
    pub applying: fn(&Resource),
    /// A request is about to be served by this model.
    pub serving: fn(&Model),
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Installs the hooks of this process, before its role runs.
pub fn install(hooks: Hooks) {
    let _ = HOOKS.set(hooks);
}

pub(crate) fn applying(change: &Change) {
    if let (Some(hooks), Change::Put(resource)) = (HOOKS.get(), change) {
        (hooks.applying)(resource);
    }
}

pub(crate) fn serving(model: &Model) {
    if let Some(hooks) = HOOKS.get() {
        (hooks.serving)(model);
    }
}
