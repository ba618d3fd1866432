//! Waiting for facts.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long a fact may take before it counts as never: far above anything that is promised, so that a slow machine fails
/// no test.
pub const HANG: Duration = Duration::from_secs(60);

/// How long between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks again and again until the fact holds. `look` answers with the fact, or with what it saw instead.
///
/// # Panics
/// After [`HANG`], with what was awaited and what was seen last.
pub async fn until<T, E: Display>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    match up_to(HANG, look).await {
        Ok(fact) => fact,
        Err(seen) => panic!("waited {} s until {what}; last seen: {seen}", HANG.as_secs()),
    }
}

/// The same for so long at most; then with what was seen last.
pub async fn up_to<T, E>(
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(fact) => return Ok(fact),
            Err(seen) if start.elapsed() > limit => return Err(seen),
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// The future's result, which must come before [`HANG`].
///
/// # Panics
/// If it does not.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, future).await {
        Ok(result) => result,
        Err(_) => panic!("waited {} s until {what}", HANG.as_secs()),
    }
}
