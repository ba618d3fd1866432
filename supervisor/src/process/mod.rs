//! Worker processes as the kernel sees them: started confined, watched until they end, looked at from outside; and our own.

pub mod exit;
pub mod identity;
pub mod inspect;
pub mod launch;
mod limits;
pub mod own;
mod sys;

pub use sys::{kill, reserve_descriptors};
