//! Worker processes as the kernel sees them: started confined, watched until they end, looked at from outside.

pub mod exit;
pub mod identity;
pub mod inspect;
pub mod launch;
mod sys;

pub use sys::{kill, reserve_descriptors};
