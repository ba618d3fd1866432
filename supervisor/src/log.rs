//! The supervisor's log: text on standard error, coloured on a terminal only.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

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
    let (source_name, directives) = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => ("RUST_LOG", directives),
        _ => ("observability.log_level", configured.to_owned()),
    };
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| FilterError { source_name, reason: error.to_string() })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // Fails only if there is one already, which then goes on.
    let _ = subscriber.try_init();
    Ok(directives)
}
