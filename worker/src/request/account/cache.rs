//! What the cache had to do with a request.

/// What became of it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// A kept answer was given.
    Hit,
    /// There was none.
    Miss,
    /// The caller did not want one.
    Bypass,
    /// A policy asks for a cache that is not configured.
    Disabled,
}

impl CacheStatus {
    /// The word for it in headers and usage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Disabled => "disabled",
        }
    }
}
