//! What is logged: directives such as `info` or `supervisor=debug,info`.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Levels that a directive may name.
const LEVELS: &str = "error, warn, info, debug, trace or off";

/// Directives that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{source_name} is not a log filter such as info or supervisor=debug,info: {reason}")]
pub struct FilterError {
    source_name: &'static str,
    reason: String,
}

/// What is configured. `RUST_LOG`, if set, counts more.
pub(super) fn configured(configured: &str) -> Result<(EnvFilter, String), FilterError> {
    match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => parsed("RUST_LOG", directives),
        _ => parsed("observability.log_level", configured.to_owned()),
    }
}

/// What an operator asks for while the gateway runs. Where no level is given for everything, that of the configuration stays.
pub(super) fn ordered(ordered: &str, configured: &str) -> Result<(EnvFilter, String), FilterError> {
    let name = "the filter";
    let failed = |reason| FilterError { source_name: name, reason };
    let wanted: Vec<_> = ordered.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    if wanted.is_empty() {
        return Err(failed(format!("it is empty; name a level: {LEVELS}")));
    }
    if let Some(word) = misspelt(ordered) {
        return Err(failed(word));
    }
    let general = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives,
        _ => configured.to_owned(),
    };
    let general = general.split(',').map(str::trim).rfind(|word| is_level(word));
    let kept = general.filter(|_| !wanted.iter().any(|word| is_level(word)));
    parsed(name, kept.into_iter().chain(wanted).collect::<Vec<_>>().join(","))
}

/// Whether a configured filter can be understood, else why not.
pub(crate) fn understood(directives: &str) -> Result<(), String> {
    if let Some(reason) = misspelt(directives) {
        return Err(reason);
    }
    EnvFilter::builder().parse(directives).map(drop).map_err(|error| error.to_string())
}

/// A word that is no level would be taken for a target, and hide every line of all others: it is a slip of the pen.
fn misspelt(directives: &str) -> Option<String> {
    let mut words = directives.split(',').map(str::trim).filter(|word| !word.is_empty());
    let word = words.find(|word| !is_level(word) && !word.contains(['=', '[']))?;
    Some(format!("{word:?} is no level ({LEVELS}), nor TARGET=LEVEL such as worker=debug"))
}

/// Whether the lines of requests are hidden by a filter.
pub(super) fn hides_requests(filter: &EnvFilter) -> bool {
    filter.max_level_hint().is_some_and(|most| most < LevelFilter::INFO)
}

fn is_level(word: &str) -> bool {
    word.parse::<LevelFilter>().is_ok()
}

fn parsed(
    source_name: &'static str,
    directives: String,
) -> Result<(EnvFilter, String), FilterError> {
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| FilterError { source_name, reason: error.to_string() })?;
    Ok((filter, directives))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_word_that_is_no_level_is_a_slip_of_the_pen() {
        for fine in
            ["info", "OFF", "supervisor=debug,info", "warn,worker=trace", "", "[call]=debug"]
        {
            assert_eq!(understood(fine), Ok(()), "{fine}");
        }
        for wrong in ["shout", "information", "info,worker", "worker=loud"] {
            assert!(understood(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_an_order_leaves_open_stays_as_configured() {
        for (wanted, expected) in [
            ("debug", "debug"),
            ("worker=debug", "info,worker=debug"),
            (" worker=debug , warn", "worker=debug,warn"),
            ("off", "off"),
        ] {
            assert_eq!(ordered(wanted, "supervisor=warn,info").unwrap().1, expected);
        }
        // Nothing is configured for everything.
        assert_eq!(ordered("worker=debug", "supervisor=warn").unwrap().1, "worker=debug");
    }

    #[test]
    fn a_slip_of_the_pen_is_refused_with_the_reason() {
        for (wrong, reason) in [
            ("", "it is empty"),
            (" ,", "it is empty"),
            ("debgu", "\"debgu\" is no level"),
            ("info,worker", "\"worker\" is no level"),
            ("worker=debgu", "parsing level filter"),
        ] {
            let error = ordered(wrong, "info").unwrap_err().to_string();
            assert!(error.contains(reason), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn it_is_known_when_requests_are_hidden() {
        for (wanted, hidden) in [("warn", true), ("off", true), ("info", false), ("a=debug", false)]
        {
            assert_eq!(hides_requests(&ordered(wanted, "info").unwrap().0), hidden, "{wanted}");
        }
    }
}
