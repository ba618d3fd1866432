//! Worker processes as the kernel sees them: started confined, watched until they end, looked at from outside; and our own.

pub mod exit;
pub mod identity;
pub mod inspect;
pub mod launch;
mod limits;
pub mod own;
pub mod reap;
pub mod signals;
mod sys;
pub mod usage;
mod view;

pub use self::view::View;
pub use sys::{
    TcpFacts, forget_program, inherited, inherited_from_manager, keep_over_exec, kill,
    landlock_version, pass_on, process_descriptor, reserve_descriptors, tcp_facts,
};
