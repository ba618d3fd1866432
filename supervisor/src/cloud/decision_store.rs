//! Where budget decisions are kept over a restart: bytes by the id of the caller key.

/// Keeps budget decisions. What is stored may be lost with the power, or if the disk refuses.
pub trait DecisionStore: Send + Sync {
    /// Everything that is kept.
    fn load(&self) -> Vec<(String, Vec<u8>)>;

    /// Replaces (`Some`) or removes (`None`) what is kept of these keys. Does not wait for the disk.
    fn store(&self, changes: Vec<(String, Option<Vec<u8>>)>);
}

/// Keeps nothing: a start begins without decisions.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl DecisionStore for Nowhere {
    fn load(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }

    fn store(&self, _: Vec<(String, Option<Vec<u8>>)>) {}
}
