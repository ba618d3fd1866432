//! The supervisor's log: text on standard error, coloured on a terminal only.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// Puts another filter in force.
type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// A filter that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{source_name} is not a log filter such as info or supervisor=debug,info: {reason}")]
pub struct FilterError {
    source_name: &'static str,
    reason: String,
}

/// Starts logging. `RUST_LOG`, if set, counts more than the configured directives. Returns the directives in force, which
/// workers are told.
pub fn start(configured: &str) -> Result<String, FilterError> {
    let (filter, directives) = filter(configured)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    // Fails only if there is one already, which then goes on.
    if subscriber.try_init().is_ok() {
        let _ = CHANGE.set(Box::new(move |filter| drop(handle.reload(filter))));
    }
    Ok(directives)
}

/// Puts other directives in force. Returns those that are then.
pub fn change(configured: &str) -> Result<String, FilterError> {
    let (filter, directives) = filter(configured)?;
    if let Some(change) = CHANGE.get() {
        change(filter);
    }
    Ok(directives)
}

fn filter(configured: &str) -> Result<(EnvFilter, String), FilterError> {
    let (source_name, directives) = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => ("RUST_LOG", directives),
        _ => ("observability.log_level", configured.to_owned()),
    };
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| FilterError { source_name, reason: error.to_string() })?;
    Ok((filter, directives))
}
