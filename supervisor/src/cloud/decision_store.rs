//! Where budget decisions outlive the process.

/// Keeps decisions as opaque bytes by the id of their api key, without ever holding up its caller for the disk.
pub trait DecisionStore {
    /// What was kept by the run before.
    fn load(&self) -> Vec<(String, Vec<u8>)>;
    /// Keeps these; `None` forgets one. Written later, in groups.
    fn store(&self, changes: Vec<(String, Option<Vec<u8>>)>);
}
