//! What is written and asks for something that this build does not do. It is refused at the start, so that nobody relies
//! on what does not happen. What has nothing to act on is checked all the same, as published.

use super::error::Problem;
use super::observability::edges;
use super::raw::Raw;

/// Everything of that kind.
pub fn find(raw: &Raw) -> Vec<Problem> {
    admin(raw).into_iter().chain(unusable(raw).err()).collect()
}

/// In managed mode there is no admin listener, whatever is written, as published. Elsewhere whoever asks for one must know
/// that there is none.
fn admin(raw: &Raw) -> Option<Problem> {
    const REASON: &str =
        "this build has no admin interface; set admin.enabled to false or remove the block";
    let enabled = raw.flag("admin.enabled");
    if raw.flag("managed.enabled") || !enabled {
        return None;
    }
    // Port 0 is the default, and nobody could find the listener there.
    let has_port = |text: &str| !text.ends_with(":0");
    let asked = raw.is_written("admin.enabled").then_some("admin.enabled");
    let addressed = raw.text("admin.addr").is_some_and(has_port).then_some("admin.addr");
    let tls = raw.text("admin.tls.cert_file").map(|_| "admin.tls.cert_file");
    let key = asked.or(addressed).or(tls)?;
    Some(Problem::Refused { key, origin: raw.origin(key), reason: REASON })
}

fn unusable(raw: &Raw) -> Result<(), Problem> {
    edges(raw, "observability.metrics.buckets.a2a_ttfb")?;
    const RATIO: &str = "observability.tracing.otlp.sample_ratio";
    match raw.number(RATIO) {
        Some(ratio) if !(0.0..=1.0).contains(&ratio) => {
            Err(raw.problem(RATIO, format!("must be between 0 and 1, found {ratio}")))
        }
        _ => Ok(()),
    }
}
