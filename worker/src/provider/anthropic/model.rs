//! What a model's name tells of it. As documented at <https://docs.anthropic.com/en/docs/about-claude/models/overview>.

/// Version of a Claude model, such as 4.5; `None` if the name is not made like theirs.
pub fn version(name: &str) -> Option<(u32, u32)> {
    let (_, rest) = name.split_once("claude-")?;
    let mut numbers = rest.split(['-', '.', '@', ':']).map(|piece| piece.parse::<u32>().ok());
    let major = numbers.by_ref().find_map(|number| number)?;
    // What is longer is a date.
    let minor = numbers.next().flatten().filter(|minor| *minor < 100);
    Some((major, minor.unwrap_or(0)))
}

/// Most tokens of an answer where the caller names no limit, which Anthropic wants to be told: as many as every model of the
/// generation allows, so that no answer ends early for want of a number.
pub fn max_tokens(name: &str) -> u64 {
    match version(name) {
        Some(version) if version >= (3, 7) => 32_000,
        Some(version) if version < (3, 5) => 4096,
        _ => 8192,
    }
}

/// Whether the model only thinks as much as it sees fit, and takes no measures of randomness: so since 4.7.
pub fn is_adaptive(name: &str) -> bool {
    version(name).is_some_and(|version| version >= (4, 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_no_version() {
        assert_eq!(version("claude-3-5-sonnet-20241022"), Some((3, 5)));
        assert_eq!(version("claude-3-haiku-20240307"), Some((3, 0)));
        assert_eq!(version("claude-sonnet-4-20250514"), Some((4, 0)));
        assert_eq!(version("anthropic/claude-opus-4.7"), Some((4, 7)));
        assert_eq!(version("claude-opus-5"), Some((5, 0)));
        assert_eq!(version("claude-instant"), None);
        assert_eq!(version("deepseek-chat"), None);
    }

    #[test]
    fn the_limit_is_what_the_generation_allows() {
        assert_eq!(max_tokens("claude-3-opus-20240229"), 4096);
        assert_eq!(max_tokens("claude-3-5-haiku-latest"), 8192);
        assert_eq!(max_tokens("claude-sonnet-4-5"), 32_000);
        assert_eq!(max_tokens("another"), 8192);
        assert!(is_adaptive("claude-opus-4-7"));
        assert!(!is_adaptive("claude-opus-4-20250514"));
    }
}
