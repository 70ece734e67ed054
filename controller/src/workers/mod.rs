//! The workers of a job, as its supervisor has them: who there is, the session with each, and who plans.

pub mod planner;
pub(crate) mod roster;
pub mod session;
pub(crate) mod traffic;
pub mod wire;
